"""Recordings as typed rows, whatever they come from: converted, kept, and what is unusable counted.

Audio stays encoded until soundfile decodes it; what is kept is a typed row with 16-bit FLAC at
16 kHz, as of every other corpus here.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soxr

from kappa_lib import files, paths
from kappa_lib.errors import InputError
from kappa_lib.progress import say
from kappa_lib.speech import audio, encoder
from kappa_lib.speech.sources import Source
from kappa_lib.text import counted

SHORTEST = 0.1  # seconds; the language model hears a position every 0.08 s
LOWEST_RATE = 8_000  # Hz, a telephone's; below it speech is not intelligible
EXAMPLES = 10  # unusable rows that are named
_FORMAT = 1  # raise when the same request would give other rows
_BYTES = 300_000  # FLAC of a mean utterance, rounded up


def build(
    corpus: str, source: Source, train: int, test: int, seed: int
) -> tuple[datasets.DatasetDict, dict[str, dict[str, int]]]:
    """Rows of a source, read once and kept; a second call reads what the first one kept.

    Rows are taken in an order that ``seed`` shuffles, so that few rows already have many speakers.
    Rows that are unreadable, silent, without a transcript, too short, sampled below 8 kHz, or
    longer than the encoder's 30 s are left out, counted and reported; a part that ends before
    enough rows are found gives what it has.

    Returns:
        ``train`` and ``test``, each with ``audio.FEATURES``, an empty part absent; and part →
        reason → rows that were left out.

    Raises:
        InputError: negative count, missing folder or column, or no usable row.
        AssetError: gated, unknown or out of reach, or what was kept is damaged; says what to do.
    """
    if min(train, test, seed) < 0:
        what = f"corpus {corpus}: negative count or seed: {(train, test, seed)}"
        raise InputError(what, "give 0 or more")
    key = files.fingerprint([_FORMAT, source.origin(corpus), train, test, seed])[:32]
    folder = paths.cache() / "speech" / f"{corpus}-{key}"
    if not folder.is_dir():
        files.require_space(folder, (train + test) * _BYTES)
        say(f"speech {corpus}: reading {train} + {test} rows of {source.place(corpus)}")
        _make(corpus, source, {"test": test, "train": train}, seed, folder)
    needed = [part for part, count in (("train", train), ("test", test)) if count]
    return audio.load_parts(folder, needed), files.read_json(folder / "left_out.json")


def _make(corpus: str, source: Source, counts: dict[str, int], seed: int, folder: Path) -> None:
    items, examples = source.items(corpus, counts, seed), []
    left_out: dict[str, Counter[str]] = {part: Counter() for part in audio.PARTS}

    def usable(part: str) -> Iterator[dict[str, Any]]:
        for item in items[part]:
            try:
                yield _row(corpus, source, item, part)
            except audio.UnusableRow as error:
                left_out[part][error.reason] += 1
                if len(examples) < EXAMPLES:
                    path = (item["audio"] or {}).get("path")
                    examples.append(f"{error.what}{f' ({Path(path).name})' if path else ''}")

    with audio.making(folder) as temporary:
        for part, count in counts.items():
            audio.write_part(temporary, part, islice(usable(part), count))
        files.write_json(temporary / "left_out.json", left_out)
        found = {part: len(rows) for part, rows in audio.load_parts(temporary).items()}
        if missing := [part for part, count in counts.items() if count and not found.get(part)]:
            raise InputError(
                f"{source.place(corpus)}: no usable row for {' and '.join(missing)}:"
                f" { ({part: dict(reasons) for part, reasons in left_out.items()}) }"
                + "".join(f"\n  {example}" for example in examples[:3]),
                "check the recordings and the transcripts",
            )
    for example in examples:
        say(f"speech {corpus}: left out: {example}")
    for part, count in counts.items():
        for reason, rows in left_out[part].items():
            say(f"speech {corpus}: {counted(rows, f'{part} row')} left out: {reason}")
        if found.get(part, 0) < count:
            asked = counted(count, f"{part} row")
            say(f"speech {corpus}: {asked} asked for, {found[part]} usable")
    if total := sum(reasons.total() for reasons in left_out.values()):
        say(f"speech {corpus}: {counted(total, 'row')} left out")


def _row(corpus: str, source: Source, item: dict[str, Any], part: str) -> dict[str, Any]:
    """A source's row as one with ``audio.FEATURES``, or UnusableRow."""
    text, speaker = item[source.text] or "", item.get("speaker_id", item.get("speaker"))
    about = {
        "id": f"{corpus}-{item['id']}",
        "text": text.lower() if source.lower_case else text,
        "language": source.language,
        "corpus": corpus,
        "split": part,
        "speaker": "" if speaker is None else str(speaker),
    }
    heard = {**about, "audio": item["audio"]}
    # An hour is not read to be left out. One sample more, which resampling may round off, is.
    _require_short(about, audio.seconds(heard), encoder.MAX_SECONDS + 1 / audio.RATE)
    samples, rate = audio.read(heard)
    if rate < LOWEST_RATE:
        remedy = "record it at 8 kHz or more"
        raise audio.UnusableRow(about, "sampled below 8 kHz", remedy, f", at {rate} Hz")
    speech = np.clip(soxr.resample(samples, rate, audio.RATE), -1.0, 1.0)
    row = audio.row(speech, **about)
    if row["seconds"] < SHORTEST:
        raise audio.UnusableRow(about, f"shorter than {SHORTEST} s", "leave this row out")
    _require_short(about, row["seconds"], encoder.MAX_SECONDS)
    return row


def _require_short(about: dict[str, Any], seconds: float, longest: float) -> None:
    if seconds > longest:
        remedy, detail = "cut it into utterances", f", it lasts {seconds:.1f} s"
        raise audio.UnusableRow(about, "longer than 30 s", remedy, detail)
