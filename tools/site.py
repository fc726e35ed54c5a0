"""A static site of the notebooks, reports, claims and API, built and read without a network.

``python -m tools.site`` takes the committed notebooks, ``--profile NAME`` those that a run of that
profile executed, with its report and verdicts beside the reference's. Formulas are MathML
(:mod:`tools.mathml`); nothing is loaded from elsewhere and nothing needs a script.
"""

import argparse
import base64
import json
import shutil
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.filters import ansi2html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from pygments.formatters import HtmlFormatter

from kappa_lib import paths
from kappa_lib.errors import InputError, KappaError
from kappa_lib.evidence import claims, listing
from kappa_lib.evidence.claims import GROUPS, Claim
from kappa_lib.text import markdown
from tools import api
from tools.site_pages import HERE, Renderer, Site, relative

IMAGES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}


def notebook(site: Site, path: Path, url: str, decided: dict[str, list[str]]) -> None:
    """A page of a notebook as it was saved; each cell can be linked to by its id."""
    cells = nbformat.read(path, as_version=4).cells
    renderer = Renderer(site, url, paths.NOTEBOOKS)
    renderer.anchors = {cell.id for cell in cells}
    render, highlight = MarkdownWithMath(renderer).render, Highlight2HTML()
    body = []
    for cell in cells:
        parts = []
        if cell.cell_type == "code":
            parts.append(highlight(cell.source, "ipython3") if cell.source.strip() else "")
            for output in cell.outputs:
                shown = _output(site, output, url, render, renderer.last_heading)
                parts.append(f'<div class="output">{shown}</div>')
        elif cell.cell_type == "markdown":
            parts.append(render(cell.source))
        for name in decided.get(f"{path.name}#{cell.id}", []):
            target = relative(f"claims/{name}.html", url)
            parts.append(f'<p class="decides">decides the claim <a href="{target}">{name}</a></p>')
        body.append(f'<section id="{cell.id}">{"".join(parts)}</section>')
    site.write(url, _title(path), "\n".join(body))


