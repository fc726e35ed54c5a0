"""Atomic writes, hashes, and the rule by which a stage of the pipeline is skipped."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import TypeAdapter, ValidationError

from kappa_lib.errors import InputError, SpaceError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value with sorted keys, as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A file's name need not be UTF-8: Python hands on its other bytes as lone surrogates.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def states(paths: Iterable[Path]) -> list[list[Any]]:
    """Path, bytes and time of change (ns) of those files that are there, sorted."""
    found = [(str(path), path.stat()) for path in sorted(set(paths)) if path.is_file()]
    return [[path, status.st_size, status.st_mtime_ns] for path, status in found]


def require_space(folder: Path, needed: int) -> None:
    """Refuse before writing, by a SpaceError, when the disk that holds ``folder`` has fewer than
    ``needed`` bytes."""
    there = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        what = f"{folder}: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free"
        remedy = "free some space, or point KAPPA_HOME / KAPPA_RESULTS at a larger disk"
        raise SpaceError(what, remedy)


def require_folder(folder: Path) -> None:
    """Make a folder for outputs before any work; InputError where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("not writable")
    except (OSError, ValueError) as error:  # something is in the way, or it is no path at all
        what = f"{str(folder)!r}: {error}"
        raise InputError(what, "choose another folder for the output") from error


@contextmanager
def alone(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a part of a results folder, for instance one run, for this process alone; the system
    frees it when the process ends. InputError where another holds it, unless asked to ``wait``."""
    path = folder / "stages" / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = f"another process is writing to {folder} ({what})"
            remedy = "wait for it, or take another profile or arm"
            raise InputError(held, remedy) from None
        yield


def drop_abandoned(path: Path) -> None:
    """Remove what processes that were killed while replacing ``path`` have left beside it."""
    # Of another machine that shares the disk nobody knows here which processes live.
    left = glob.escape(f".{path.name}.{platform.node()}-") + "*.partial"
    for place in path.parent.glob(left):
        number = int(place.stem.rpartition("-")[2])
        # In a container the one that was killed often had the number that this one has.
        if number == os.getpid() or not psutil.pid_exists(number):
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name that becomes ``path`` only if nothing fails.

    It has a folder to itself beside ``path``, for what a writer lays beside it: safetensors does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_abandoned(path)
    folder = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    folder.mkdir()
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """As :func:`replacing` for a new folder; another process that makes it first wins."""
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            yield temporary
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.is_dir():
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: Any = object) -> Any:
    """Read a JSON file that has to hold a ``kind``, see :func:`parse`."""
    return parse(path.read_bytes(), str(path), kind)


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file that is appended to, if it is there; what a kill left of a last one is cut
    off the file."""
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return whole.splitlines()


class _Loader(yaml.SafeLoader):
    """Keeps the rule of YAML that PyYAML does not: a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"the key {twice} stands there twice")
        return super().construct_mapping(node, deep)


from_yaml = partial(yaml.load, Loader=_Loader)


def parse(text: bytes | str, source: str, kind: Any = object, loads: Callable = json.loads) -> Any:
    """The value of JSON (or, with ``from_yaml``, YAML) that someone may have damaged.

    InputError, with ``source``, where it can't be read or holds no ``kind``: :func:`validated`.
    """
    language = "JSON" if loads is json.loads else "YAML"
    try:
        value = loads(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML raises all of these, json the second and the last.
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: not {language}: {reason}", f"mend the {language}") from error
    return validated(value, source, kind, f"mend the {language}")


def validated(value: Any, source: str, kind: Any, remedy: str) -> Any:
    """A value that has to be of a type, without conversions: ``dict[str, object]``, a model of
    pydantic's. InputError where it is not, with ``source`` and what is wrong in it."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        wrong = []
        for found in error.errors(include_url=False, include_input=False)[:5]:
            place, said = ".".join(map(str, found["loc"])), found["msg"]
            wrong.append(f"{place}: {said}" if place else said.removeprefix("Value error, "))
        raise InputError(f"{source}: {'; '.join(wrong)}", remedy) from error


def stage(
    name: str, folder: Path, inputs: dict[str, Any], outputs: list[Path], make: Callable[[], None]
) -> None:
    """Have a step of the pipeline done once: ``make`` leaves ``outputs``, unless these are intact
    and the step's record, ``<folder>/stages/<name>.json``, holds the same ``inputs``, which are
    JSON and all that decides them. Another process that wants the same waits."""
    path, key = folder / "stages" / f"{name}.json", fingerprint(inputs)
    with alone(folder, name, wait=True):
        record = read_json(path) if path.is_file() else {"key": None}
        if record.get("key") == key and all(
            p.is_file() and record["outputs"].get(p.name) == sha256(p) for p in outputs
        ):
            return
        make()
        hashes = {p.name: sha256(p) for p in outputs}
        write_json(path, {"key": key, "inputs": inputs, "outputs": hashes})
