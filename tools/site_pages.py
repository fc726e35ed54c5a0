"""The pages of a static site: Markdown with formulas, links between sources, one layout."""

import os
import re
import sys
from html import escape, unescape
from pathlib import Path
from typing import Any

import jinja2
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from kappa_lib import paths
from kappa_lib.errors import InputError
from tools.mathml import Unknown, mathml

HERE = Path(__file__).parent


def plain(html: str) -> str:
    """The words of a piece of HTML; of a formula its TeX."""
    html = re.sub(r"<math.*?<annotation[^>]*>(.*?)</annotation>.*?</math>", r"\1", html, flags=re.S)
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


class Renderer(IPythonRenderer):
    """Markdown of one page: links within the site, anchors at headings, formulas as MathML."""

    def __init__(self, site: "Site", url: str, folder: Path | None) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.site, self.url, self.folder = site, url, folder
        self.anchors: set[str] = set()
        self.first_heading = self.last_heading = ""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        self.last_heading = plain(text)
        self.first_heading = self.first_heading or self.last_heading
        slug = start = re.sub(r"[^\w]+", "-", self.last_heading.lower()).strip("-") or "section"
        number = 1
        while slug in self.anchors:
            number += 1
            slug = f"{start}-{number}"
        self.anchors.add(slug)
        return f'<h{level} id="{slug}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, self.site.resolve(url, self.url, self.folder), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        target = self.site.resolve(url, self.url, self.folder)
        return super().image(plain(text).replace("_", " "), target, title)

    def table(self, text: str) -> str:
        return f'<div class="scroll" tabindex="0"><table>{text}</table></div>\n'

    def inline_math(self, body: str) -> str:
        return self._formula(body)

    def block_math(self, body: str) -> str:
        tag = re.search(r"\\tag\{(.*?)\}", body)
        number = f'<span class="tag">({escape(tag[1])})</span>' if tag else ""
        formula = self._formula(body.replace(tag[0], "") if tag else body, display=True)
        return f'<span class="math">{formula}{number}</span>'

    def _formula(self, tex: str, display: bool = False) -> str:
        try:
            return mathml(tex, display)
        except Unknown as error:
            print(f"{self.url}: TeX as it stands, {error}: {tex.strip()}", file=sys.stderr)
            return f'<code class="tex">{escape(tex.strip())}</code>'


class Site:
    """Where each source's page is, and what has been written.

    Attributes:
        out: the folder of the site.
        pages: source file → address within the site.
        navigation: group → (name, address), in order.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.pages: dict[Path, str] = {}
        self.navigation: dict[str, list[tuple[str, str]]] = {}
        loader = jinja2.FileSystemLoader(HERE)
        self.template = jinja2.Environment(loader=loader).get_template("site.html.j2")

    def add(self, group: str, name: str, url: str, source: Path | None = None) -> None:
        """A page that is to be written, so that others can link to it."""
        self.navigation.setdefault(group, []).append((name, url))
        if source:
            self.pages[source.resolve()] = url

    def resolve(self, link: str, url: str, folder: Path | None) -> str:
        """A link of a text in ``folder`` as the page at ``url`` writes it; files are copied along.

        Without a folder the link is one within the site already.

        Raises:
            InputError: it leads nowhere.
        """
        if folder is None or re.match(r"[a-z]+:|#", link):
            return link
        path, mark, anchor = link.partition("#")
        target = (folder / path).resolve()
        if target not in self.pages:
            if not target.is_file():
                raise InputError(f"{url}: the link {link!r} leads nowhere", "name a page or a file")
            inside = target.is_relative_to(paths.ROOT)
            tail = target.relative_to(paths.ROOT).parts if inside else target.parts[-3:]
            self.pages[target] = "/".join(("files", *tail))
            self.save(self.pages[target], target.read_bytes())
        return relative(self.pages[target], url) + mark + anchor

    def save(self, url: str, content: bytes) -> None:
        path = self.out / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write(self, url: str, title: str, body: str) -> None:
        """A page around ``body``."""
        groups = self.navigation.items()
        up = "../" * url.count("/")
        page = self.template.render(title=title, body=body, url=url, up=up, navigation=groups)
        self.save(url, page.encode())

    def write_markdown(self, url: str, title: str, text: str, folder: Path | None = None) -> None:
        """A page of Markdown, named by its first heading, or ``title`` where it has none.

        For the folder see :meth:`resolve`.
        """
        renderer = Renderer(self, url, folder)
        body = MarkdownWithMath(renderer).render(text)
        self.write(url, renderer.first_heading or title, body)


def relative(target: str, url: str) -> str:
    """``target`` as seen from the page ``url``, both within the site."""
    return os.path.relpath(target, os.path.dirname(url) or ".")
