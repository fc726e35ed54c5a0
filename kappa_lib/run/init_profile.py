"""A commented profile to start from, for a folder of one's own recordings."""

import json
from pathlib import Path
from string import Template

import yaml

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.speech.sources import OwnSpeech
from kappa_lib.speech.transcripts import normaliser, sentence_key

START = "laptop"  # the profile whose other values it takes
LEAST = 2  # sentences to test on, and to train on: an interval takes two
TESTED = 0.1  # share of the sentences that are kept for testing, where the folder has no test part
MOST_TESTED = 48  # they are all transcribed at every evaluation
CHARACTERS = 2  # of a transcript per token, at least: half of English, less in other languages


def write(target: Path, folder: Path, language: str, column: str, model: str) -> None:
    """Write ``target``, a profile for recordings of :class:`kappa_lib.speech.sources.OwnSpeech`.

    InputError where the folder cannot be read, has too few sentences, or the profile would be
    refused; or where its file is there already, or its name taken.
    """
    if target.suffix not in (".yaml", ".yml") or target.stem in profiles.names():
        raise InputError(f"{target}: no name for a profile", "take a new one that ends in .yaml")
    if target.exists():
        raise InputError(f"{target} is there already", "take another name, or delete it")
    own = OwnSpeech(str(paths.expanded(folder).resolve()), language, column)
    keys, train, test = _counts(own)
    base = profiles.load(START)
    longest = max(map(len, keys)) // CHARACTERS
    values = base.model_dump() | {
        "profile": target.stem,
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "warm_batch": min(base.warm_batch, train),
        "batch": min(base.batch, train),
        "max_new_tokens": min(max(base.max_new_tokens, longest), 200),
    }
    speech = {"folder": own.folder, "language": language, "text": column}
    counts = {"rows": len(keys), "sentences": len(set(keys)), "train": train, "test": test}
    # What JSON writes, YAML reads.
    written = {k: json.dumps(v, ensure_ascii=False) for k, v in (values | speech | counts).items()}
    template = Template((paths.DATA / "own_profile.yaml").read_text(encoding="utf-8"))
    made = template.substitute(written, path=target, normaliser=normaliser(language))
    if rest := values.keys() - yaml.safe_load(made).keys():
        made += f"# As in the profile `{START}`; kappa_lib/profiles.py says what they are.\n"
        made += yaml.safe_dump({key: values[key] for key in sorted(rest)})
    profiles.checked(yaml.safe_load(made), str(target))  # refuses what a run would refuse
    files.write_text(target, made)


def _counts(own: OwnSpeech) -> tuple[list[str], int, int]:
    """The sentences of the recordings that have words, and how many recordings are for training
    and for testing, at most: those that turn out unusable are left out when they are read."""
    rows, given = own.rows()
    keys = [sentence_key(text or "") for text in rows["text"].to_pylist()]
    usable = list(filter(None, keys))
    sentences, tested = len(set(usable)), {keys[index] for index in given}
    if given:
        test, train = sum(bool(keys[i]) for i in given), sum(k not in tested for k in usable)
    else:
        test = min(max(LEAST, int(TESTED * sentences)), MOST_TESTED)
        train = len(usable) - test
    if min(test, train) < LEAST or sentences < 2 * LEAST:
        what = f"{own.folder}: {len(usable)} of {len(keys)} recordings have words"
        remedy = f"it takes {LEAST} to test on and {LEAST} others to train on, and rather hundreds"
        raise InputError(f"{what}, {sentences} different sentences", remedy)
    return usable, train, min(test, MOST_TESTED)
