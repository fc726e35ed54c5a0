"""Recordings as typed rows, whatever they come from: converted, kept, and what is unusable counted.

What is kept is 16-bit FLAC at 16 kHz. A source, as of ``corpora`` and ``sources``, has its
``language``. ``origin``, JSON-serialisable, is what decides its rows; ``items`` gives undecoded
rows of ``test``, which have to be read first, and ``train``, shuffled. Such a row has ``id``,
``text`` and ``audio``, a recording, or ``speak``, which gives the samples.
"""

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soxr

from kappa_lib import files, paths
from kappa_lib.errors import InputError
from kappa_lib.progress import Progress, say
from kappa_lib.speech import audio, encoder
from kappa_lib.speech.transcripts import normalise
from kappa_lib.text import counted

SHORTEST = 0.1  # seconds; the language model hears a position every 0.08 s
LOWEST_RATE = 8_000  # Hz, a telephone's; below it speech is not intelligible
_FORMAT = 5  # raise when the same request would give other rows
_BYTES = 300_000  # FLAC of a mean utterance, rounded up

Rows = Iterator[dict[str, Any]]


def build(
    corpus: str, source: Any, train: int, test: int, seed: int
) -> tuple[datasets.DatasetDict, dict[str, dict[str, int]]]:
    """Rows of a source in an order that ``seed`` shuffles, read once and kept.

    Rows that cannot be read whole, are silent, without a transcript, too short, sampled below
    8 kHz, or longer than the encoder's 30 s are left out, counted and reported, and so are
    recordings of the test set that come again; a part may so have fewer rows than asked for.

    Returns:
        ``train`` and ``test``, each with ``audio.FEATURES``, an empty part absent; and part →
        reason → rows that were left out.

    Raises:
        InputError: missing folder or column, or no usable row.
        AssetError: gated, unknown or out of reach, or what was kept is damaged; says what to do.
    """
    key = files.fingerprint([_FORMAT, source.origin(corpus), train, test, seed])[:32]
    folder = paths.cache() / "speech" / f"{corpus}-{key}"
    if not folder.is_dir():
        files.require_space(folder, (train + test) * _BYTES)
        say(f"speech {corpus}: reading {train} + {test} rows")
        _make(corpus, source, {"test": test, "train": train}, seed, folder)
    return audio.load_parts(folder), files.read_json(folder / "left_out.json")


def _make(corpus: str, source: Any, counts: dict[str, int], seed: int, folder: Path) -> None:
    items, examples, tested = source.items(corpus, counts, seed), [], set()
    left_out: dict[str, Counter[str]] = {part: Counter() for part in audio.PARTS}

    def usable(part: str) -> Rows:
        for item in items[part]:
            try:
                row = _row(corpus, source, item, part)
                digest = sha256(row["audio"]["bytes"]).digest()
                if digest in tested:
                    raise audio.UnusableRow(item, "recording of the test set, again")
            except audio.UnusableRow as error:
                left_out[part][error.reason] += 1
                path = (item.get("audio") or {}).get("path")
                examples.append(error.what + (f" ({Path(path).name})" if path else ""))
            else:
                tested.update({digest} if part == "test" else ())
                yield row

    with files.making(folder) as temporary:
        for part, count in counts.items():
            told = Progress(f"reading speech {corpus}, {part}", items=range(count))
            rows = (row for _, row in zip(told, usable(part), strict=False))
            audio.write_part(temporary, part, rows)
        files.write_json(temporary / "left_out.json", left_out)
        found = {part: len(rows) for part, rows in audio.load_parts(temporary).items()}
        if missing := [part for part, count in counts.items() if count and not found.get(part)]:
            raise InputError(
                f"corpus {corpus}: no usable row for {' and '.join(missing)}:"
                f" { ({part: dict(reasons) for part, reasons in left_out.items()}) }"
                + "".join(f"\n  {example}" for example in examples[:3]),
                "check the recordings and the transcripts",
            )
    lines = [f"left out: {example}" for example in examples[:10]]
    for part, reasons in left_out.items():
        lines += [f"{counted(n, f'{part} row')} left out: {why}" for why, n in reasons.items()]
        if (there := found.get(part, 0)) < counts[part]:
            lines.append(f"{counted(counts[part], f'{part} row')} asked for, {there} usable")
    for line in lines:
        say(f"speech {corpus}: {line}")


def _row(corpus: str, source: Any, item: dict[str, Any], part: str) -> dict[str, Any]:
    """A source's row as one with ``audio.FEATURES``, or UnusableRow."""
    about = {"id": f"{corpus}-{item['id']}", "text": item["text"] or ""}
    if speak := item.get("speak"):
        return audio.row(speak(), **about)
    heard = {**about, "audio": item["audio"]}
    # An hour is not read to be left out.
    if (length := audio.seconds(heard)) <= encoder.MAX_SECONDS + 1 / audio.RATE:
        samples, rate = audio.read(heard)
        if rate < LOWEST_RATE:
            raise audio.UnusableRow(heard, "sampled below 8 kHz", f", at {rate} Hz")
        samples = np.clip(soxr.resample(samples, rate, audio.RATE), -1.0, 1.0)
        row, length = audio.row(samples, **about), samples.size / audio.RATE
        if length < SHORTEST:
            raise audio.UnusableRow(heard, f"shorter than {SHORTEST} s")
    if length > encoder.MAX_SECONDS:
        raise audio.UnusableRow(heard, "longer than 30 s", f", it lasts {length:.1f} s")
    if part == "test" and not normalise(about["text"], source.language):
        raise audio.UnusableRow(heard, "nothing left by the normaliser")
    return row
