"""What an arm's runs measured, as rules read it; and how two arms differ beside κ."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.evidence import tables
from kappa_lib.evidence.statistics import ENOUGH_SEEDS
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.kappa_table import layer_of, type_of
from kappa_lib.spectra.selection import of_run, select
from kappa_lib.speech.transcripts import word_error_rate
from kappa_lib.training.checkpoints import run_folder
from kappa_lib.weights import sizes

# The direction of the runs with this seed was known before the rules were written.
PILOT_SEED = 0
# Arms that differ in κ within module types, from those that are also alike in depth.
ALIKE_ARMS = (
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("lowest_in_type", "highest_in_type"),
)
# Differences up to these count as none: share of the parameters and of the tensors' types, layers.
ALIKE = {"parameters": 0.01, "types": 0.01, "layers": 1.0}


def measured(profile: Profile, table: pd.DataFrame, arm: str) -> dict[str, Any]:
    """One arm in plain numbers; empty where it was not run.

    Args:
        profile: whose selections and transcripts are read.
        table: of :func:`kappa_lib.evidence.tables.results`.
        arm: its name.

    Returns:
        ``seeds``; per seed ``wer`` (curve of the languages' mean, fractions), ``halves`` (the same
        on each half of the test sets, where transcripts are kept), ``text`` (rise of general-text
        loss) and ``kl`` at the last evaluation, nats a token; ``corpora`` (corpus → last WER per
        seed); ``parameters``, ``types`` (type → share of tensors), ``layers`` (type → mean);
        ``draws`` (how many different selections the seeds had); ``disruption`` (mean
        |change of log κ| of what was trained, a seed each, where spectra were kept).
    """
    rows = table[table["arm"] == arm].sort_values(["seed", "step"])
    if rows.empty:
        return {}
    runs = [run for _, run in rows.groupby("seed")]
    corpora = [c for c in rows if c.startswith("wer_") and c != "wer_mean"]
    seeds = [int(run["seed"].iloc[0]) for run in runs]
    changes = [disruption(profile, arm, seed) for seed in seeds]
    return {
        "seeds": seeds,
        "wer": [run["wer_mean"].tolist() for run in runs],
        "halves": [half_curves(profile, arm, seed) for seed in seeds],
        "text": [float(run["text_loss"].iloc[-1] - run["text_loss"].iloc[0]) for run in runs],
        "kl": [float(run["kl"].iloc[-1]) for run in runs],
        "corpora": {
            c.removeprefix("wer_"): [float(run[c].iloc[-1]) for run in runs]
            for c in corpora
            if rows[c].notna().all()
        },
        **trained(profile, arm),
        "draws": _draws(profile, arm),
        "disruption": [] if None in changes else changes,
    }


def trained(profile: Profile, arm: str) -> dict[str, Any]:
    """``parameters``, ``types`` and ``layers`` of what an arm trains, see :func:`measured`."""
    chosen = of_run(profile, arm)
    kinds = [type_of(name) for name in chosen.tensors]
    layers = pd.Series([layer_of(name) for name in chosen.tensors], dtype=float)
    shares = pd.Series(kinds).value_counts(normalize=True).sort_index()
    return {
        "parameters": chosen.parameters,
        "types": {kind: float(share) for kind, share in shares.items()},
        "layers": {kind: float(mean) for kind, mean in layers.groupby(kinds).mean().items()},
    }


def _draws(profile: Profile, arm: str) -> int:
    folders = [f for (name, _), f in tables.finished(profile).items() if name == arm]
    return len({read_json(folder / "config.json")["tensors"] for folder in folders})


def setting(profile: Profile) -> dict[str, Any]:
    """What decides whether a curve can turn: ``epochs`` of training, and the ``schedule``.

    ``schedule`` is ``constant`` or ``decaying``; runs that do not name one decayed.
    """
    items = sum(profile.train_utterances.values())
    configs = [read_json(f / "config.json") for f in tables.finished(profile).values()]
    constant = bool(configs) and all(c.get("schedule") == "constant" for c in configs)
    return {
        "epochs": profile.steps * profile.batch / items,
        "schedule": "constant" if constant else "decaying",
    }


def half_curves(profile: Profile, arm: str, seed: int) -> list[list[float]]:
    """WER over training on the even and on the odd utterances, languages averaged.

    The best point is picked on one half and the rise from it measured on the other, so that the
    luck of the best point is not counted as a rise. Empty where no transcripts are kept.
    """
    folder = run_folder(profile, arm, seed) / "transcripts"
    curves: list[list[float]] = [[], []]
    for path in sorted(folder.glob("step*.json")):
        rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
        spoken = rows[rows["corpus"].isin(tables.LANGUAGES)].sort_values(["corpus", "id"])
        for parity, curve in enumerate(curves):
            rates = []
            for corpus, group in spoken.groupby("corpus"):
                half = group.iloc[parity::2]
                said, heard = half["reference"].tolist(), half["hypothesis"].tolist()
                rates.append(word_error_rate(said, heard, profile.language(corpus)))
            curve.append(float(np.mean(rates)))
    return curves if curves[0] else []


def disruption(profile: Profile, arm: str, seed: int) -> float | None:
    """Mean |change of log κ| of the tensors that a run trained; None where it was not kept."""
    path = run_folder(profile, arm, seed) / "spectra.csv"
    return float(pd.read_csv(path)["dlogkappa"].abs().mean()) if path.is_file() else None


def decisive(seeds: Sequence[int]) -> tuple[list[int], str]:
    """The seeds that decide, and a note on the pilot: left out where three others are there."""
    others = [seed for seed in seeds if seed != PILOT_SEED]
    if len(others) == len(seeds):
        return list(seeds), ""
    if len(others) >= ENOUGH_SEEDS:
        return others, f"pilot seed {PILOT_SEED} left out"
    return list(seeds), f"with pilot seed {PILOT_SEED}"


def alike_arms(arms: Sequence[str]) -> tuple[str, str]:
    """The pair of a profile's arms that differs in least beside κ, lower κ first."""
    return next((pair for pair in ALIKE_ARMS if set(pair) <= set(arms)), ALIKE_ARMS[-1])


