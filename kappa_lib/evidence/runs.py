"""What the runs of a profile left: a frame of all evaluations, one of arms, readers of the rest."""

from collections import defaultdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import bootstrap_mean, bootstrap_ratio
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.kappa_table import layer_of, types_of
from kappa_lib.spectra.selection import of_run
from kappa_lib.speech.transcripts import word_errors
from kappa_lib.training.checkpoints import read_metrics, run_folder

# The paper's Figure 1 averages the word error rates of its two languages; these are the corpora
# that stand for them: matrix sentences, open ones, and the paper's own.
LANGUAGES = ("de", "en", "de_open", "en_open", "librispeech", "mls_german")


def runs(source: Profile | str) -> "Runs":
    """The finished runs of a profile; a string is what :func:`kappa_lib.profiles.load` takes.

    Raises:
        InputError: no run has been finished, or there is no such profile.
    """
    found = Runs(source if isinstance(source, Profile) else profiles.load(source))
    if not found.folders:
        name = found.profile.profile
        what = f"{found.profile.folder / 'runs'}: no finished run of profile {name!r}"
        remedy = f"run notebook 04, or `kappa train --profile {name}`"
        raise InputError(what, remedy)
    return found


def runs_for(name: str | None, profile: Profile) -> "Runs":
    """The committed runs of the profile ``name`` where they are of this model, else one's own."""
    other = name not in (None, profile.profile) and (paths.REFERENCE / name / "runs").is_dir()
    if other and committed(name).profile.model == profile.model:
        return committed(name)
    return runs(profile)


@cache
def committed(name: str) -> "Runs":
    """The runs of a profile in ``results/reference``."""
    return runs(f"reference/{name}")


