"""What runs measured, in Markdown tables: of reports, the README and ``results/reference``."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import pandas as pd

from kappa_lib import paths
from kappa_lib.evidence import claims, listing
from kappa_lib.evidence.compare import (
    ENDS,
    Pair,
    comparisons,
    name_of,
    outcomes_of,
    pairs_of,
    seed_by_seed,
    texts_of,
    unlike,
)
from kappa_lib.evidence.runs import LANGUAGES, Runs, runs, tested
from kappa_lib.evidence.verdicts import HIGHER, LOWER, decisive, interval
from kappa_lib.files import read_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.speech.transcripts import normaliser
from kappa_lib.text import clock, counted, markdown
from kappa_lib.weights import models

FILE = "REPORT.md"
# Question → the profile whose committed runs answer it, and the pair of its arms.
_NEIGHBOURS = ("lower_of_neighbours", "higher_of_neighbours")
QUESTIONS: dict[str, tuple[str, Pair]] = {
    "same function: κ as it is − × 30": ("gauge", ("selected", "dose3_matched")),
    "same function: κ as it is − × 8": ("gauge", ("selected", "dose2_matched")),
    "matched pair: smaller − larger κ": ("cause", _NEIGHBOURS),
    "matched pair, 300 steps": ("understood", _NEIGHBOURS),
    "type: attention − MLP": ("type", ("attention_matched_size", "mlp_matched_size")),
    "type: values − keys": ("type", ("value", "key")),
    "size: MLP − a third of it": ("type", ("mlp", "mlp_matched_size")),
    "smallest − largest κ on real input": ("type", ("lowest_input_kappa", "highest_input_kappa")),
    "smallest − largest κ, the paper's arms": ("study", ("selected", "inverse")),
    "smallest − largest κ, 600 steps": ("long", ("selected", "inverse_matched_size")),
    "smallest − largest κ, ten epochs": ("turn", ("selected", "inverse_matched_size")),
    "matched pair, LoRA": ("text_early", _NEIGHBOURS),
    "LoRA: smallest κ − everywhere": ("text_early", ("selected", "all")),
    "LoRA: smallest κ − at random": ("text_early", ("selected", "random")),
    "LoRA: smallest κ − same types": ("text_early", ("selected", "random_like_selected")),
}
_LABELS = {"wer": "WER", "text": "general-text loss", "kl": "KL"}
# Heading → column of the evaluations, factor, digits.
LOSSES = {
    "training loss": ("train_loss", 1, 3),
    "held-out loss": ("heldout_loss", 1, 3),
    "general-text loss": ("text_loss", 1, 4),
    "KL from base": ("kl", 1, 4),
}


def write(profile: Profile, folder: Path | None = None) -> Path:
    """Write ``REPORT.md`` from what a profile's runs left into ``folder``; return its path.

    By default it is the profile's output; claims and figures are read from there, too.
    """
    folder = folder or profile.output
    found, path = runs(profile), folder / FILE
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(paths.DATA), trim_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.globals |= {"counted": counted, "read": read_json}
    environment.filters["line"] = lambda text: " ".join(text.split())
    text = environment.get_template("REPORT.md.j2").render(
        profile=profile,
        found=found,
        stored_as=models.stored_as(profile.model),
        computed_in=sorted({c["dtype"] for arm in found.arms.index for c in found.configs(arm)}),
        used={part: _used(found, part) for part in ("train", "test")},
        normalisers={
            corpus: normaliser(profile.language(corpus))
            for corpus, count in sorted(profile.test_utterances.items())
            if count
        },
        pilot=decisive(sorted(found.evaluations["seed"].unique().tolist()))[1],
        pictures={path.stem for path in (folder / "figures").glob("*.png")},
        tables={
            "wer": evaluations_table(found.evaluations, wer_columns(found.evaluations)),
            "intervals": intervals_table(found),
            "losses": evaluations_table(found.evaluations, LOSSES),
            "pairs": pairs_table(found),
            "beside": beside_table(found),
            "arms": arms_table(found),
            "times": time_table(profile.folder),
        },
        claims=claims.load(folder),
        listing=listing,
    )
    write_text(path, text.rstrip() + "\n")
    return path


def _used(found: Runs, part: str) -> str:
    """Utterances of each corpus, and how many were asked for where there were fewer."""
    used, words = found.split("used"), []
    for corpus, asked in getattr(found.profile, f"{part}_utterances").items():
        count = used.get(corpus, {}).get(part, asked)
        words.append(f"{count} {corpus}" + (f" ({asked} asked for)" if count != asked else ""))
    return ", ".join(words)


def wer_columns(evaluations: pd.DataFrame) -> dict[str, tuple[str, float, int]]:
    """Heading → column, factor and digits of the error rates in percent."""
    sets = tested(evaluations)
    spoken = {f"WER {corpus}, %": (f"wer_{corpus}", 100, 1) for corpus in sets}
    people = {name: spoken.pop(name) for name in ("WER en_human, %",) if name in spoken}
    both = len(spoken) == 2 and set(sets) - {"en_human"} <= set(LANGUAGES)
    mean = {"mean of both, %" if both else "mean, %": ("wer_mean", 100, 1)}
    rest = {"truncated, %": ("capped", 100, 1), "empty, %": ("empty", 100, 1)}
    return spoken | mean | people | rest


def evaluations_table(evaluations: pd.DataFrame, columns: dict[str, tuple[str, float, int]]) -> str:
    """A row per arm and evaluation: the mean over seeds, with the lowest and highest of several."""
    rows = []
    for (arm, step), group in evaluations.groupby(["arm", "step"], sort=False):
        cells = [_spread(factor * group[c], digits) for c, factor, digits in columns.values()]
        rows.append([arm, step, group["utterances"].iloc[0], *cells])
    return markdown(["arm", "step", "utterances", *columns], rows)


def _spread(values: pd.Series, digits: int) -> str:
    if values.isna().any():
        return "–"
    ends = f" ({values.min():.{digits}f}–{values.max():.{digits}f})" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{ends}"


def ends_table(found: Runs, by: Sequence[str] = ("arm",)) -> str:
    """Mean and standard deviation over seeds of each arm at its last evaluation.

    ``by`` ``step`` and ``arm`` they are those of every evaluation.
    """
    every = found.evaluations[found.evaluations["step"] > 0]
    table = every if "step" in by else found.ends.reset_index()
    sets = ["mean"] if "step" in by else tested(table)
    columns = {f"WER {corpus}, %": (f"wer_{corpus}", 100, 1) for corpus in sets}
    columns |= {"training loss": ("train_loss", 1, 2), "held-out loss": ("heldout_loss", 1, 2)}
    columns |= {"general-text loss": ("text_loss", 1, 3), "KL": ("kl", 1, 3)}
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        cells = [
            f"{factor * group[c].mean():.{digits}f} ± {factor * group[c].std():.{digits}f}"
            for c, factor, digits in columns.values()
        ]
        rows.append([*key, len(group), *cells])
    return markdown([*by, "seeds", *columns], rows)


def intervals_table(found: Runs) -> str:
    """Error rates of the last evaluation in percent, with what another test set might give.

    Empty where the transcripts were not kept.
    """
    if not all((folder / "transcripts").is_dir() for folder in found.folders.values()):
        return ""
    rates = {arm: found.wer_intervals(arm) for arm in dict.fromkeys(a for a, _ in found.folders)}
    corpora = list(dict.fromkeys(corpus for of in rates.values() for corpus in of))
    rows = []
    for arm, of in rates.items():
        shown = [[100 * number for number in of[corpus]] for corpus in corpora]
        rows.append([arm, *(f"{rate:.1f} [{low:.1f}, {high:.1f}]" for rate, low, high in shown)])
    return markdown(["arm", *corpora], rows)


def label(outcome: str) -> str:
    """An outcome in words, with its unit."""
    name, _, corpus = outcome.partition(" at equal ")
    name, _, kind = name.partition(" ")
    told = f"{_LABELS[name]}, {kind and f'{kind} text, '}{ENDS[name][2]}"
    return told + (f", at equal loss of `{corpus}`" if corpus else "")


def cell(row: pd.Series) -> str:
    """A comparison's mean and interval, bold where it is off zero, or why there is no interval."""
    if math.isnan(row["low"]):
        return row["reading"]
    shown = interval(row["mean"], row["low"], row["high"], 2 if row["outcome"] == "wer" else 4)
    return f"**{shown}**" if row["reading"] in (LOWER, HIGHER) else shown


