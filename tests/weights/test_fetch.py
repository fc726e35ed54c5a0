"""An asset arrives whole and right or not at all, against a real server on this machine."""

import hashlib
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving, tarball

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, SpaceError
from kappa_lib.weights import assets
from kappa_lib.weights.assets import Asset, Pin, Source

CONTENT = {"one.bin": np.random.default_rng(0).bytes(200_000), "sub/two.bin": b"two"}
PINS = tuple(Pin(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in CONTENT.items())


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    monkeypatch.delenv("KAPPA_OFFLINE", raising=False)
    with serving() as site:
        site.pages["/good.tar.gz"] = tarball(CONTENT)
        site.pages["/bad.tar.gz"] = tarball({**CONTENT, "sub/two.bin": b"tWo"})
        yield site


@pytest.fixture
def said(monkeypatch):
    """What is told while an asset is fetched."""
    lines = []
    monkeypatch.setattr(assets, "say", lines.append)
    return lines


def asset(site, *names: str) -> Asset:
    sources = tuple(Source("release", (f"{site.address}/{name}",)) for name in names)
    return Asset("thing", PINS, sources)


def left_behind() -> list[str]:
    folder = paths.cache() / "assets"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_fetches_once_and_tells_from_where(site, said, monkeypatch):
    thing = asset(site, "good.tar.gz")
    folder = thing.get()
    assert {n: (folder / n).read_bytes() for n in CONTENT} == CONTENT
    assert f"from release: {site.address}/good.tar.gz" in said[0]
    monkeypatch.setenv("KAPPA_OFFLINE", "1")
    asked = len(site.requests)
    said.clear()
    thing.get()
    assert (len(site.requests), said, left_behind()) == (asked, [], ["thing"])


def test_a_wrong_hash_is_refused_with_file_expected_and_found(site):
    with pytest.raises(AssetError) as error:
        asset(site, "bad.tar.gz").get()
    for part in ("sub/two.bin", PINS[1].sha256, hashlib.sha256(b"tWo").hexdigest()):
        assert part in str(error.value)
    assert left_behind() == []


def test_the_next_source_is_tried_and_the_failure_is_told(site, said):
    asset(site, "absent.tar.gz", "bad.tar.gz", "good.tar.gz").get()
    assert left_behind() == ["thing"]
    assert any("absent.tar.gz" in line and "404" in line for line in said)
    assert any("not the pinned file" in line for line in said)


def test_a_connection_cut_half_way_leaves_nothing(site):
    site.share = 0.5
    with pytest.raises(AssetError, match="no source delivered"):
        asset(site, "good.tar.gz").get()
    assert left_behind() == []


def test_an_interrupt_leaves_nothing_under_the_final_name(site):
    class Interrupting:
        kind, where = "release", ("interrupted source",)

        def fetch(self, into, names):
            (into / "one.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    thing = Asset("thing", PINS, (Interrupting(),))
    with pytest.raises(KeyboardInterrupt):
        thing.get()
    assert left_behind() == []


def test_after_a_kill_the_next_call_cleans_up_and_succeeds(site):
    site.pause = 60.0
    code = "import sys; sys.path[:0] = sys.argv[2:]; from test_fetch import asset;"
    code += "from types import SimpleNamespace as Site;"
    code += "asset(Site(address=sys.argv[1]), 'good.tar.gz').get()"
    roots = [str(paths.ROOT), str(paths.ROOT / "tests"), str(paths.ROOT / "tests" / "weights")]
    child = subprocess.Popen([sys.executable, "-c", code, site.address, *roots])
    try:
        deadline = time.monotonic() + 60
        while not left_behind() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert left_behind() == [f".thing.{platform.node()}-{child.pid}.partial"]

    site.pause = 0.0
    asset(site, "good.tar.gz").get()
    assert left_behind() == ["thing"]


def test_tampering_in_the_cache_is_refused_and_nothing_is_replaced_silently(site):
    thing = asset(site, "good.tar.gz")
    victim = thing.get() / "sub/two.bin"
    victim.write_bytes(b"short")
    with pytest.raises(AssetError, match="not the pinned file"):
        thing.get()
    victim.unlink()
    with pytest.raises(AssetError, match="missing"):
        thing.get()


def test_a_full_disk_is_refused_before_anything_is_written(site, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(SpaceError, match="MB needed"):
        asset(site, "good.tar.gz").get()
    assert (left_behind(), site.requests) == ([], [])


def test_a_faster_process_is_believed_only_if_its_files_are_right(site):
    thing = asset(site, "good.tar.gz")

    class Overtaken(Source):
        def fetch(self, into, names):
            super().fetch(into, names)
            shutil.copytree(into, thing.folder)

    overtaken = Asset("thing", PINS, (Overtaken("release", (f"{site.address}/good.tar.gz",)),))
    folder = overtaken.get()
    assets.check(folder, PINS)
    assert left_behind() == ["thing"]


# Files are held to their pinned hash.
SMALL = {"a.bin": b"first", "deep/b.bin": b"second"}


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 5), flip=st.integers(0, 255))
def test_any_changed_byte_is_found(tmp_path_factory, position, flip):
    folder = tmp_path_factory.mktemp("pinned")
    (folder / "deep").mkdir()
    for name, content in SMALL.items():
        (folder / name).write_bytes(content)
    wanted = [Pin(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in SMALL.items()]
    changed = bytearray(SMALL["deep/b.bin"])
    changed[position] ^= flip
    (folder / "deep/b.bin").write_bytes(changed)
    with pytest.raises(AssetError, match=r"b\.bin") if flip else nullcontext():
        assets.check(folder, wanted)
