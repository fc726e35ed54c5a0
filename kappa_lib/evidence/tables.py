"""What the runs of a profile left: one table of every evaluation, and readers of the rest."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.selection import Selection
from kappa_lib.speech.transcripts import word_error_rate
from kappa_lib.training.checkpoints import read_metrics

# The paper's Figure 1 averages the word error rates of its two languages; these are the corpora
# that stand for them, at the laptop's size and at the paper's.
LANGUAGES = ("de", "en", "librispeech", "mls_german")


def results(profile: Profile) -> pd.DataFrame:
    """What the finished runs of a profile measured; reads, and neither trains nor writes.

    Returns:
        A row an evaluation: ``arm``, ``seed``, ``step``, ``utterances``, ``seconds``,
        ``train_loss``, ``heldout_loss``, ``wer_<corpus>`` (fractions), ``wer_mean`` (of German,
        English and one's own corpora), ``text_loss``, ``kl`` (nats a token), ``capped``,
        ``empty`` (shares).

    Raises:
        InputError: no run has been finished.
    """
    folders = run_folders(profile)
    if not folders:
        raise InputError(
            f"{profile.folder / 'runs'}: no finished run of profile {profile.profile!r}",
            f"run notebook 04, or `kappa train --profile {profile.profile}`",
        )
    rows = [
        _row(read_json(folder / "config.json"), metrics, [*LANGUAGES, *profile.corpora])
        for folder in folders
        for metrics in read_metrics(folder)
    ]
    return pd.DataFrame(rows)


def run_folders(profile: Profile) -> list[Path]:
    """Folders of this profile's finished runs, in the order of its arms and seeds."""
    names = [f"{arm}-seed{seed}" for arm in profile.arms for seed in profile.seeds]
    folders = [profile.folder / "runs" / name for name in names]
    return [f for f in folders if (f / "provenance.json").is_file()]


def _row(config: dict[str, Any], metrics: dict[str, Any], averaged: list[str]) -> dict[str, Any]:
    wer = metrics["wer"]
    flat = {key: value for key, value in metrics.items() if key != "wer"}
    spoken = [wer[corpus] for corpus in averaged if corpus in wer]
    return {
        "arm": config["arm"],
        "seed": config["seed"],
        **flat,
        **{f"wer_{corpus}": value for corpus, value in wer.items()},
        "wer_mean": sum(spoken) / len(spoken) if spoken else float("nan"),
    }


def test_sets(table: pd.DataFrame) -> list[str]:
    """Corpora whose word error rate a table has: the paper's languages, one's own, the rest."""
    found = [c.removeprefix("wer_") for c in table if c.startswith("wer_") and c != "wer_mean"]
    return sorted(found, key=lambda corpus: (corpus == "en_human", corpus not in LANGUAGES))


def curves(table: pd.DataFrame, arm: str, column: str) -> list[list[float]]:
    """A column over training, a list a seed; empty where the arm was not run."""
    rows = table[table["arm"] == arm].sort_values(["seed", "step"])
    return [group[column].tolist() for _, group in rows.groupby("seed")]


def rises(table: pd.DataFrame, arm: str) -> list[float]:
    """How much the general-text loss rose from the first to the last evaluation, a seed each."""
    return [curve[-1] - curve[0] for curve in curves(table, arm, "text_loss")]


def parameters(profile: Profile) -> pd.DataFrame:
    """The arms side by side: tensors, parameters, and how many of each module type.

    Raises:
        InputError: the selections have not been made yet.
    """
    rows = []
    for arm in profile.arms:
        path = profile.folder / "selections" / f"{arm}.json"
        if not path.is_file():
            raise InputError(f"{path}: no selection yet", "run notebook 03 or `kappa select`")
        chosen = Selection.load(path)
        kinds = pd.Series([name.split(".")[-2] for name in chosen.tensors]).value_counts()
        counts = {"tensors": len(chosen.tensors), "parameters": chosen.parameters}
        rows.append({"arm": arm, "rule": chosen.rule, **counts, **kinds.sort_index()})
    table = pd.DataFrame(rows).set_index("arm")
    kinds = [c for c in table.columns if c != "rule"]
    return table.fillna(0).astype(dict.fromkeys(kinds, int))


def transcripts(profile: Profile, arm: str, seed: int, step: int | None = None) -> pd.DataFrame:
    """Reference and hypothesis of every test utterance at an evaluation, the last by default.

    Raises:
        InputError: there is no such run or step.
    """
    folder = profile.folder / "runs" / f"{arm}-seed{seed}" / "transcripts"
    found = sorted(folder.glob("step*.json"))
    chosen = found[-1:] if step is None else [p for p in found if p.stem == f"step{step:06d}"]
    if not chosen:
        raise InputError(f"{folder}: no transcripts of step {step}", "run notebook 04 first")
    return pd.DataFrame(json.loads(chosen[0].read_text(encoding="utf-8")))


def missing(profile: Profile) -> dict[str, str]:
    """Corpora that could not be had, and why; to be said wherever results are shown."""
    return _split(profile).get("missing", {})


def left_out(profile: Profile) -> dict[str, dict[str, dict[str, int]]]:
    """Corpus → part → reason → rows that could not be used."""
    return _split(profile).get("left_out", {})


def used(profile: Profile) -> dict[str, dict[str, int]]:
    """Corpus → part → rows that the runs had; empty for runs from before that was noted."""
    return _split(profile).get("used", {})


def _split(profile: Profile) -> dict[str, Any]:
    path = profile.folder / "split.json"
    return read_json(path) if path.is_file() else {}


def missing_note(profile: Profile) -> str:
    """One line for a figure's caption on the corpora that could not be had; empty if none."""
    return "; ".join(f"WITHOUT {corpus}: recordings not available" for corpus in missing(profile))


def extremes(profile: Profile, arm: str, seed: int, each: int = 3) -> pd.DataFrame:
    """The ``each`` best and worst transcripts of a run's last evaluation, with their WER."""
    rows = transcripts(profile, arm, seed)
    rows["wer"] = [
        word_error_rate([r.reference], [r.hypothesis], profile.language(r.corpus))
        for r in rows.itertuples()
    ]
    ranked = rows.sort_values("wer", kind="stable")[["corpus", "wer", "reference", "hypothesis"]]
    chosen = pd.concat([ranked.head(each), ranked.tail(each)])
    return chosen.assign(wer=chosen["wer"].round(2)).reset_index(drop=True)


def last(table: pd.DataFrame, arm: str, column: str) -> list[float]:
    """The last value of a column, a seed each; empty where the arm was not run."""
    return [curve[-1] for curve in curves(table, arm, column)]


def mean_of_last(curves_of_arm: list[list[float]]) -> float:
    """Mean over seeds of the last evaluation."""
    return sum(curve[-1] for curve in curves_of_arm) / len(curves_of_arm)


def best_of_mean(curves_of_arm: list[list[float]]) -> float:
    """The lowest point of the mean curve over seeds."""
    return min(sum(column) / len(column) for column in zip(*curves_of_arm, strict=True))
