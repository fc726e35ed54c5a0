"""The container of the adventure game, written anew from its description with other contents."""

import struct

from kappa_lib.speech import adventure


def dialogue(number: int, texts: list[tuple[int, str]]) -> bytes:
    """A ``.DOG`` file: its number at byte 24, then ids and texts between zeros."""
    data = b"AmBk".ljust(24, b"\0") + struct.pack(">H", number) + bytes(30)
    for code, text in texts:
        data += b"\0" + struct.pack(">HB", code, len(text)) + text.encode("cp850") + b"\0\0"
    return data + bytes(10)


def container(path, members: dict[str, bytes]):
    offset, table, body = 15 + 21 * len(members), b"", b""
    for name, data in members.items():
        entry = struct.pack(">BII", 1, offset + len(body), len(data))
        table += name.encode().ljust(12, b"\0") + entry
        body += data
    head = b"QTBLCEM10" + bytes(4) + struct.pack(">H", len(members))
    path.write_bytes(head + table + body)
    return path


def test_clips_have_the_pieces_of_their_texts(tmp_path):
    texts = [(6, "Who are you?*15"), (7, "Bye.*02"), (8, "Hm.*01"), (9, "One.*02Two.*02")]
    texts += [(1, "*FLSo what.*XY00(112,7)*FRGo on.*03"), (6, "Me?*02I am Ann.*05"), (7, "*FR")]
    members = {
        "QUEEN2.JAS": b"A rock*24\r\nNothing*02 at all\r\n",
        "ANN2.DOG": dialogue(3, texts),
        **{f"JOE00{n}.SB": n.encode() for n in ("411", "421", "422", "431")},
        **{f"03000{n}.SB": n.encode() for n in ("1P2", "1P4", "6J1", "6P1", "6P2", "7J1", "8P1")},
        "030009J1.SB": b"half of its pieces",
        "COMIC1.SB": b"unknown",
    }
    found = adventure.lines(container(tmp_path / "queen.1c", members))
    assert {name.removesuffix(".SB"): (text, who) for name, text, who, _ in found} == {
        "JOE00411": ("A rock", "joe"),
        "JOE00421": ("Nothing", "joe"),
        "JOE00422": ("at all", "joe"),
        "030001P2": ("So what.", "ann"),
        "030001P4": ("Go on.", "ann"),
        "030006J1": ("Who are you?", "joe"),
        "030006P1": ("Me?", "ann"),
        "030006P2": ("I am Ann.", "ann"),
        "030007J1": ("Bye.", "joe"),
        "030008P1": ("Hm.", "ann"),
    }
    assert all(sound == members[name] for name, _, _, sound in found)
