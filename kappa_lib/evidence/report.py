"""``REPORT.md`` of a profile: what ran, every measured number, the claims, and where time went."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from kappa_lib import paths
from kappa_lib.evidence import arms, claims, listing, tables
from kappa_lib.evidence.verdicts import decisive
from kappa_lib.files import read_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.speech.transcripts import normaliser
from kappa_lib.text import clock, counted, markdown
from kappa_lib.weights import models

FILE = "REPORT.md"


def write(profile: Profile) -> Path:
    """Write ``results/<profile>/REPORT.md`` from what the run left there; return its path."""
    table, path = tables.results(profile), profile.folder / FILE
    runs = tables.finished(profile).values()
    configs = [read_json(run / "config.json") for run in runs]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(paths.DATA), trim_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.globals["counted"] = counted
    environment.filters["line"] = lambda text: " ".join(text.split())
    text = environment.get_template("REPORT.md.j2").render(
        profile=profile,
        missing=missing_note(profile),
        stored_as=models.stored_as(profile.model),
        computed_in=" and ".join(sorted({run["dtype"] for run in configs})),
        counts={part: _counts(profile, part) for part in ("train", "test")},
        left_out=left_out(profile),
        wer=wer_table(table),
        intervals=wer_intervals_table(profile),
        normalisers={
            corpus: normaliser(profile.language(corpus))
            for corpus, count in sorted(profile.test_utterances.items())
            if count
        },
        losses=loss_table(table),
        pictures=sorted((profile.folder / "figures").glob("*.png")),
        pairs=pairs_table(table, arms.trained(profile)),
        arms=arms_table(profile),
        claims=claims.load(profile.folder),
        listing=listing,
        times=time_table(profile.folder),
        runs={run.name: read_json(run / "provenance.json") for run in runs},
    )
    write_text(path, text.rstrip() + "\n")
    return path


def missing_note(profile: Profile) -> str:
    """A loud paragraph on the corpora that could not be had; empty where all were."""
    lines = []
    for corpus, why in tables.split(profile, "missing").items():
        reason = why.splitlines()[0]
        lines.append(f"> **Without `{corpus}`: its recordings could not be had.** {reason}")
    return "\n>\n".join(lines)


def left_out(profile: Profile) -> str:
    """A sentence on the rows of the corpora that were unusable; empty where none was."""
    found = [
        f"{rows:,} of `{corpus}` {part} ({reason})"
        for corpus, parts in tables.split(profile, "left_out").items()
        for part, reasons in parts.items()
        for reason, rows in reasons.items()
    ]
    return f"Rows left out because they were unusable: {', '.join(found)}." if found else ""


def _counts(profile: Profile, part: str) -> str:
    """Utterances of each corpus, and how many were asked for where there were fewer."""
    used, words = tables.split(profile, "used"), []
    for corpus, asked in getattr(profile, f"{part}_utterances").items():
        count = used.get(corpus, {}).get(part, asked)
        words.append(f"{count} {corpus}" + (f" ({asked} asked for)" if count != asked else ""))
    return ", ".join(words)


def _evaluations(table: pd.DataFrame, columns: dict[str, tuple[str, float, int]]) -> str:
    present = {column: how for column, how in columns.items() if column in table}
    rows = []
    for (arm, step), group in table.groupby(["arm", "step"], sort=False):
        numbers = [
            listing.spread(group[c].fillna(float("nan")), *how[1:]) for c, how in present.items()
        ]
        rows.append([arm, step, group["utterances"].iloc[0], *numbers])
    return markdown(["arm", "step", "utterances", *(how[0] for how in present.values())], rows)


def wer_table(table: pd.DataFrame) -> str:
    """Word error rates in percent, a row an arm and evaluation."""
    rates = {f"wer_{name}": (f"WER {name}, %", 100.0, 1) for name in tables.test_sets(table)}
    human = {key: rates.pop(key) for key in ("wer_en_human",) if key in rates}
    both = len(rates) == 2 and set(rates) <= {f"wer_{name}" for name in tables.LANGUAGES}
    columns = {
        **rates,
        "wer_mean": ("mean of both, %" if both else "mean, %", 100.0, 1),
        **human,
        "capped": ("capped, %", 100.0, 1),
        "empty": ("empty, %", 100.0, 1),
    }
    return _evaluations(table, columns)


def wer_intervals_table(profile: Profile) -> str:
    """Word error rates of the last evaluation in percent, with what another test set might give."""
    runs = tables.finished(profile)
    if not all((folder / "transcripts").is_dir() for folder in runs.values()):
        return "No intervals over utterances: the transcripts were not kept with these results."
    found = {
        arm: tables.wer_intervals(profile, arm) for arm in dict.fromkeys(arm for arm, _ in runs)
    }
    corpora = list(dict.fromkeys(corpus for rates in found.values() for corpus in rates))
    rows = []
    for arm, rates in found.items():
        shown = [[100 * number for number in rates[corpus]] for corpus in corpora]
        rows.append([arm, *(f"{rate:.1f} [{low:.1f}, {high:.1f}]" for rate, low, high in shown)])
    note = (
        "At the last evaluation, in percent, with 95 % bootstrap intervals over the test"
        " utterances, and over seeds where there are several:"
    )
    return f"{note}\n\n{markdown(['arm', *corpora], rows)}"


def loss_table(table: pd.DataFrame) -> str:
    """Losses in nats a token, a row an arm and evaluation."""
    columns = {
        "train_loss": ("training loss", 1.0, 3),
        "heldout_loss": ("held-out loss", 1.0, 3),
        "text_loss": ("general-text loss", 1.0, 4),
        "kl": ("KL from base", 1.0, 4),
    }
    return _evaluations(table, columns)


_OUTCOMES = {name: ", ".join(words) for name, words in arms.OUTCOMES.items()}


def pairs_table(table: pd.DataFrame, facts: Mapping[str, dict[str, Any]]) -> str:
    """Differences between two arms of the same seed, a row a pair and outcome.

    ``facts`` is what each arm trains, of :func:`kappa_lib.evidence.arms.trained`.
    """
    found = arms.outcomes(table)
    if found.empty:
        return "No two arms that are compared with each other."
    rows = []
    for row in arms.summary(found).itertuples():
        digits = 2 if row.outcome == "wer" else 4
        shown = listing.interval(row.mean, row.low, row.high, digits)
        effect = "" if math.isnan(row.effect) else f"{row.effect:+.1f}"
        rows.append([row.pair, _OUTCOMES.get(row.outcome, row.outcome), shown, effect, row.reading])
    header = ["pair", "outcome", "difference", "d_z", "reading"]
    _, pilot = decisive(sorted(table["seed"].unique().tolist()))
    note = (
        "First arm less second at the last evaluation: mean over seeds and 95 % t-interval of the"
        " paired differences; negative is better for the first. No relevant difference: the 90 %"
        " interval lies inside 1 point or 0.01 nats. KL is from the base model."
        + (f" Seeds: {pilot}; its direction was known before the rules." if pilot else "")
    )
    return f"{note}\n\n{markdown(header, rows)}\n\n{_beside(table, facts)}"


def outcomes_grid(summary: pd.DataFrame) -> str:
    """Many outcomes of a few pairs as a Markdown table: a row an outcome, a column a pair.

    ``summary`` is of :func:`kappa_lib.evidence.arms.summary`. Differences have their intervals,
    and are bold where these lie off zero.
    """
    cells: dict[str, dict[str, str]] = {}
    for row in summary.itertuples():
        shown = listing.interval(row.mean, row.low, row.high, 2 if row.outcome == "wer" else 3)
        if math.isnan(row.low):
            shown = row.reading
        elif row.low > 0 or row.high < 0:
            shown = f"**{shown}**"
        cells.setdefault(row.outcome, {})[f"{row.pair} (n = {row.seeds})"] = shown
    heads = list(dict.fromkeys(pair for row in cells.values() for pair in row))
    rows = [[_label(outcome), *(row.get(h, "") for h in heads)] for outcome, row in cells.items()]
    return markdown(["first − second", *heads], rows)


def _label(outcome: str) -> str:
    """An outcome in words, with its unit."""
    name, _, corpus = outcome.partition(" at equal ")
    return _OUTCOMES.get(name, name) + (f", at equal loss of `{corpus}`" if corpus else "")


def _beside(table: pd.DataFrame, facts: Mapping[str, dict[str, Any]]) -> str:
    """What differs within each pair beside κ, a line each, and the reversed sizes."""
    lines = ["Beside κ:\n"]
    for pair in arms.present(table["arm"].unique().tolist()):
        unlike = arms.unlike(facts[pair[0]], facts[pair[1]], ("parameters", "types", "layers"))
        alike = "size, types and the depth of each are alike"
        told = f"the first has {', '.join(unlike)}" if unlike else alike
        lines.append(f"- {arms.name_of(pair)}: {told}.")
    if {"selected", "inverse"} <= set(table["arm"]):
        sizes = (facts[arm]["parameters"] for arm in ("selected", "inverse"))
        lines.append(f"\n{arms.reversed_sizes(*sizes)}.")
    return "\n".join(lines)


def arms_table(profile: Profile) -> str:
    """Rule, tensors, parameters and module types of every arm."""
    table = tables.parameters(profile)
    kinds = [c for c in table.columns if c not in ("rule", "tensors", "parameters")]
    rows = (
        [arm, row["rule"], f"{row['tensors']:,}", f"{row['parameters']:,}", *row[kinds]]
        for arm, row in table.iterrows()
    )
    return markdown(["arm", "rule", "tensors", "parameters", *kinds], rows)


def time_table(folder: Path) -> str:
    """Installation and each notebook with its longest stages, as first executed in full."""
    path = folder / "timings.json"
    if not path.is_file():
        return "Not recorded: the notebooks were not executed by the runner."
    timings = read_json(path)
    rows, total = [], timings.get("install_seconds") or 0.0
    if total:
        rows.append(["installation", clock(total), ""])
    for name, entry in timings["notebooks"].items():
        spent = entry.get("first") or entry
        total += spent["seconds"]
        longest = sorted(spent["stages"].items(), key=lambda item: -item[1])[:4]
        stages = "; ".join(f"{what} {clock(seconds)}" for what, seconds in longest)
        label = f"{name} (resumed)" if spent is entry and entry["resumed"] else name
        rows.append([label, clock(spent["seconds"]), stages])
    rows.append(["**all**", f"**{clock(total)}**", ""])
    return markdown(["part", "time", "longest stages"], rows)
