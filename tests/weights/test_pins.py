"""Files are held to their pinned hash, and the record of a check goes stale when they change."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import AssetError
from kappa_lib.weights import pins
from kappa_lib.weights.pins import Pin

CONTENT = {"a.bin": b"first", "deep/b.bin": b"second"}


def pinned(folder: Path) -> tuple[Pin, ...]:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return tuple(Pin(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in CONTENT.items())


def test_check_accepts_the_pinned_bytes(tmp_path):
    pins.check(tmp_path, pinned(tmp_path))


def test_a_tampered_byte_names_file_expected_and_found(tmp_path):
    wanted = pinned(tmp_path)
    (tmp_path / "deep/b.bin").write_bytes(b"seconD")
    with pytest.raises(AssetError) as error:
        pins.check(tmp_path, wanted)
    for part in ("deep/b.bin", wanted[1].sha256, hashlib.sha256(b"seconD").hexdigest()):
        assert part in str(error.value)


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 5), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path_factory, position, flip):
    folder = tmp_path_factory.mktemp("pinned")
    wanted = pinned(folder)
    changed = bytearray(CONTENT["deep/b.bin"])
    changed[position] ^= flip
    (folder / "deep/b.bin").write_bytes(changed)
    with pytest.raises(AssetError, match=r"b\.bin"):
        pins.check(folder, wanted)


def test_a_missing_file_is_named(tmp_path):
    wanted = pinned(tmp_path)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(AssetError, match=r"a\.bin: missing"):
        pins.check(tmp_path, wanted)


def test_record_is_trusted_until_a_file_changes(tmp_path):
    wanted = pinned(tmp_path)
    assert not pins.unchanged(tmp_path, wanted)
    pins.write_record(tmp_path, wanted, "somewhere")
    assert pins.unchanged(tmp_path, wanted)
    assert pins.read_record(tmp_path)["origin"] == "somewhere"

    stat = os.stat(tmp_path / "a.bin")
    os.utime(tmp_path / "a.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not pins.unchanged(tmp_path, wanted)


def test_record_of_other_pins_is_not_trusted(tmp_path):
    wanted = pinned(tmp_path)
    pins.write_record(tmp_path, wanted, "somewhere")
    other = Pin("a.bin", 5, hashlib.sha256(b"other").hexdigest())
    assert not pins.unchanged(tmp_path, [other])