def _title(path: Path) -> str:
    """The first heading of a notebook, else the name of its file."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ")
    return path.stem


def _output(site: Site, output: Any, url: str, render: Any, heading: str) -> str:
    """What a cell printed or showed, in the richest form that needs no script."""
    if output.output_type == "stream":
        return f"<pre>{ansi2html(output.text)}</pre>"
    if output.output_type == "error":
        return f"<pre>{ansi2html(chr(10).join(output.traceback))}</pre>"
    data = output.data
    for kind, ending in IMAGES.items():
        if kind in data:
            svg = ending == "svg"
            content = data[kind].encode() if svg else base64.b64decode(data[kind])
            folder = url.removesuffix(".html")
            name = f"{folder}/{len(list((site.out / folder).glob('*')))}.{ending}"
            site.save(name, content)
            alt = escape(f"Figure: {heading}", quote=True)
            return f'<img src="{relative(name, url)}" alt="{alt}" loading="lazy">'
    if "text/html" in data:
        return f'<div class="scroll" tabindex="0">{data["text/html"]}</div>'
    if "text/markdown" in data:
        return render(data["text/markdown"])
    return f"<pre>{escape(data.get('text/plain', ''))}</pre>"


def claim_pages(site: Site, runs: dict[str, list[Claim]]) -> None:
    """The table of claims with the first run's verdicts, and a page a claim with every run's."""
    (first, found), *_ = runs.items()
    text = ["# Claims", f"The verdicts are those of {first}; a claim's page has every run's."]
    text.append(listing.tally(found))
    for group in GROUPS:
        rows = [
            [f"[{c.id}]({c.id}.html)", c.place, c.statement, f"**{listing.said(c)}**", c.scale]
            for c in found
            if c.group == group
        ]
        text += [
            f"## {group.capitalize()}",
            markdown(["claim", "place", "it says", "verdict", "scale"], rows),
        ]
    site.write_markdown("claims/index.html", "Claims", "\n\n".join(text))
    for number, claim in enumerate(found):
        versions = {run: loaded[number] for run, loaded in runs.items()}
        site.write_markdown(f"claims/{claim.id}.html", claim.id, _claim(claim, versions))


def _claim(claim: Claim, versions: dict[str, Claim]) -> str:
    name, cell = claim.cell.split("#")
    place = f"../notebooks/{Path(name).stem}.html#{cell}"
    facts = [
        ["place", claim.place],
        ["kind", claim.kind],
        ["scale", claim.scale],
        ["rule", claim.rule],
        ["evidence", claim.evidence],
        ["would be overturned by", claim.overturned_by],
        ["decided in", f"[{claim.cell}]({place})"],
        ["minutes on two cores", claim.minutes],
    ]
    rows = [[run, f"**{listing.said(c)}**", listing.measured(c)] for run, c in versions.items()]
    text = [f"# {claim.id}", f"> {claim.statement}", markdown(["", ""], facts), "## Verdict"]
    text.append(markdown(["run", "verdict", "measured"], rows))
    for run, version in versions.items():
        if version.measured is not None:
            numbers = escape(json.dumps(version.measured, indent=1, ensure_ascii=False))
            told = f"<summary>The recorded numbers of {run}</summary>"
            text.append(f"<details>{told}<pre>{numbers}</pre></details>")
    return "\n\n".join(text)


def build(out: Path, profile: str | None = None) -> None:
    """Write the whole site into the empty folder ``out``.

    Raises:
        InputError: the profile has no executed notebooks, or a link leads nowhere.
    """
    site = Site(out)
    sources = paths.NOTEBOOKS if profile is None else paths.results(profile) / "notebooks"
    books = sorted(sources.glob("[0-9][0-9]_*.ipynb"))
    if not books:
        raise InputError(
            f"{sources}: no notebooks", f"run `bash reproduce.sh --profile {profile}` first"
        )
    references = sorted(
        paths.REFERENCE.glob("*/REPORT.md"), key=lambda path: -len(list(path.parent.glob("runs/*")))
    )
    reports = {f"reference {path.parent.name}": path for path in references}
    if profile and (own := paths.results(profile) / "REPORT.md").is_file():
        reports = {paths.results(profile).name: own} | reports
    texts = [p for p in sorted(paths.ROOT.glob("*.md")) if p.name != "README.md"]

    site.add("Start", "Overview", "index.html", paths.ROOT / "README.md")
    for path in texts:
        site.add("Start", path.stem.capitalize(), f"{path.stem}.html", path)
    for path in books:
        url = f"notebooks/{path.stem}.html"
        site.add("Notebooks", _title(path), url, paths.NOTEBOOKS / path.name)
    site.add("Results", "Claims", "claims/index.html")
    tables = paths.REFERENCE / "README.md"
    site.add("Results", "Every run, in tables", "tables.html", tables)
    for name, path in reports.items():
        site.add("Results", f"Report: {name}", f"reports/{name.replace(' ', '-')}.html", path)
    for room in api.rooms():
        site.add("API", room, f"api/{room}.html")

    runs = {name: claims.load(path.parent) for name, path in reports.items()}
    decided: dict[str, list[str]] = {}
    for claim in next(iter(runs.values())):
        decided.setdefault(claim.cell, []).append(claim.id)
    for path in books:
        notebook(site, path, f"notebooks/{path.stem}.html", decided)
    for path in (paths.ROOT / "README.md", *texts, tables, *reports.values()):
        text = path.read_text(encoding="utf-8")
        site.write_markdown(site.pages[path.resolve()], path.stem, text, path.parent)
    claim_pages(site, runs)
    for room, modules in api.rooms().items():
        site.write_markdown(f"api/{room}.html", room, api.page(room, modules))
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    dark = f"@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    own = (HERE / "site.css").read_text(encoding="utf-8")
    site.save("style.css", f"{light}\n{dark}{own}".encode())


def main(arguments: list[str] | None = None) -> int:
    """Build beside the old site and replace it once the new one is complete."""
    parser = argparse.ArgumentParser(prog="reproduce.sh site", description=__doc__)
    parser.add_argument("--profile", help="show the notebooks that a run of this profile executed")
    parser.add_argument("--out", type=Path, default=paths.ROOT / "site")
    chosen = parser.parse_args(arguments)
    started, out = time.monotonic(), chosen.out
    partial = out.with_name(f"{out.name}.partial")
    try:
        if out.exists() and not (out / "style.css").is_file():
            raise InputError(f"{out} is not a site", "name another folder with --out")
        shutil.rmtree(partial, ignore_errors=True)
        build(partial, chosen.profile)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except KappaError as error:
        print(error, file=sys.stderr)
        return 2
    pages = len(list(out.rglob("*.html")))
    print(f"{pages} pages in {time.monotonic() - started:.0f} s: {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
