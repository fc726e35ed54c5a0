"""What the runs of a profile left: one table of every evaluation, and readers of the rest."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import bootstrap_mean, bootstrap_ratio
from kappa_lib.files import read_json, replacing
from kappa_lib.profiles import Profile
from kappa_lib.spectra import selection
from kappa_lib.spectra.kappa_table import types_of
from kappa_lib.speech.transcripts import word_error_rate, word_errors
from kappa_lib.training.checkpoints import read_metrics, run_folder

# The paper's Figure 1 averages the word error rates of its two languages; these are the corpora
# that stand for them: matrix sentences, open ones, and the paper's own.
LANGUAGES = ("de", "en", "de_open", "en_open", "librispeech", "mls_german")


def shown(namespace: Mapping[str, Any]) -> Profile:
    """The profile that a notebook's parameters cell names, with its results in place.

    ``reference/laptop`` is the committed run of that profile, with the arms and seeds that it has.
    It is copied to ``results/shown``, where all that follows reads and writes: nothing committed
    changes, nor anything of a run of one's own. ``namespace`` is the notebook's ``globals()``;
    InputError where nothing is committed under the name.
    """
    committed, _, name = namespace["profile"].rpartition("/")
    if committed != "reference":
        return profiles.load(namespace)
    source, root = paths.REFERENCE / name, paths.results("shown")
    root = root.parent if root.parent.name == "shown" else root
    if not (source / "kappa.csv").is_file():
        raise InputError(f"{source}: no committed run", "name a folder of results/reference")
    with replacing(root / name) as temporary:
        shutil.copytree(source, temporary)
        shutil.rmtree(root / name, ignore_errors=True)
    os.environ["KAPPA_RESULTS"] = str(root)
    return of_runs(name)


def made(profile: Profile) -> str:
    """Date and processor of the profile's last finished run."""
    *_, last = finished(profile).values()
    origin = read_json(last / "provenance.json")
    return f"{origin['finished'][:10]} on {origin['processor']}"


def of_runs(name: str) -> Profile:
    """A profile with the arms and seeds of its finished runs alone."""
    profile = profiles.load(name)
    table = results(profile)
    seeds = sorted(table["seed"].unique().tolist())
    found = {"arms": list(dict.fromkeys(table["arm"])), "seeds": seeds}
    return profile.model_copy(update=found)


def results(profile: Profile) -> pd.DataFrame:
    """What the finished runs of a profile measured; reads, and neither trains nor writes.

    Returns:
        A row an evaluation: ``arm``, ``seed``, ``step``, ``utterances``, ``seconds``,
        ``train_loss``, ``heldout_loss``, ``wer_<corpus>`` (fractions), ``wer_mean`` (of German,
        English and one's own corpora), ``text_loss``, ``kl`` (nats a token), ``capped``,
        ``empty`` (shares); where a run kept them, ``heldout_<corpus>``, ``text_<kind>`` and
        ``kl_<kind>``.

    Raises:
        InputError: no run has been finished.
    """
    runs = finished(profile)
    if not runs:
        raise InputError(
            f"{profile.folder / 'runs'}: no finished run of profile {profile.profile!r}",
            f"run notebook 04, or `kappa train --profile {profile.profile}`",
        )
    rows, averaged = [], [*LANGUAGES, *profile.corpora]
    for folder in runs.values():
        config = read_json(folder / "config.json")
        for metrics in read_metrics(folder):
            row = {key: value for key, value in metrics.items() if not isinstance(value, dict)}
            for name in ("wer", "heldout"):
                row |= {f"{name}_{corpus}": x for corpus, x in metrics.get(name, {}).items()}
            for kind, found in metrics.get("text", {}).items():
                row |= {f"text_{kind}": found["loss"], f"kl_{kind}": found["kl"]}
            spoken = [metrics["wer"][corpus] for corpus in averaged if corpus in metrics["wer"]]
            mean = sum(spoken) / len(spoken) if spoken else float("nan")
            rows.append({"arm": config["arm"], "seed": config["seed"], **row, "wer_mean": mean})
    return pd.DataFrame(rows)