def pairs_table(found: Runs, outcomes: Iterable[str] | None = None) -> str:
    """Differences between two arms of the same seed, a row per pair and outcome; empty without."""
    table = comparisons(found, outcomes=outcomes)
    rows = [
        [
            row["pair"],
            label(row["outcome"]),
            row["n"],
            interval(row["mean"], row["low"], row["high"], 2 if row["outcome"] == "wer" else 4),
            "" if math.isnan(row["effect"]) else f"{row['effect']:+.1f}",
            row["reading"],
        ]
        for _, row in table.iterrows()
    ]
    heads = ["first − second", "outcome", "seeds", "difference", "d_z", "the first is"]
    return markdown(heads, rows) if rows else ""


def grid(table: pd.DataFrame) -> str:
    """Many outcomes of a few pairs: a row per outcome, a column per pair of ``comparisons``."""
    cells = table.assign(cell=table.apply(cell, axis=1), label=table["outcome"].map(label))
    wide = cells.pivot(index="label", columns="pair", values="cell").fillna("")
    wide = wide.loc[cells["label"].unique(), cells["pair"].unique()]
    return markdown(["first − second", *wide], ([name, *row] for name, *row in wide.itertuples()))


def beside_table(found: Runs) -> str:
    """What differs within each pair beside κ; empty without a pair."""
    things = ("parameters", "types", "layers")
    apart = {pair: unlike(found, pair, things) for pair in pairs_of(found)}
    rows = [[name_of(p), *(of.get(thing, "alike") for thing in things)] for p, of in apart.items()]
    heads = ["first − second", "parameters", "module types", "deepest difference of a type, layers"]
    return markdown(heads, rows) if rows else ""


