"""A commented profile to start from, for a folder of one's own recordings."""

import json
import re
from pathlib import Path
from string import Template

import yaml

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.profiles import CORPORA
from kappa_lib.progress import say
from kappa_lib.speech import audio
from kappa_lib.speech.encoder import MAX_SECONDS
from kappa_lib.speech.recorded import SHORTEST
from kappa_lib.speech.sources import OwnSpeech, row
from kappa_lib.speech.transcripts import normaliser, sentence_key

START = "laptop"  # the profile whose other values it takes
LEAST = 2  # sentences to test on, and to train on: an interval takes two
TESTED = 0.1  # share of the sentences that are kept for testing, where the folder has no test part
MOST_TESTED = 48  # they are all transcribed at every evaluation
CHARACTERS = 2  # of a transcript per token, at least: half of English, less in other languages


def write(target: Path, folder: Path, language: str, column: str, model: str) -> None:
    """Write a profile for the recordings in a folder.

    Args:
        target: its file, which gives the profile its name.
        folder: of the recordings, see :class:`kappa_lib.speech.sources.OwnSpeech`.
        language: ``en``, ``de``, ….
        column: of the transcripts.
        model: ``smollm2-135m``, a folder or a model hub id.

    Raises:
        InputError: the folder cannot be read, has too few sentences, or the profile would be
            refused; or its file is there already, or its name taken.
    """
    if target.suffix not in (".yaml", ".yml") or target.stem in profiles.names():
        raise InputError(f"{target}: no name for a profile", "take a new one that ends in .yaml")
    own = OwnSpeech(str(paths.expanded(folder).resolve()), language, column)
    texts, train, test = _counts(own)
    corpus = re.sub(r"[^A-Za-z0-9_-]", "_", folder.resolve().name) or "own"
    base = profiles.load(START)
    longest = max(map(len, texts)) / CHARACTERS
    values = base.model_dump() | {
        "profile": target.stem,
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "warm_batch": min(base.warm_batch, train),
        "batch": min(base.batch, train),
        "max_new_tokens": int(min(max(base.max_new_tokens, longest), 200)),
    }
    shown = values | {
        "path": target,
        "name": _quoted(target.stem),
        "model": _quoted(values["model"]),
        "encoder": _quoted(values["encoder"]),
        "corpus": f"my_{corpus}" if corpus in CORPORA else corpus,
        "folder": _quoted(own.folder),
        "language": _quoted(language),
        "text": _quoted(column),
        "normaliser": normaliser(language),
        **{"rows": len(texts), "sentences": len(set(texts)), "train": train, "test": test},
        "arms": ", ".join(base.arms),
    }
    template = Template((paths.DATA / "own_profile.yaml").read_text(encoding="utf-8"))
    made = template.substitute(shown)
    if rest := values.keys() - yaml.safe_load(made).keys():
        made += f"# As in the profile `{START}`; kappa_lib/profiles.py says what they are.\n"
        made += yaml.safe_dump({key: values[key] for key in sorted(rest)})
    profiles.checked(yaml.safe_load(made), str(target))  # refuses what a run would refuse
    if target.exists():
        raise InputError(f"{target} is there already", "take another name, or delete it")
    files.write_text(target, made)
    say(f"{language}: transcripts are compared after {normaliser(language)}")


def _counts(own: OwnSpeech) -> tuple[list[str], int, int]:
    """Transcripts of the recordings whose headers can be read and which are no longer than the
    encoder hears, and how many of them are for training and for testing."""
    rows, given = own.rows()
    texts = [words or "" for words in rows[own.text].to_pylist()]
    lengths = (audio.seconds(row(rows, index)) for index in range(len(rows)))
    usable = {
        index: sentence_key(texts[index])
        for index, length in enumerate(lengths)
        if SHORTEST <= length <= MAX_SECONDS and sentence_key(texts[index])
    }
    sentences = len(set(usable.values()))
    tested = {key for index, key in usable.items() if index in given}
    if given:
        test, train = len(usable.keys() & given), sum(k not in tested for k in usable.values())
    else:
        test = min(max(LEAST, int(TESTED * sentences)), MOST_TESTED)
        train = len(usable) - test
    if min(test, train) < LEAST or sentences < 2 * LEAST:
        what = f"{own.folder}: {len(usable)} of {len(rows)} recordings can be read and have words"
        remedy = f"it takes {LEAST} to test on and {LEAST} others to train on, and rather hundreds"
        raise InputError(f"{what}, {sentences} different sentences", remedy)
    return [texts[index] for index in usable], train, min(test, MOST_TESTED)


def _quoted(value: str) -> str:
    """A YAML scalar: bare where that reads as the same string."""
    bare = re.fullmatch(r"[\w./~-]+", value) and yaml.safe_load(value) == value
    return value if bare else json.dumps(value, ensure_ascii=False)
