"""One utterance as a typed row: 16-bit FLAC at 16 kHz beside its transcript, and back."""

import io
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, Value

from kappa_lib.errors import AssetError, InputError

RATE = 16_000  # Hz, of everything this package hears
SILENCE = 1e-4  # root mean square below which a recording counts as silent (-80 dB)
FLOOR, MARGIN = 0.01, 800  # share of the peak that counts as silence; samples of it that stay

PARTS = ("train", "test")
LOUDEST = 2.0  # of full scale: decoders overshoot by a little, integers stored as floats by far
_UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError)
_UNKNOWN = 2**63 - 1  # frames, where a stream was written whose length was not known yet
_STREAMED = 2**31 - 2**16  # bytes; a header that promises more was written before the sound was
_SLACK = 1024  # bytes; some writers miscount by their own headers
_PROMISE = re.compile(r": (\d+) \(should be (\d+)\)")  # libsndfile's log, of any container
_BATCH = 64  # rows in memory at a time
FEATURES = Features(
    {
        "id": Value("string"),
        "audio": Audio(sampling_rate=RATE, decode=False),
        "text": Value("string"),
    }
)


class UnusableRow(InputError):
    """A row that can be neither trained on nor scored; ``reason`` is the same for equal faults."""

    def __init__(self, item: dict[str, Any], reason: str, detail: str = "") -> None:
        path = (item.get("audio") or {}).get("path")
        name = item.get("id") or path or "(without id)"
        remedy = "correct the recording or its transcript, or leave this row out"
        super().__init__(f"utterance {name}: {reason}{detail}", remedy)
        self.reason = reason


def trim(speech: np.ndarray) -> np.ndarray:
    """Samples ``(n,)`` without the silence at both ends, but for ``MARGIN`` of it."""
    loud = np.flatnonzero(np.abs(speech) > FLOOR * np.abs(speech).max(initial=0.0))
    if not loud.size:
        return speech
    return speech[max(loud[0] - MARGIN, 0) : loud[-1] + MARGIN + 1]


def encode(speech: np.ndarray) -> bytes:
    """16-bit FLAC of samples ``(n,)`` within ±1 at 16 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, speech, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def seconds(item: dict[str, Any]) -> float:
    """Length as the header says it, without reading the rest; 0.0 where it says none."""
    try:
        header = soundfile.info(_source(item))
    except (UnusableRow, *_UNREADABLE):
        return 0.0  # reading it says why
    return header.duration if header.frames < _UNKNOWN else 0.0


def read(item: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Samples float32 ``(n,)``, channels averaged, and their rate in Hz.

    UnusableRow where there is no file, it is not readable audio, it ends before what its header
    promises, or its samples are far beyond ±1.
    """
    source = _source(item)
    try:
        data = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            promised, log, rate = file.frames, file.extra_info, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except _UNREADABLE as error:
        why = getattr(error, "error_string", error)
        raise UnusableRow(item, "not readable", f" as audio: {why}") from error
    if lost := _lost(data, promised - len(samples), rate, log):
        raise UnusableRow(item, "cut off", lost)
    if (peak := np.abs(samples).max(initial=0.0)) > LOUDEST:
        detail = f", up to {peak:.4g} where 1 is full scale"
        raise UnusableRow(item, "samples beyond full scale", detail)
    return samples.mean(axis=1), rate


def _lost(data: bytes, missing: int, rate: int, log: str) -> str:
    """How a file shows that it ends too early, empty where it doesn't."""
    promises = [tuple(map(int, found)) for found in _PROMISE.findall(log)]
    broken = [(said, there) for said, there in promises if there + _SLACK < said < _STREAMED]
    if broken:
        return ", its header promises {:,} bytes and {:,} are there".format(*broken[-1])
    if missing > rate / 10:
        return f", its last {missing / rate:.1f} s are not there"
    if "data : 0\n" in log and len(data) > _SLACK:
        return f", its header says 0 bytes of sound, and the file has {len(data):,}: unfinished"
    # The flags of an Ogg stream's last page say so; then come the lengths of what it holds.
    page = data[data.rfind(b"OggS") :] if data.startswith(b"OggS") else b""
    if page and (len(page) < 27 + sum(page[26:27] + page[27:][: page[26]]) or not page[5] & 4):
        return ", its last page is not there"
    return ""


def _source(item: dict[str, Any]) -> io.BytesIO | str:
    """The bytes of a row, or the absolute path of its file: none is looked for where we are."""
    audio = item["audio"] or {}
    if audio.get("bytes"):
        return io.BytesIO(audio["bytes"])
    if not (path := audio.get("path")):
        raise UnusableRow(item, "no audio")
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise UnusableRow(item, "no such file", f": {path}")
    return path


def check(item: dict[str, Any], samples: np.ndarray) -> None:
    """UnusableRow where samples are silent or not finite, or the transcript is empty."""
    if not np.isfinite(samples).all():
        raise UnusableRow(item, "NaN or infinite samples")
    loudness = float(np.sqrt(np.mean(np.square(samples)))) if samples.size else 0.0
    if loudness < SILENCE:
        detail = f", root mean square {loudness:.1e} of {samples.size} samples"
        raise UnusableRow(item, "silent", detail)
    if not any(character.isalnum() for character in item["text"] or ""):
        raise UnusableRow(item, "empty transcript", f" {item['text']!r}")


def row(samples: np.ndarray, **about: str) -> dict[str, Any]:
    """A row with :data:`FEATURES`, as :func:`check` allows it, of samples ``(n,)`` within ±1 at
    16 kHz and their ``id`` and ``text``."""
    check(about, samples)
    return {**about, "audio": {"bytes": encode(samples), "path": None}}


def decode(item: dict[str, Any]) -> np.ndarray:
    """The samples of a row that :func:`row` made, float32 ``(n,)`` at 16 kHz."""
    samples, _ = read(item)
    return samples


def write_part(folder: Path, part: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with :data:`FEATURES` as ``<part>.arrow``."""
    schema, remaining = FEATURES.arrow_schema, iter(rows)
    path = str(folder / f"{part}.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        while batch := list(islice(remaining, _BATCH)):
            file.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def load_parts(folder: Path) -> DatasetDict:
    """Both parts that :func:`write_part` left in a folder, mapped from the disk; an empty one is
    absent. AssetError where a file is damaged or missing."""
    try:
        maps = {part: pa.memory_map(str(folder / f"{part}.arrow")) for part in PARTS}
        tables = {part: pa.ipc.open_file(mapped).read_all() for part, mapped in maps.items()}
        return DatasetDict({part: Dataset(table) for part, table in tables.items() if len(table)})
    except (pa.ArrowException, OSError) as error:
        raise AssetError(f"{folder}: damaged: {error}", "delete it and run again") from error
