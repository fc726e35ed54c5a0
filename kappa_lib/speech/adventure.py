"""Spoken lines of *Flight of the Amazon Queen*, an adventure game that its makers have freed.

Everything is in one file, ``queen.1c``: after the names ``QTBL`` and ``CEM10`` a 16-bit number of
entries at byte 13, and from byte 15 entries of 21 bytes, name (12), bundle (1), offset (4) and
size (4); all numbers are big-endian. A clip, ``*.SB``, is an MP3 file. What is said comes from

- ``QUEEN2.JAS``, a text file: ``JOEnnnns.SB`` says line nnnn − 40, Joe's remarks on what he sees;
- ``*.DOG``, a dialogue, whose number is the word at byte 24: ``KKiiiiJs.SB`` and ``KKiiiiPs.SB``
  say its text of the hexadecimal id iiii, Joe's (which comes first) and the other person's. A text
  is stored as the word of its id, a byte of its length, and its letters, between zeros.

Codes that begin with an asterisk divide a text; s is the hexadecimal place of the piece.
"""

import re
import struct
from collections import defaultdict
from pathlib import Path

_CODE = re.compile(r"\*XY\d\d\(\d+,\d+\)|\*[A-Z0-9]{2}")
_TEXT = re.compile(rb"(?=\0([\0-\x0f].)([\x02-\xff])([\x20-\x7e\x80-\xff]+)\0)", re.S)
_CLIP = re.compile(r"(JOE|\d\d)([0-9A-F]{4})([JP]?)([1-9A-F])\.SB")


def lines(path: Path) -> list[tuple[str, str, str, bytes]]:
    """Every clip whose text is known, sorted: its name, what is said, by whom, and the MP3.

    A text counts as known where its pieces are just those of which there are clips.
    """
    members = _members(path)
    clips: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for name in members:
        if found := _CLIP.fullmatch(name):
            *key, place = found.groups()
            clips[tuple(key)][int(place, 16)] = name
    remarks = members["QUEEN2.JAS"].decode("cp850").split("\r\n")
    texts = {("JOE", f"{n:04d}"): [text] for n, text in enumerate(remarks, 41)}
    people = {"JOE": "joe"}
    for name in (name for name in members if name.endswith(".DOG")):
        number = f"{struct.unpack_from('>H', members[name], 24)[0]:02d}"
        people[number] = re.sub(r"\d*\.DOG", "", name).lower()
        texts |= {(number, code): both for code, both in _dialogue(members[name]).items()}
    known = []
    for (number, code, who), names in clips.items():
        spoken = texts.get((number, code), [])
        alone = not who or (number, code, {"J": "P", "P": "J"}[who]) not in clips
        if len(spoken) != (1 if alone and len(spoken) < 2 else 2):
            continue  # whose the text is cannot be told
        text = spoken[-1] if who == "P" else spoken[0]
        pieces = {place: piece.strip() for place, piece in enumerate(_CODE.split(text), 1)}
        if {place for place, piece in pieces.items() if piece} == names.keys():
            speaker = "joe" if who == "J" else people[number]
            known += [(n, pieces[place], speaker, members[n]) for place, n in names.items()]
    return sorted(known)


def _members(path: Path) -> dict[str, bytes]:
    """Name → bytes of everything in the file."""
    data, members = path.read_bytes(), {}
    (count,) = struct.unpack_from(">H", data, 13)
    for place in range(15, 15 + 21 * count, 21):
        name, offset, size = struct.unpack_from(">12sxII", data, place)
        members[name.split(b"\0")[0].decode("ascii").strip()] = data[offset : offset + size]
    return members


def _dialogue(data: bytes) -> dict[str, list[str]]:
    """Hexadecimal id → its texts, in the order of the file."""
    found = defaultdict(list)
    for match in _TEXT.finditer(data, 24):
        code, length, text = match.groups()
        if len(text) == length[0] and any(map(str.isalpha, _CODE.sub("", text.decode("cp850")))):
            found[code.hex().upper()].append(text.decode("cp850"))
    return found
