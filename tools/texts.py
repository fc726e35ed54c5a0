"""Cut the general texts anew from the packages that they come from.

``python -m tools.texts`` fetches two Debian packages, checks the files that it reads against
their SHA-256, and writes ``kappa_lib/data/texts``: the same bytes every time. The excerpts are
kept in the repository, so nobody needs this to measure anything.
"""

import html
import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kappa_lib import files
from kappa_lib.errors import AssetError
from kappa_lib.text import TEXTS, text_metadata
from kappa_lib.weights.assets import Pin, check
from kappa_lib.weights.mirrors import DebianArchive

CHARACTERS = 24_000  # more than 4,112 tokens with SmolLM2's and with Llama 3's tokenizer
# A paragraph on one line, without addresses, that ends like a sentence; headings don't.
PROSE = re.compile(r"^(?!.*(?:://|@)).{80,}[.!?…][\"'”“’»)]*$")
ENGLISH = re.compile(r"\b(the|and)\b", re.IGNORECASE)

AUSTEN = DebianArchive("r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/")
NOVELS = Pin(
    "Rdata.rdb",
    1_601_335,
    "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21",
)
NOVEL = "NORTHANGER ABBEY"

HANDBOOK = DebianArchive("debian-handbook", "usr/share/doc/debian-handbook/html/")
PAGES = (
    Pin(
        "de-DE/the-debian-project.html",
        21_191,
        "4fedf0cb54ba382846ab31bfee1991a7e92e1afc2168349bce57986636e16d39",
    ),
    Pin(
        "de-DE/sect.foundation-documents.html",
        26_661,
        "6d7a8f74f6a8e14f9f2ebb9e748d73f5517a5ac082ddc45e6cbf404ffe90407b",
    ),
    Pin(
        "de-DE/sect.debian-internals.html",
        64_820,
        "60976626c3c8dc0b3cbecd8c4d12214a87896d982c0ded99184e566082e39d8a",
    ),
    Pin(
        "en-US/advanced-administration.html",
        83_684,
        "9a3fe66c539b1ce7ea68744067d6544bde65fd97a68743bd4190204aa48f7442",
    ),
)
START = 'id="sect.raid-setup"'


def main() -> None:
    """Write the three texts and their manifest."""
    with tempfile.TemporaryDirectory() as folder:
        texts = cut(Path(folder))
    write(texts)


def write(texts: Mapping[str, str]) -> None:
    """Write texts by name, and their hashes into the manifest."""
    known = text_metadata()
    for name, text in texts.items():
        path = TEXTS / f"{name}.txt"
        files.write_text(path, text)
        known[name]["sha256"] = files.sha256(path)
    files.write_json(TEXTS / "texts.json", known)


def cut(folder: Path) -> dict[str, str]:
    """Kind -> text, from the packages fetched into a folder.

    Raises:
        AssetError: a package cannot be had, or a file in it is not the pinned one.
    """
    for package, wanted in ((AUSTEN, (NOVELS,)), (HANDBOOK, PAGES)):
        package.fetch(folder, [pin.name for pin in wanted])
        check(folder, wanted)
    *german, commands = (folder / page.name for page in PAGES)
    book = next(b for b in novels(folder / NOVELS.name) if b[0] == NOVEL)
    chapters = (part for page in german for part in blocks(page))
    return {
        "english": excerpt(filter(PROSE.search, book)),
        # Paragraphs that nobody has translated yet are English.
        "german": excerpt(p for p in chapters if PROSE.search(p) and not ENGLISH.search(p)),
        "technical": excerpt(blocks(commands, START)),
    }


def excerpt(parts: Iterable[str]) -> str:
    """The first parts that make up 24,000 characters; the last one ends a sentence.

    Args:
        parts: paragraphs, or paragraphs and listings.
    """
    kept: list[str] = []
    for part in parts:
        kept.append(part)
        if PROSE.search(part) and sum(map(len, kept)) > CHARACTERS:
            return "\n\n".join(kept) + "\n"
    raise AssetError(f"{sum(map(len, kept))} characters are too few", "give more pages")


def novels(path: Path) -> Iterator[list[str]]:
    """Paragraphs of each novel, its title first, read from R's lazy-load database without R.

    The database is blocks of a 4-byte length and a zlib stream. Each stream is R's XDR
    serialisation of a character vector, a line of the book an element (R Internals, 1.8).
    """
    data, at = path.read_bytes(), 0
    while at < len(data):
        stream = zlib.decompressobj()
        lines = _strings(stream.decompress(data[at + 4 :]))
        at = len(data) - len(stream.unused_data)
        text = "\n".join(lines).replace("_", "").replace("--", "—")
        yield [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]


def _strings(raw: bytes) -> list[str]:
    # "X\n", format 3, R's version, the oldest R that reads it, the name of the encoding.
    (length,) = struct.unpack_from(">i", raw, 14)
    kind, count = struct.unpack_from(">ii", raw, 18 + length)
    if raw[:2] != b"X\n" or kind != 16:
        raise AssetError("not a serialised character vector", "use the pinned package")
    found, at = [], 26 + length
    for _ in range(count):
        (size,) = struct.unpack_from(">i", raw, at + 4)
        found.append(raw[at + 8 : at + 8 + size].decode())
        at += 8 + size
    return found


def blocks(path: Path, start: str = "") -> list[str]:
    """Paragraphs on one line each and listings line by line, after ``start``, without markup."""
    page = path.read_text(encoding="utf-8")
    page = page[page.index(start) :]
    found = []
    for block in re.finditer(r'<div class="para">(.*?)</div>|<pre[^>]*>(.*?)</pre>', page, re.S):
        text = html.unescape(re.sub(r"<[^>]*>", "", block[1] or block[2]))
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        found.append("\n".join(lines) if block[2] else " ".join(text.split()))
    return found


if __name__ == "__main__":
    main()
