"""Small files of speech: Parquet in the hub's layout and schema of LibriSpeech and MLS German, and
a folder of one's own."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import Audio, Features, Value, config

# A stream that is not read to its end waits so many seconds for the threads of pyarrow, for fear
# of the end of the process, which is far here.
config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
LIBRISPEECH = Features(
    {
        "file": Value("string"),
        "audio": Audio(sampling_rate=16_000),
        "text": Value("string"),
        "speaker_id": Value("int64"),
        "chapter_id": Value("int64"),
        "id": Value("string"),
    }
)
MLS = Features(
    {
        "audio": Audio(),
        "original_path": Value("string"),
        "begin_time": Value("float64"),
        "end_time": Value("float64"),
        "transcript": Value("string"),
        "audio_duration": Value("float64"),
        "speaker_id": Value("string"),
        "chapter_id": Value("string"),
        "file": Value("string"),
        "id": Value("string"),
    }
)
ENGLISH = ["THE CAT SAT STILL", "HE SAW A RED BOAT", "RAIN FELL ALL DAY", "SHE READ IT TWICE"]
GERMAN = ["die katze saß still", "er sah ein boot", "es regnete den tag", "sie las es zweimal"]


def sound(seconds: float, seed: int, kind: str = "FLAC") -> bytes:
    """Noise with a moving pitch: FLAC as LibriSpeech has it, Ogg Opus as MLS has it."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    tone = np.sin(2 * np.pi * (200 + 40 * (seed % 7)) * time * (1 + time / 10))
    samples = 0.3 * tone + generator.normal(0, 0.02, time.size)
    buffer = io.BytesIO()
    if kind == "OPUS":
        soundfile.write(buffer, samples, 16_000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(buffer, samples, 16_000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def librispeech_row(number: int, seconds: float = 1.0, **changes) -> dict:
    speaker, chapter = 100 + number % 3, 1000 + number % 5
    name = f"{speaker}-{chapter}-{number:04d}"
    row = {
        "file": f"{name}.flac",
        "audio": {"bytes": sound(seconds, number), "path": f"{name}.flac"},
        "text": ENGLISH[number % len(ENGLISH)],
        "speaker_id": speaker,
        "chapter_id": chapter,
        "id": name,
    }
    return row | changes


def mls_row(number: int, seconds: float = 1.0, **changes) -> dict:
    speaker, chapter = str(200 + number % 3), str(2000 + number % 5)
    name = f"{speaker}_{chapter}_{number:06d}"
    row = {
        "audio": {"bytes": sound(seconds, number, "OPUS"), "path": f"{name}.opus"},
        "original_path": f"http://archive.org/{name}.mp3",
        "begin_time": 3.0,
        "end_time": 3.0 + seconds,
        "transcript": GERMAN[number % len(GERMAN)],
        "audio_duration": seconds,
        "speaker_id": speaker,
        "chapter_id": chapter,
        "file": f"{name}.opus",
        "id": name,
    }
    return row | changes


def write(path: Path, rows: list[dict], features: Features) -> None:
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), path)


def write_librispeech(root: Path, split: str, rows: list[dict], shards: int = 1) -> None:
    """``all/<split>/0000.parquet`` and so on, as the pinned revision has it."""
    for shard in range(shards):
        path = root / "librispeech" / "all" / split / f"{shard:04d}.parquet"
        write(path, rows[shard::shards], LIBRISPEECH)


def write_mls(root: Path, split: str, rows: list[dict], shards: int = 1) -> None:
    """``german/<split>-00000-of-00001.parquet`` and so on."""
    for shard in range(shards):
        name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        write(root / "mls_german" / "german" / name, rows[shard::shards], MLS)


def write_both(root: Path, train: int, test: int) -> Path:
    """Both corpora with that many good rows."""
    write_librispeech(root, "train.clean.100", [librispeech_row(i) for i in range(train)], 2)
    write_librispeech(root, "test.clean", [librispeech_row(1000 + i) for i in range(test)])
    write_mls(root, "train", [mls_row(i) for i in range(train)], 2)
    write_mls(root, "test", [mls_row(1000 + i) for i in range(test)])
    return root


def sound_folder(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """A folder of sound files in stereo, a second each, and their metadata.csv."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    with open(folder / "metadata.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "text"])
        for number, text in enumerate(texts):
            samples = generator.normal(0, 0.1, (22_050, 2)).clip(-1, 1)
            soundfile.write(folder / f"{number}.wav", samples, 22_050)
            table.writerow([f"{number}.wav", text])
    return folder
