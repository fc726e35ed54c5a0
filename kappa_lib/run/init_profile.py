"""A commented profile to start from, for a folder of one's own recordings."""

import json
import re
from pathlib import Path

import yaml

from kappa_lib import files, profiles
from kappa_lib.errors import InputError
from kappa_lib.profiles import CORPORA, Profile
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.speech.own_speech import OwnSpeech

TESTED = 0.1  # share of the sentences that are kept for testing, where the folder has no test part
MOST_TESTED = 48  # they are all transcribed at every evaluation
CHARACTERS = 2  # of a transcript a token, at least: half of English, less in other languages

_TEMPLATE = """\
# Written by `kappa init-profile`: {rows} recordings of {sentences} different sentences.
#   bash reproduce.sh --profile {path}   all notebooks, and a report
#   kappa plan --profile {path}          what it takes
#   kappa train --profile {path}         the training alone
profile: {name} # the name of this file, and of its folder under results/
model: {model} # smollm2-135m, a folder, or a model hub id
encoder: {encoder} # whisper-base, a folder, or a hub id of a Whisper model
dtype: {dtype} # of the language model's weights: float32, bfloat16, or what the device is good at
device: {device}
# Your recordings. language: en has a normaliser of its own, all others share one. text: the column
# of the transcripts. More corpora can stand here, each with its counts below.
corpora:
  {corpus}:
    folder: {folder}
    language: {language}
    text: {text}
# How many utterances, at most. No sentence of a test set is trained on. Beside your own you can
# name de and en (synthetic), en_human (telephone prompts), librispeech and mls_german (the hub).
train_utterances: {{{corpus}: {train}}}
test_utterances: {{{corpus}: {test}}}
share: {share} # of the decoder's matrices that an arm trains: the paper's 100 of 224
arms: [{arms}] # kappa_lib/spectra/arms.py lists them
seed: {seed} # of the split and of random arms
seeds: {seeds} # one training run an arm for each; three say more than one
# The adaptor's warm start, then fine-tuning, in steps of that many utterances.
warm_steps: {warm_steps}
warm_batch: {warm_batch}
warm_lr: {warm_lr}
warm_dropout: {warm_dropout}
shared_start: {shared_start} # true: one warm start for all seeds
steps: {steps}
batch: {batch}
lr: {lr}
schedule: {schedule} # or constant
optimiser: {optimiser} # or adafactor, which needs less memory
parallel: {parallel} # or fsdp2, which spreads the model over several GPUs
eval_every: {eval_every} # steps
max_new_tokens: {max_new_tokens} # no transcript that the model writes is longer
text_tokens: {text_tokens} # of each of three general texts, on which forgetting is measured
"""


def text(
    folder: Path, language: str, column: str, model: str, target: Path, start: str = "laptop"
) -> str:
    """The YAML of a profile for the recordings in a folder.

    Args:
        folder: of the recordings, see :class:`kappa_lib.speech.own_speech.OwnSpeech`.
        language: ``en``, ``de``, ….
        column: of the transcripts.
        model: ``smollm2-135m``, a folder or a model hub id.
        target: the file it is meant for, which gives the profile its name.
        start: profile whose other values it takes.

    Raises:
        InputError: the folder cannot be read, has too few sentences, or the profile would be
            refused; or its name is taken.
    """
    if target.suffix not in (".yaml", ".yml") or target.stem in profiles.names():
        raise InputError(f"{target}: no name for a profile", "take a new one that ends in .yaml")
    own = OwnSpeech(str(folder.expanduser().resolve()), language, column)
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
    base = profiles.load(start)
    longest = max(map(len, texts)) / CHARACTERS
    values = base.values() | {
        "profile": target.stem,
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "warm_batch": min(base.warm_batch, train),
        "batch": min(base.batch, train),
        "max_new_tokens": int(min(max(base.max_new_tokens, longest), 200)),
    }
    about = {
        "corpus": f"my_{corpus}" if corpus in CORPORA else corpus,
        **{"folder": own.folder, "language": language, "text": column},
        **{"rows": len(rows), "sentences": sentences, "train": train, "test": test},
        "path": target,
        "name": _quoted(target.stem),
    }
    quoted = {key: _quoted(about[key]) for key in ("folder", "text", "language")}
    quoted |= {key: _quoted(values[key]) for key in ("model", "encoder")}
    made = _TEMPLATE.format(**{**values, **about, **quoted, "arms": ", ".join(base.arms)})
    if rest := values.keys() - yaml.safe_load(made).keys():
        made += f"# As in the profile `{start}`; kappa_lib/profiles.py says what they are.\n"
        made += yaml.safe_dump({key: values[key] for key in sorted(rest)})
    Profile(**yaml.safe_load(made))  # refuses what a run would refuse
    return made


def write(target: Path, made: str) -> None:
    """Write a new profile.

    Raises:
        InputError: the file is there already.
    """
    if target.exists():
        raise InputError(f"{target} is there already", "take another name, or delete it")
    files.write_text(target, made)


def _quoted(value: str) -> str:
    """A YAML scalar: bare where that reads as the same string."""
    bare = re.fullmatch(r"[\w./~-]+", value) and yaml.safe_load(value) == value
    return value if bare else json.dumps(value, ensure_ascii=False)
