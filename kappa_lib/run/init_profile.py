"""A commented profile to start from, for a folder of one's own recordings."""

import json
import re
from pathlib import Path
from string import Template

import yaml

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.profiles import CORPORA
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.speech.sources import OwnSpeech

START = "laptop"  # the profile whose other values it takes
TESTED = 0.1  # share of the sentences that are kept for testing, where the folder has no test part
MOST_TESTED = 48  # they are all transcribed at every evaluation
CHARACTERS = 2  # of a transcript a token, at least: half of English, less in other languages


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
    rows, given = own.rows()
    texts = [words or "" for words in rows[column]]
    sentences = len({sentence_key(words) for words in texts} - {""})
    if sentences < 2:
        raise InputError(
            f"{own.folder}: {sentences} different sentences in column {column!r}",
            "it takes one to train on and another to test on, and rather hundreds",
        )
    test = min(len(given) or max(1, int(TESTED * sentences)), MOST_TESTED)
    train = len(rows) - (len(given) or test)
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
        **{"rows": len(rows), "sentences": sentences, "train": train, "test": test},
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


def _quoted(value: str) -> str:
    """A YAML scalar: bare where that reads as the same string."""
    bare = re.fullmatch(r"[\w./~-]+", value) and yaml.safe_load(value) == value
    return value if bare else json.dumps(value, ensure_ascii=False)