def arms_table(found: Runs) -> str:
    """Rule, tensors, parameters and module types of every arm."""
    table = found.arms.assign(parameters=found.arms["parameters"].map("{:,}".format))
    return markdown(["arm", *table], ([*row] for row in table.itertuples()))


def tables_of(found: Runs) -> str:
    """What the committed runs of a profile say, as ``results/reference/README.md`` shows it."""
    pairs, of = pairs_of(found), found.profile
    # Of LoRA only the ends were evaluated: at equal held-out loss nothing is known.
    outcomes = list(ENDS) if of.lora_rank else outcomes_of(found)
    by = ("step", "arm") if of.profile == "turn" else ("arm",)
    parts = [ends_table(found, by), pairs_table(found, outcomes), beside_table(found)]
    if len(pairs) == 1 and (texts := texts_of(found)):
        parts.append(grid(comparisons(found, pairs, texts)))
    if (tried := of.folder / "pilot.csv").is_file():
        table = pd.read_csv(tried).pivot(index="arm", columns="lr", values="heldout_loss")
        heads = ["pilot's held-out loss by rate", *map("{:g}".format, table.columns)]
        rows = ([arm, *map("{:.3f}".format, row)] for arm, *row in table.itertuples())
        parts.append(markdown(heads, rows))
    return "\n\n".join(parts)


def questions() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed answer to each of ``QUESTIONS``: seed by seed, and compared.

    The frames are those of :mod:`kappa_lib.evidence.compare`, of the outcomes at the end; their
    ``pair`` is the question, with the number of seeds.
    """
    dots, rows, each = [], [], {name: runs(f"reference/{name}") for name, _ in QUESTIONS.values()}
    for question, (name, pair) in QUESTIONS.items():
        table = comparisons(each[name], [pair], list(ENDS))
        named = {"pair": f"{question} (n = {table['n'].max()})"}
        rows.append(table.assign(**named))
        dots.append(seed_by_seed(each[name], [pair], list(ENDS)).assign(**named))
    return pd.concat(dots, ignore_index=True), pd.concat(rows, ignore_index=True)


def time_table(folder: Path) -> str:
    """Installation and each notebook with its longest stages, as first executed in full."""
    path = folder / "timings.json"
    if not path.is_file():
        return "Not recorded: the notebooks were not executed by the runner."
    timings = read_json(path)
    rows: list[Sequence[str]] = []
    total = timings.get("install_seconds") or 0.0
    if total:
        rows.append(["installation", clock(total), ""])
    for name, entry in timings["notebooks"].items():
        spent = entry.get("first") or entry
        total += spent["seconds"]
        longest = sorted(spent["stages"].items(), key=lambda item: -item[1])[:4]
        stages = "; ".join(f"{what} {clock(seconds)}" for what, seconds in longest)
        named = f"{name} (resumed)" if spent is entry and entry["resumed"] else name
        rows.append([named, clock(spent["seconds"]), stages])
    rows.append(["**all**", f"**{clock(total)}**", ""])
    return markdown(["part", "time", "longest stages"], rows)