def finished(profile: Profile) -> dict[tuple[str, int], Path]:
    """Arm and seed of this profile's finished runs → folder, in the order of arms and seeds."""
    runs = [(arm, seed) for arm in profile.arms for seed in profile.seeds]
    folders = {run: run_folder(profile, *run) for run in runs}
    return {run: f for run, f in folders.items() if (f / "provenance.json").is_file()}


def setting(profile: Profile) -> dict[str, Any]:
    """What decides whether a curve can turn: ``epochs`` of training, and the ``schedule``.

    ``schedule`` is ``constant`` or ``decaying``; runs that do not name one decayed.
    """
    items = sum((profile.tune_utterances or profile.train_utterances).values())
    found = {read_json(run / "config.json").get("schedule") for run in finished(profile).values()}
    schedule = "constant" if found == {"constant"} else "decaying"
    return {"epochs": profile.steps * profile.batch / items, "schedule": schedule}


def test_sets(table: pd.DataFrame) -> list[str]:
    """Corpora whose word error rate a table has: the paper's languages, one's own, the rest."""
    found = [c.removeprefix("wer_") for c in table if c.startswith("wer_") and c != "wer_mean"]
    return sorted(found, key=lambda corpus: (corpus == "en_human", corpus not in LANGUAGES))


def parameters(profile: Profile) -> pd.DataFrame:
    """The arms side by side: tensors, parameters, and how many of each module type.

    InputError where the selections have not been made yet.
    """
    arms = {arm: selection.of_run(profile, arm) for arm in profile.arms}
    rows, types = [], module_types(arms.values())
    for arm, chosen in arms.items():
        kinds = pd.Series([types[name] for name in chosen.tensors]).value_counts()
        counts = {"tensors": len(chosen.tensors), "parameters": chosen.parameters}
        rows.append({"arm": arm, "rule": chosen.rule, **counts, **kinds.sort_index()})
    table = pd.DataFrame(rows).set_index("arm")
    kinds = [c for c in table.columns if c != "rule"]
    return table.fillna(0).astype(dict.fromkeys(kinds, int))


def module_types(arms: Iterable[selection.Selection]) -> dict[str, str]:
    """Module type of every tensor that one of a profile's arms trains."""
    return types_of({name for chosen in arms for name in chosen.tensors})


def transcripts(profile: Profile, arm: str, seed: int, step: int | None = None) -> pd.DataFrame:
    """Reference and hypothesis of every test utterance at an evaluation, the last by default.

    InputError where there is no such run or step.
    """
    folder = run_folder(profile, arm, seed) / "transcripts"
    found = sorted(folder.glob("step*.json"))
    chosen = found[-1:] if step is None else [p for p in found if p.stem == f"step{step:06d}"]
    if not chosen:
        raise InputError(f"{folder}: no transcripts of step {step}", "run notebook 04 first")
    return pd.DataFrame(read_json(chosen[0]))


def _seeds(profile: Profile, arm: str) -> list[int]:
    """Seeds of the profile for which an arm has a finished run, of which there must be some."""
    seeds = [seed for name, seed in finished(profile) if name == arm]
    if not seeds:
        raise InputError(f"{arm}: no finished run", "run notebook 04, or `kappa train`")
    return seeds


def wer_intervals(
    profile: Profile, arm: str, step: int | None = None
) -> dict[str, tuple[float, float, float]]:
    """Word error rates of an evaluation, the last by default, with 95 % bootstrap intervals.

    They are of :func:`kappa_lib.evidence.verdicts.bootstrap_ratio` over utterances and finished
    seeds, its draws seeded by the profile. InputError where there is no such run or step.

    Returns:
        Corpus → rate, low, high, as fractions.
    """
    errors, words = defaultdict(list), defaultdict(list)
    for seed in _seeds(profile, arm):
        for corpus, rows in transcripts(profile, arm, seed, step).groupby("corpus", sort=False):
            language = profile.language(corpus)
            found = [word_errors(r.reference, r.hypothesis, language) for r in rows.itertuples()]
            errors[corpus].append([wrong for wrong, _ in found])
            words[corpus].append([spoken for _, spoken in found])
    intervals = {c: bootstrap_ratio(errors[c], words[c], seed=profile.seed) for c in errors}
    return {corpus: (i.estimate, i.low, i.high) for corpus, i in intervals.items()}


