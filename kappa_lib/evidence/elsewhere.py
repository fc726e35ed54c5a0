"""What decides beside a run's own numbers: stability, other models, spoken prompts, other profiles.

The rules here were committed before the runs that they read, but for those that ``claims.yaml``
says were mended after them. What other models and inputs say decides no claim of its own; it says
how far the title's verdict carries. An arm is what :func:`kappa_lib.evidence.arms.measured`
returns, empty where nothing was run, or is committed of this model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.evidence import arms, encoding, listing, tables
from kappa_lib.evidence.rules_kappa import tracks
from kappa_lib.evidence.rules_study import can_turn
from kappa_lib.evidence.verdicts import ENOUGH_SEEDS, LEVEL, NATS, Interval, bootstrap_mean
from kappa_lib.spectra.kappa_table import types
from kappa_lib.spectra.selection import of_run
from kappa_lib.weights import models, sizes


def worth(found: Sequence[float]) -> str:
    """What a type's smallest singular values are worth to the model, in a word.

    ``found`` is the cost of taking σ_k away, less that of as much off a random direction, in nats
    a token: estimate and the ends of its 95 % interval over windows.
    """
    if found[1] > NATS:
        return "something"
    return "nothing" if found[1] > -NATS and found[2] < NATS else "open"


def stability(tensors: pd.DataFrame, stable: pd.DataFrame) -> dict[str, Interval]:
    """What decides low-kappa-is-stable: ρ of κ with two measures of instability, within types.

    ``noise_cost`` is with the KL that relative noise costs, ``gradient_noise`` with the noise scale
    of the gradient, both at 97.5 %, so that they cover together with 95 %. The tables, a row a
    tensor, are of :func:`kappa_lib.evidence.encoding.read` and the study's ``stability.csv``.
    """
    table = tensors[["tensor", "type", "layer", "kappa"]].merge(stable, on="tensor")
    columns = {"noise_cost": "kl", "gradient_noise": "noise_scale"}
    return {name: encoding.within_types(table, "kappa", column) for name, column in columns.items()}


def text_task(model: str) -> dict[str, dict[str, Any]]:
    """What decides new-text-task: ``kappatune`` and ``lora`` of the committed runs of ``text``."""
    found = _committed("text", model, kappatune="selected", lora="all")
    return {role: found.get(role, {}) for role in ("kappatune", "lora")}


def cause(model: str, low: dict[str, Any], high: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What decides whether it is κ: the arms at hand, or the committed runs of ``cause``, if more.

    Those are of neighbouring layers, alike in all that is held equal; rule and seeds were fixed
    before them.
    """
    lower, higher = arms.ALIKE_ARMS[0]
    found = _committed("cause", model, low=lower, high=higher)
    more = found and len(found["low"]["seeds"]) > len(low.get("seeds", ()))
    return {"low": found["low"], "high": found["high"]} if more else {"low": low, "high": high}


def curve(
    model: str, selected: dict[str, Any], inverse: dict[str, Any], epochs: float, schedule: str
) -> dict[str, Any]:
    """What decides the claims on the shape of the curves: the run at hand where it can turn.

    One that is too short is answered for by the committed runs of the profile ``turn``, whose arm
    of the largest κ has the size of ``selected``. Returned are the same four of the runs that
    decide.
    """
    own = {"selected": selected, "inverse": inverse, "epochs": epochs, "schedule": schedule}
    return own if can_turn(epochs, schedule) else turn(model) or own


def turn(model: str = models.DEFAULT) -> dict[str, Any]:
    """What :func:`curve` returns of the committed runs of ``turn``; empty where there are none."""
    return _committed("turn", model, selected="selected", inverse="inverse_matched_size")


def modality(model: str, selected: dict[str, Any], utterances: int) -> dict[str, Any]:
    """What decides new-modality: the arm at hand, or the committed runs of ``long``, if longer.

    A run that ended before the language model understood, on so many utterances, says nothing
    about whether it can.
    """
    longer = profiles.load("long")
    if utterances >= longer.steps * longer.batch:
        return selected
    found = _committed("long", model, selected="selected").get("selected")
    return found if found and len(found["seeds"]) >= ENOUGH_SEEDS else selected


def _committed(name: str, model: str, **wanted: str) -> dict[str, Any]:
    """Arms of a profile's committed runs by role, and their setting; empty where none are.

    Another model than theirs they say nothing of.
    """
    if not (paths.REFERENCE / name / "runs").is_dir() or profiles.load(name).model != model:
        return {}
    with paths.results_under(paths.REFERENCE):
        profile = tables.of_runs(name)
        table = tables.results(profile)
        found = {role: arms.measured(profile, table, arm) for role, arm in wanted.items()}
        return found | tables.setting(profile)


# Question → the profile whose committed runs answer it, and the pair of its arms.
QUESTIONS = {
    "smaller − larger κ, all else alike": ("cause", arms.ALIKE_ARMS[0]),
    "smaller − larger κ, all else alike, 300 steps": ("understood", arms.ALIKE_ARMS[0]),
    "type: attention − MLP": ("type", ("attention_matched_size", "mlp_matched_size")),
    "type: values − keys": ("type", ("value", "key")),
    "size: MLP − a third of it": ("type", ("mlp", "mlp_matched_size")),
    "smallest − largest κ on real input": ("type", ("lowest_input_kappa", "highest_input_kappa")),
    "smallest − largest κ, the paper's arms": ("study", ("selected", "inverse")),
    "smallest − largest κ, 600 steps": ("long", ("selected", "inverse_matched_size")),
    "smallest − largest κ, ten epochs": ("turn", ("selected", "inverse_matched_size")),
    "LoRA: smaller − larger κ, all else alike": ("text", arms.ALIKE_ARMS[0]),
    "LoRA: smallest κ − everywhere": ("text", ("selected", "all")),
    "LoRA: smallest κ − at random": ("text", ("selected", "random")),
    "LoRA: smallest κ − same types": ("text", ("selected", "random_like_selected")),
}