class Runs:
    """The finished runs of a ``profile``: read, never trained or written."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._averaged = [*LANGUAGES, *profile.corpora]  # the corpora of ``wer_mean``
        pairs = ((arm, seed) for arm in profile.arms for seed in profile.seeds)
        each = {(arm, seed): run_folder(profile, arm, seed) for arm, seed in pairs}
        # (arm, seed) → folder, in the order of arms and seeds.
        self.folders = {run: f for run, f in each.items() if (f / "provenance.json").is_file()}

    @property
    def ran(self) -> list[str]:
        """The arms of which a run is finished."""
        return list(dict.fromkeys(arm for arm, _ in self.folders))

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation of every arm and seed.

        ``arm``, ``seed``, ``step``, ``utterances``, ``seconds``, ``train_loss``, ``heldout_loss``,
        ``wer_<corpus>`` (fractions), ``wer_mean`` (of German, English and one's own corpora),
        ``text_loss``, ``kl`` (nats per token), ``capped``, ``empty`` (shares); where a run kept
        them, ``heldout_<corpus>``, ``text_<kind>`` and ``kl_<kind>``.
        """
        rows = []
        for (arm, seed), folder in self.folders.items():
            for metrics in read_metrics(folder):
                row = {key: value for key, value in metrics.items() if not isinstance(value, dict)}
                for name in ("wer", "heldout"):
                    row |= {f"{name}_{corpus}": x for corpus, x in metrics.get(name, {}).items()}
                for kind, found in metrics.get("text", {}).items():
                    row |= {f"text_{kind}": found["loss"], f"kl_{kind}": found["kl"]}
                spoken = [metrics["wer"][c] for c in self._averaged if c in metrics["wer"]]
                mean = sum(spoken) / len(spoken) if spoken else float("nan")
                rows.append({"arm": arm, "seed": seed, **row, "wer_mean": mean})
        return pd.DataFrame(rows)

    @cached_property
    def ends(self) -> pd.DataFrame:
        """The last evaluation of every run, by ``arm``, with its ``seed``."""
        return self.evaluations.groupby(["arm", "seed"], sort=False).tail(1).set_index("arm")

    @cached_property
    def trained(self) -> pd.DataFrame:
        """One row per tensor that an arm trains, of random arms in their first draw: ``arm``,
        ``tensor``, ``type``, ``layer``. InputError where the selections have not been made yet."""
        each = ((arm, of_run(self.profile, arm).tensors) for arm in self.profile.arms)
        rows = [(arm, name) for arm, names in each for name in names]
        table = pd.DataFrame(rows, columns=["arm", "tensor"])
        types = types_of(set(table["tensor"]))
        layers = table["tensor"].map(layer_of).astype(float)
        return table.assign(type=table["tensor"].map(types), layer=layers)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row per arm, run or not: its ``rule``, number of ``tensors`` and ``parameters``, the
        geometric mean ``kappa`` of its tensors as stored, their mean ``layer``, and how many there
        are of each type. InputError where the selections have not been made yet."""
        chosen = {arm: of_run(self.profile, arm) for arm in self.profile.arms}
        rows = {arm: (c.rule, len(c.tensors), c.parameters) for arm, c in chosen.items()}
        heads = ["rule", "tensors", "parameters"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=heads).rename_axis("arm")
        logs = self.trained.join(np.log(self.kappa["kappa"]), on="tensor").groupby("arm")
        table["kappa"], table["layer"] = np.exp(logs["kappa"].mean()), logs["layer"].mean()
        types = pd.crosstab(self.trained["arm"], self.trained["type"])
        return table.join(types.reindex(list(chosen), fill_value=0))

    @cached_property
    def kappa(self) -> pd.DataFrame:
        """The κ table that the arms were selected from, by ``tensor``."""
        return pd.read_csv(self.profile.folder / "kappa.csv").set_index("tensor")

    @property
    def made(self) -> str:
        """Date and processor of the last run."""
        *_, last = self.folders.values()
        origin = read_json(last / "provenance.json")
        return f"{origin['finished'][:10]} on {origin['processor']}"

    @property
    def epochs(self) -> float:
        """How often fine-tuning saw its data."""
        of = self.profile
        return of.steps * of.batch / sum((of.tune_utterances or of.train_utterances).values())

    def configs(self, arm: str) -> list[dict[str, Any]]:
        """What decided each run of an arm, one per seed."""
        return [read_json(self.folders[arm, seed] / "config.json") for seed in self._seeds(arm)]

    def split(self, what: str) -> dict[str, Any]:
        """What was noted of the corpora: ``missing`` (→ why it could not be had), ``left_out`` (→
        part → reason → unusable rows), ``used`` (→ part → rows); runs of old may lack it."""
        path = self.profile.folder / "split.json"
        return read_json(path).get(what, {}) if path.is_file() else {}

    @property
    def missing(self) -> str:
        """A figure's note on the corpora that could not be had; empty if none."""
        without = self.split("missing")
        return "; ".join(f"WITHOUT {corpus}: recordings not available" for corpus in without)

    def transcripts(self, arm: str, seed: int, step: int | None = None) -> pd.DataFrame:
        """``corpus``, ``reference`` and ``hypothesis`` of every test utterance at an evaluation,
        by default the last one; InputError where there is no such run or step."""
        folder = run_folder(self.profile, arm, seed) / "transcripts"
        found = sorted(folder.glob("step*.json" if step is None else f"step{step:06d}.json"))
        if not found:
            raise InputError(f"{folder}: no transcripts of step {step}", "run notebook 04 first")
        return pd.DataFrame(read_json(found[-1]))

    @cached_property
    def wer_intervals(self) -> pd.DataFrame:
        """Error rates with 95 % intervals of every evaluation whose transcripts are kept.

        Rows of ``arm``, ``step``, ``column`` (of :attr:`evaluations`), ``rate``, ``low``, ``high``,
        as fractions, by bootstrap over utterances and seeds, its draws seeded by the profile. The
        interval of a mean of corpora adds up those of its parts as independent ones (Zou and
        Donner 2008, "Construction of confidence limits", Statistics in Medicine 27).
        """
        rows = []
        for arm in self.ran:
            folders = [self.folders[arm, seed] / "transcripts" for seed in self._seeds(arm)]
            kept = [{int(p.stem.removeprefix("step")) for p in f.glob("*.json")} for f in folders]
            for step in sorted(set.intersection(*kept)):
                found = self._wer_intervals(arm, step)
                rows += [(arm, step, f"wer_{corpus}", *ends) for corpus, ends in found.items()]
                ends = np.array([found[corpus] for corpus in found if corpus in self._averaged])
                rate, apart = ends[:, 0].mean(), ends[:, :1] - ends[:, 1:]
                below, above = np.hypot.reduce(apart) / len(ends)
                rows.append((arm, step, "wer_mean", rate, rate - below, rate + above))
        return pd.DataFrame(rows, columns=["arm", "step", "column", "rate", "low", "high"])

    def _wer_intervals(self, arm: str, step: int) -> dict[str, tuple[float, float, float]]:
        errors, words = defaultdict(list), defaultdict(list)
        for seed in self._seeds(arm):
            for corpus, rows in self.transcripts(arm, seed, step).groupby("corpus", sort=False):
                language = self.profile.language(corpus)
                pairs = zip(rows["reference"], rows["hypothesis"], strict=True)
                wrong, spoken = zip(*(word_errors(*pair, language) for pair in pairs), strict=True)
                errors[corpus].append(wrong)
                words[corpus].append(spoken)
        draws = self.profile.seed
        return {c: bootstrap_ratio(errors[c], words[c], seed=draws).ends for c in errors}

    def text_intervals(self, arm: str) -> pd.DataFrame:
        """What an arm forgot of each kind of text: 95 % bootstrap over windows and seeds.

        One row per kind: ``rise`` of the loss from the first to the last evaluation and ``kl`` at
        the last, in nats per token, each with ``_low`` and ``_high``. InputError where there is no
        such run, or one from before there were kinds of text.
        """
        each = [read_metrics(self.folders[arm, seed]) for seed in self._seeds(arm)]
        if not all(run and "text" in run[-1] for run in each):
            raise InputError(f"{arm}: no losses of single texts", "train it again: notebook 04")
        rows: dict[str, dict[str, float]] = defaultdict(dict)
        for kind in each[0][-1]["text"]:
            first, last = ([run[end]["text"][kind] for run in each] for end in (0, -1))
            pairs = zip(first, last, strict=True)
            rise = [np.subtract(y["window_loss"], x["window_loss"]) for x, y in pairs]
            for name, drawn in (("rise", rise), ("kl", [x["window_kl"] for x in last])):
                ends = bootstrap_mean(drawn, seed=self.profile.seed).ends
                rows[kind] |= zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")

    def disruption(self, arm: str) -> pd.Series:
        """How far each run of an arm moved κ, by seed; empty where it was not kept.

        The mean over module types of the log of the type's mean |change of log κ|, so that every
        type counts alike; q_proj and o_proj, whose σ_k is next to nothing, change hundreds of
        times more than the rest.
        """
        found: dict[int, float] = {}
        for seed in self._seeds(arm):
            path: Path = self.folders[arm, seed] / "spectra.csv"
            if path.is_file():
                rows = pd.read_csv(path)
                moved = rows["dlogkappa"].abs().groupby(rows["type"]).mean()
                found[seed] = float(np.log(moved.clip(lower=np.finfo(float).eps)).mean())
        return pd.Series(found, dtype=float)

    def _seeds(self, arm: str) -> list[int]:
        """Seeds for which an arm has a finished run, of which there must be some."""
        seeds = [seed for name, seed in self.folders if name == arm]
        if not seeds:
            raise InputError(f"{arm}: no finished run", "run notebook 04, or `kappa train`")
        return seeds


def tested(evaluations: pd.DataFrame) -> list[str]:
    """Columns of word error rates: the paper's languages, one's own corpora, the rest."""
    found = [c for c in evaluations if c.startswith("wer_") and c != "wer_mean"]
    languages = {f"wer_{corpus}" for corpus in LANGUAGES}
    return sorted(found, key=lambda name: (name == "wer_en_human", name not in languages))
