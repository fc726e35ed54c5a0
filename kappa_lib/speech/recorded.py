"""Recordings as typed rows, whatever they come from: converted, kept, and what is unusable counted.

Audio stays encoded until soundfile decodes it; what is kept is a typed row with 16-bit FLAC at
16 kHz, as of every other corpus here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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

SHORTEST = 0.1  # seconds; the language model hears a position every 0.08 s
LOWEST_RATE = 8_000  # Hz, a telephone's; below it speech is not intelligible
EXAMPLES = 10  # unusable rows that are named
_FORMAT = 1  # raise when the same request would give other rows
_BYTES = 300_000  # FLAC of a mean utterance, rounded up


@dataclass
class Reader:
    """Turns a source's rows into rows with ``audio.FEATURES``, counting the unusable."""

    corpus: str
    source: Source
    left_out: dict[str, Counter[str]] = field(
        default_factory=lambda: {part: Counter() for part in audio.PARTS}
    )
    examples: list[str] = field(default_factory=list)

    def rows(self, items: Iterator[dict[str, Any]], part: str) -> Iterator[dict[str, Any]]:
        """The usable rows among ``items``."""
        for item in items:
            try:
                yield self._row(item, part)
            except audio.UnusableRow as error:
                self.left_out[part][error.reason] += 1
                if len(self.examples) < EXAMPLES:
                    path = (item["audio"] or {}).get("path")
                    self.examples.append(f"{error.what}{f' ({Path(path).name})' if path else ''}")

    def _row(self, item: dict[str, Any], part: str) -> dict[str, Any]:
        text = item[self.source.text] or ""
        about = {
            "id": f"{self.corpus}-{item['id']}",
            "text": text.lower() if self.source.lower_case else text,
            "language": self.source.language,
            "corpus": self.corpus,
            "split": part,
            "speaker": str(item.get("speaker_id", item.get("speaker", ""))),
        }
        samples, rate = audio.read({**about, "audio": item["audio"]})
        if rate < LOWEST_RATE:
            remedy = "record it at 8 kHz or more"
            raise audio.UnusableRow(about, "sampled below 8 kHz", remedy, f", at {rate} Hz")
        speech = np.clip(soxr.resample(samples, rate, audio.RATE), -1.0, 1.0)
        row = audio.row(speech, **about)
        if row["seconds"] < SHORTEST:
            raise audio.UnusableRow(about, f"shorter than {SHORTEST} s", "leave this row out")
        if row["seconds"] > encoder.MAX_SECONDS:
            remedy, detail = "cut it into utterances", f", it lasts {row['seconds']:.1f} s"
            raise audio.UnusableRow(about, "longer than 30 s", remedy, detail)
        return row


def build(
    corpus: str,
    source: Source,
    train: int,
    test: int,
    seed: int,
    tell: Callable[[str], None] = say,
) -> tuple[datasets.DatasetDict, dict[str, dict[str, int]]]:
    """Rows of a source, read once and kept; a second call reads what the first one kept.

    Rows are taken in an order that ``seed`` shuffles, so that few rows already have many speakers.
    Rows that are unreadable, silent, without a transcript, too short, sampled below 8 kHz, or
    longer than the encoder's 30 s are left out and counted; a part that ends before enough rows
    are found gives what it has.

    Args:
        corpus: name of the rows' corpus.
        source: where they come from.
        train: number of utterances to train on.
        test: number of utterances to test on.
        seed: of the order.
        tell: told what is read, what was left out, and what there is less of than asked for.

    Returns:
        ``train`` and ``test``, each with ``audio.FEATURES``, an empty part absent; and part →
        reason → rows that were left out.

    Raises:
        InputError: negative count, missing folder or column, or no usable row.
        AssetError: gated, unknown or out of reach; says what to do.
    """
    if min(train, test, seed) < 0:
        raise InputError(f"corpus {corpus}: negative count or seed: {(train, test, seed)}")
    key = files.fingerprint([_FORMAT, source.origin(corpus), train, test, seed])[:32]
    folder = paths.cache() / "speech" / f"{corpus}-{key}"
    if not folder.is_dir():
        files.require_space(folder, (train + test) * _BYTES)
        tell(f"speech {corpus}: reading {train} + {test} rows of {source.place(corpus)}")
        _make(Reader(corpus, source), {"test": test, "train": train}, seed, folder, tell)
    return audio.load_parts(folder), files.read_json(folder / "left_out.json")


def _make(
    reader: Reader,
    counts: dict[str, int],
    seed: int,
    folder: Path,
    tell: Callable[[str], None],
) -> None:
    corpus, items = reader.corpus, reader.source.items(reader.corpus, counts, seed)
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        for part, count in counts.items():
            rows = islice(reader.rows(items[part], part), count)
            audio.write_part(temporary, part, rows)
        files.write_json(temporary / "left_out.json", reader.left_out)
        found = {part: len(rows) for part, rows in audio.load_parts(temporary).items()}
        if missing := [part for part, count in counts.items() if count and not found.get(part)]:
            raise InputError(
                f"{reader.source.place(corpus)}: no usable row for {' and '.join(missing)}:"
                f" { ({part: dict(reasons) for part, reasons in reader.left_out.items()}) }"
                + "".join(f"\n  {example}" for example in reader.examples[:3]),
                "check the recordings and the transcripts",
            )
    for example in reader.examples:
        tell(f"speech {corpus}: left out: {example}")
    for part, count in counts.items():
        for reason, rows in reader.left_out[part].items():
            tell(f"speech {corpus}: {rows} {part} rows left out: {reason}")
        if found.get(part, 0) < count:
            tell(f"speech {corpus}: {count} {part} rows asked for, {found[part]} usable")
    if total := sum(reasons.total() for reasons in reader.left_out.values()):
        tell(f"speech {corpus}: {total} rows left out")