def same_seeds(first: dict[str, Any], second: dict[str, Any], key: str) -> tuple[list, list, str]:
    """Values of both arms for their common decisive seeds, and the note on the pilot.

    Raises:
        InputError: an arm has not one value a seed.
    """
    values = []
    for arm in (first, second):
        if len(arm[key]) != len(arm["seeds"]):
            raise InputError(f"{key!r} has not one value a seed", "measure every seed")
        values.append(dict(zip(arm["seeds"], arm[key], strict=True)))
    common, note = decisive([seed for seed in values[0] if seed in values[1]])
    return [values[0][s] for s in common], [values[1][s] for s in common], note


def unlike(
    first: dict[str, Any],
    second: dict[str, Any],
    held: tuple[str, ...] = ("parameters", "types"),
) -> list[str]:
    """What differs between two arms beside κ, in words; empty where nothing that is held does.

    Args:
        first: of :func:`measured`.
        second: of :func:`measured`.
        held: which of ``parameters``, ``types``, ``layers`` must be alike.
    """
    found = []
    smaller, larger = sorted((first["parameters"], second["parameters"]))
    if "parameters" in held and larger - smaller > ALIKE["parameters"] * larger:
        found.append(f"{first['parameters'] / second['parameters']:.2f} × the parameters")
    a, b = first["types"], second["types"]
    apart = sum(abs(a.get(kind, 0.0) - b.get(kind, 0.0)) for kind in {*a, *b}) / 2
    if "types" in held and apart > ALIKE["types"]:
        found.append(f"{100 * apart:.0f} % other module types")
    common = {k: first["layers"][k] - second["layers"][k] for k in a if k in second["layers"]}
    kind = max(common, key=lambda k: abs(common[k]), default="")
    if "layers" in held and kind and abs(common[kind]) > ALIKE["layers"]:
        side = "higher" if common[kind] > 0 else "lower"
        found.append(f"its {kind} {abs(common[kind]):.1f} layers {side}")
    return found


def reversed_sizes(selected: int, inverse: int) -> str:
    """The sentence on how many parameters the two arms train, here and at the paper's shapes."""
    llm = sizes.language_model(sizes.llama_config("meta-llama/Llama-3.1-8B-Instruct"))
    table = kappa_table.null_table(llm.shapes, llm.layers)
    paper = [select(table, arm, 100).parameters / 1e9 for arm in ("selected", "inverse")]
    return (
        f"`selected` trains {selected / inverse:.2f} × the parameters of `inverse` here; with"
        f" Llama-3-8B's shapes it is {paper[0]:.2f} against {paper[1]:.2f} billion"
    )