def wer_bands(profile: Profile, arms: Sequence[str]) -> pd.DataFrame:
    """:func:`wer_intervals` of every evaluation whose transcripts are kept, for the figures.

    The interval of a mean of corpora adds up those of its parts as independent ones (Zou and
    Donner 2008, "Construction of confidence limits", Statistics in Medicine 27).

    Returns:
        Rows of ``arm``, ``step``, ``column`` (as in :func:`results`), ``low``, ``high``.
    """
    spoken, rows = {*LANGUAGES, *profile.corpora}, []
    for arm in arms:
        folders = [f / "transcripts" for (a, _), f in finished(profile).items() if a == arm]
        kept = [{int(p.stem.removeprefix("step")) for p in f.glob("*.json")} for f in folders]
        for step in sorted(set.intersection(*kept)):
            found = wer_intervals(profile, arm, step=step)
            rows += [(arm, step, f"wer_{c}", low, high) for c, (_, low, high) in found.items()]
            ends = np.array([found[c] for c in found if c in spoken])
            rate = ends[:, 0].mean()
            below, above = (np.hypot.reduce(ends[:, 0] - ends[:, i]) / len(ends) for i in (1, 2))
            rows.append((arm, step, "wer_mean", rate - below, rate + above))
    return pd.DataFrame(rows, columns=["arm", "step", "column", "low", "high"])


def text_intervals(profile: Profile, arm: str) -> pd.DataFrame:
    """What an arm forgot of each kind of text: 95 % bootstrap intervals over windows and seeds.

    Returns:
        A row a kind: ``rise`` of the loss from the first to the last evaluation and ``kl`` at
        the last, in nats a token, each with ``_low`` and ``_high``.

    Raises:
        InputError: no such run, or one from before there were kinds of text.
    """
    runs = [read_metrics(run_folder(profile, arm, seed)) for seed in _seeds(profile, arm)]
    if not all(run and "text" in run[-1] for run in runs):
        raise InputError(f"{arm}: no losses of single texts", "train it again: notebook 04")
    rows = {}
    for kind in runs[0][-1]["text"]:
        ends = [(run[0]["text"][kind], run[-1]["text"][kind]) for run in runs]
        losses = [(first["window_loss"], last["window_loss"]) for first, last in ends]
        values = {
            "rise": [[y - x for x, y in zip(*pair, strict=True)] for pair in losses],
            "kl": [last["window_kl"] for _, last in ends],
        }
        rows[kind] = {}
        for name, drawn in values.items():
            found = bootstrap_mean(drawn, seed=profile.seed)
            rows[kind] |= {name: found.estimate, f"{name}_low": found.low}
            rows[kind][f"{name}_high"] = found.high
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


def split(profile: Profile, what: str) -> dict[str, Any]:
    """What a run noted of its corpora: ``missing`` (→ why it could not be had; to be said wherever
    results are shown), ``left_out`` (→ part → reason → unusable rows), ``used`` (→ part → rows).

    Empty for runs from before it was noted.
    """
    path = profile.folder / "split.json"
    return read_json(path).get(what, {}) if path.is_file() else {}


def missing_note(profile: Profile) -> str:
    """One line for a figure's caption on the corpora that could not be had; empty if none."""
    without = split(profile, "missing")
    return "; ".join(f"WITHOUT {corpus}: recordings not available" for corpus in without)


def disruption(profile: Profile, arm: str, seed: int) -> float | None:
    """How far a run moved κ: mean over module types of log of the type's mean |change of log κ|.

    So every type counts alike; q_proj and o_proj, whose σ_k is next to nothing, change hundreds of
    times more than the rest. None where it was not kept.
    """
    path = run_folder(profile, arm, seed) / "spectra.csv"
    if not path.is_file():
        return None
    rows = pd.read_csv(path)
    moved = rows["dlogkappa"].abs().groupby(rows["type"]).mean()
    return float(np.log(moved.clip(lower=np.finfo(float).eps)).mean())


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