def questions() -> pd.DataFrame:
    """What every committed run says: :func:`kappa_lib.evidence.arms.outcomes`, a pair a question.

    Questions that fewer than three seeds have been run for are left out.
    """
    names = dict.fromkeys(name for name, _ in QUESTIONS.values())
    committed = [name for name in names if (paths.REFERENCE / name / "runs").is_dir()]
    with paths.results_under(paths.REFERENCE):
        rows = {name: arms.outcomes(tables.results(profiles.load(name))) for name in committed}
    found = []
    for question, (name, pair) in QUESTIONS.items():
        if name not in rows:
            continue
        of = rows[name][rows[name]["pair"] == arms.name_of(pair)]
        if of["seed"].nunique() >= ENOUGH_SEEDS:
            found.append(of.assign(pair=f"{question} (n = {of['seed'].nunique()})"))
    return pd.concat(found, ignore_index=True)


def question_of(pair: str) -> str:
    """The question in the name of a pair of :func:`questions`, without its number of seeds."""
    return pair.partition(" (n =")[0]


# Questions that try the rule as one would apply it, or leave nothing but κ → what is compared.
APPLIED = {
    "smallest − largest κ, 600 steps": "as many parameters of the largest κ, after 600 steps",
    "smallest − largest κ, ten epochs": "as many parameters of the largest κ, after ten epochs",
    "LoRA: smallest κ − everywhere": "on LoRA: the same size everywhere, at equal training loss",
    "LoRA: smallest κ − at random": "on LoRA: the same size on matrices drawn at random",
    "LoRA: smallest κ − same types": "on LoRA: the same size on random matrices of the same types",
    "LoRA: smaller − larger κ, all else alike": "on LoRA: their neighbours, all else alike",
    "smaller − larger κ, all else alike": "their neighbours of larger κ, all else alike",
    "smaller − larger κ, all else alike, 300 steps": "the same pair after 300 steps",
}
FORGETS = {"first lower": "less", "second lower": "more"}


def advice() -> str:
    """Whether to choose by smallest κ: what the committed runs say, as Markdown."""
    summary = arms.summary(questions())
    summary["question"] = summary["pair"].map(question_of)
    of = {name: group.set_index("question") for name, group in summary.groupby("outcome")}
    told, words = [], []
    for question, compared in APPLIED.items():
        if question in of["kl"].index:
            row, by_text = of["kl"].loc[question], of["text"].loc[question, "reading"]
            words.append(FORGETS.get(row["reading"], row["reading"]))
            shown = listing.interval(row["mean"], row["low"], row["high"], 3)
            other = f", by general-text loss {FORGETS.get(by_text, by_text)}"
            told.append(
                f"- {compared}: {shown} (n = {row['seeds']}), **{words[-1]}**"
                + other * (by_text != row["reading"])
            )
    answer = "Not on this evidence, which is"
    if "less" in words:
        answer = f"{'The runs disagree' if 'more' in words else 'By these runs yes'}; they are"
    size = sizes.language_model(sizes.llama_config(models.DEFAULT)).parameters
    return (
        f"**Should you choose what to fine-tune by its κ?** {answer} of one model of"
        f" {size / 1e6:.0f} M parameters and short runs. What the smaller κ forgot, as KL from the"
        " base model in nats a token, less what was forgotten by\n\n"
        + "\n".join(told)
        + "\n\nWhere"
        f" all else is alike, κ differs by a factor of {1 / contrast():.1f} only, so that"
        " *undecided* there is no evidence of no effect. Of the others all but those “of the same"
        " types”, which share most of their matrices with the smallest κ, differ in module types,"
        " too, so they say what the rule does, not that κ does it."
    )


def contrast() -> float:
    """κ of the lower arm over that of the higher, of the deciding pair: geometric means."""
    with paths.results_under(paths.REFERENCE):
        profile = tables.of_runs("cause")
        chosen = {arm: of_run(profile, arm) for arm in profile.arms}
        found = arms.differences(chosen, pd.read_csv(profile.folder / "kappa.csv"))
    return float(found["kappa"].iloc[0])


def information(folders: dict[str, Path]) -> pd.DataFrame:
    """A row a study: tensors, types, loss, ρ of κ with the deficit (ideal, real), and the word.

    ``folders`` says where each of the studies lies.
    """
    rows = {}
    for name, folder in folders.items():
        table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
        ideal, real = (
            encoding.within_types(table, "kappa", column, level=LEVEL)
            for column in ("deficit_isotropic", "deficit")
        )
        rows[name] = {
            "tensors": len(table),
            "types": len(types(table)),
            "loss": surgery["base"].mean(),
            "isotropic": encoding.text(ideal),
            "real": encoding.text(real),
            "κ tracks it": tracks(encoding.triple(real)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def smallest(folder: Path) -> pd.DataFrame:
    """A row a type of one study: shape, median κ, what its σ_k are worth, and the word."""
    table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
    costs = surgery.pivot_table(index=["scope", "window"], columns="change", values="loss")
    less = costs["surgery"] - costs["surgery_elsewhere"]
    rows = {}
    for kind in types(table):
        of = table[table["type"] == kind]
        found = bootstrap_mean([less[kind]], level=LEVEL)
        rows[kind] = {
            "rows": of["rows"].iloc[0],
            "cols": of["cols"].iloc[0],
            "κ": of["kappa"].median(),
            "input κ": of["input_kappa"].median(),
            "nats a token": encoding.text(found, 3),
            "σ_k is worth": worth(encoding.triple(found)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
