"""The generated tables of docs/ and of results/reference, from the committed results.

Prose is written by hand; tests hold its numbers against the results.
"""

import re
from pathlib import Path
from typing import Any

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence import report
from kappa_lib.evidence.runs import runs
from kappa_lib.files import read_json
from kappa_lib.text import markdown

SPEED = paths.ROOT / "docs" / "speed.md"
TABLES = paths.REFERENCE / "README.md"  # every run's
# Between such lines a page holds what is generated.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")


def pages() -> dict[Path, dict[str, str]]:
    """Page → name of a block → its table."""
    bench, on_a_gpu = (
        read_json(paths.REFERENCE / name / "bench.json") for name in ("bench", "bench_gpu")
    )
    return {
        SPEED: {"benchmark": bench_tables(bench), "gpu": bench_tables(on_a_gpu)},
        TABLES: {name: report.table("run", runs(f"reference/{name}")) for name in blocks(TABLES)},
    }


def blocks(page: Path) -> list[str]:
    """Names of a page's generated blocks."""
    begin = MARKERS[0].format(r"(\w+)")
    return re.findall(begin, page.read_text(encoding="utf-8"))


def bench_tables(measured: dict[str, Any]) -> str:
    """Seconds of every route on a Llama-3-8B layer, and on the default model, and the goals."""
    layer, model = measured["layer"], measured.get("model", {}).get("seconds", {})
    rows = []
    for route, seconds in layer["seconds"].items():
        errors = [part["routes"][route]["error"] for part in layer["parts"].values()]
        ratio = layer["seconds"]["torch.linalg.svdvals, fp32"] / seconds
        cells = f"{seconds:.3g}", f"{ratio:.1f} ×", f"{max(errors):.0e}"
        rows.append([route, *cells, *([f"{model[route]:.1f}"] if model else [])])
    goals = []
    for goal in measured["verdicts"]:
        # Which way it goes is not on record, but follows.
        below = (goal["measured"] <= goal["goal"]) == goal["reached"]
        asked = f"at {'most' if below else 'least'} {goal['goal']:g}"
        word = "reached" if goal["reached"] else "missed"
        goals.append([goal["what"], asked, f"{goal['measured']:.3g}", word])
    heads = ["route", "a layer of Llama-3-8B's shapes, s", "against svdvals", "largest error of κ"]
    heads += ["the default model, s"] if model else []
    asked = markdown(["goal", "asked", "measured", ""], goals)
    return f"{markdown(heads, rows)}\n\n{asked}"


def replace_block(text: str, name: str, block: str) -> str:
    """Put ``block`` between the two markers of a name.

    Raises:
        InputError: the text has no such markers.
    """
    begin, end = (marker.format(name) for marker in MARKERS)
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise InputError(f"the text has no {begin}", "put both markers back")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"
