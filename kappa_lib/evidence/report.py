"""``REPORT.md`` of a profile: what ran, every measured number, the claims, and where time went."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.evidence import claims, pairs, tables
from kappa_lib.files import read_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.speech.transcripts import normaliser
from kappa_lib.text import clock
from kappa_lib.weights import models

FILE = "REPORT.md"
# Between such lines the README holds what a run wrote.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")


def write(profile: Profile) -> Path:
    """Write ``results/<profile>/REPORT.md`` from what the run left there; return its path."""
    table = tables.results(profile)
    parts = [
        f"# KappaTune companion: report of profile `{profile.profile}`",
        missing_note(profile),
        _setting(profile),
        left_out(profile),
        "## Word error rate at every evaluation",
        wer_table(table),
        _normalisers(profile),
        "## What was learned and what was forgotten",
        loss_table(table),
        _figures(profile),
        "## Arm against arm",
        pairs_table(table),
        "## The arms",
        arms_table(profile),
        _claims(profile),
        "## Where the time went",
        time_table(profile.folder),
        "## Provenance",
        _provenance(profile),
    ]
    path = profile.folder / FILE
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def missing_note(profile: Profile) -> str:
    """A loud paragraph on the corpora that could not be had; empty where all were."""
    lines = []
    for corpus, why in tables.missing(profile).items():
        reason = why.splitlines()[0]
        lines.append(f"> **Without `{corpus}`: its recordings could not be had.** {reason}")
    return "\n>\n".join(lines)


def left_out(profile: Profile) -> str:
    """A sentence on the rows of the corpora that were unusable; empty where none was."""
    found = [
        f"{rows:,} of `{corpus}` {part} ({reason})"
        for corpus, parts in tables.left_out(profile).items()
        for part, reasons in parts.items()
        for reason, rows in reasons.items()
    ]
    return f"Rows left out because they were unusable: {', '.join(found)}." if found else ""


def _setting(profile: Profile) -> str:
    seeds = len(profile.seeds)
    spread = "one seed, so no spread" if seeds == 1 else f"{seeds} seeds, lowest to highest given"
    return (
        f"Language model `{profile.model}` (weights stored as {models.stored_as(profile.model)},"
        f" computed in {profile.dtype}), frozen encoder `{profile.encoder}`;"
        f" {len(profile.arms)} arms, {spread}; {profile.steps} steps of {profile.batch}"
        f" utterances at a peak learning rate of {profile.lr:g} ({profile.optimiser}),"
        f" from a CTC warm start of the adaptor ({profile.warm_steps} steps), which the paper"
        " does not have."
        f" Training utterances: {_counts(profile, 'train')};"
        f" test utterances: {_counts(profile, 'test')}."
    )


def _counts(profile: Profile, part: str) -> str:
    """Utterances of each corpus, and how many were asked for where there were fewer."""
    used, words = tables.used(profile), []
    for corpus, asked in profile.values()[f"{part}_utterances"].items():
        count = used.get(corpus, {}).get(part, asked)
        words.append(f"{count} {corpus}" + (f" ({asked} asked for)" if count != asked else ""))
    return ", ".join(words)


def _number(values: Iterable[float], scale: float, digits: int) -> str:
    """Mean, with the lowest and highest where there are several."""
    scaled = [value * scale for value in values]
    mean = sum(scaled) / len(scaled)
    if math.isnan(mean):
        return "–"
    text = f"{mean:.{digits}f}"
    if len(scaled) > 1:
        text += f" ({min(scaled):.{digits}f}–{max(scaled):.{digits}f})"
    return text


def _markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _evaluations(table: pd.DataFrame, columns: dict[str, tuple[str, float, int]]) -> str:
    present = {column: how for column, how in columns.items() if column in table}
    rows = []
    for (arm, step), group in table.groupby(["arm", "step"], sort=False):
        numbers = [_number(group[c].fillna(float("nan")), *how[1:]) for c, how in present.items()]
        rows.append([arm, str(step), str(group["utterances"].iloc[0]), *numbers])
    return _markdown(["arm", "step", "utterances", *(how[0] for how in present.values())], rows)


def wer_table(table: pd.DataFrame) -> str:
    """Word error rates in percent, a row an arm and evaluation."""
    rates = {f"wer_{name}": (f"WER {name}, %", 100.0, 1) for name in tables.test_sets(table)}
    human = {key: rates.pop(key) for key in ("wer_en_human",) if key in rates}
    both = set(rates) <= {f"wer_{name}" for name in tables.LANGUAGES}
    columns = {
        **rates,
        "wer_mean": ("mean of both, %" if both else "mean, %", 100.0, 1),
        **human,
        "capped": ("capped, %", 100.0, 1),
        "empty": ("empty, %", 100.0, 1),
    }
    return _evaluations(table, columns)


def loss_table(table: pd.DataFrame) -> str:
    """Losses in nats a token, a row an arm and evaluation."""
    columns = {
        "train_loss": ("training loss", 1.0, 3),
        "heldout_loss": ("held-out loss", 1.0, 3),
        "text_loss": ("general-text loss", 1.0, 4),
        "kl": ("KL from base", 1.0, 4),
    }
    return _evaluations(table, columns)


def pairs_table(table: pd.DataFrame) -> str:
    """Differences between two arms of the same seed, a row a pair."""
    found = pairs.outcomes(table)
    if found.empty:
        return "No two arms that are compared with each other."
    rows = []
    for name, outcomes in pairs.summary(found).groupby("pair", sort=False):
        cells = [
            "–"
            if math.isnan(row.mean)
            else f"{row.mean:+.{digits}f} ({row.lowest:+.{digits}f} to {row.highest:+.{digits}f};"
            f" {_AGREE[row.agree]})"
            for row, digits in zip(outcomes.itertuples(), (1, 4, 4), strict=True)
        ]
        rows.append([name, *cells])
    header = ["pair", "WER, points", "general-text loss", "the same at equal held-out loss"]
    note = (
        "First arm less second at the last evaluation: mean over seeds, lowest to highest, and"
        " which arm all seeds favour; negative is better for the first. Losses in nats a token."
    )
    return f"{note}\n\n{_markdown(header, rows)}"


_AGREE = {"first": "all: first", "second": "all: second", "no": "seeds differ"} | {
    "one seed": "one seed"
}


def _normalisers(profile: Profile) -> str:
    used = [corpus for corpus, count in sorted(profile.test_utterances.items()) if count]
    named = ", ".join(f"{normaliser(profile.language(corpus))} for {corpus}" for corpus in used)
    return (
        f"Normalisers: {named}. Capped: hypotheses that reached {profile.max_new_tokens} tokens"
        " without an end of turn. Step 0 is the warm-started adaptor before any fine-tuning, the"
        " same for every arm."
    )


def _figures(profile: Profile) -> str:
    pictures = sorted((profile.folder / "figures").glob("*.png"))
    return "\n\n".join(f"![{p.stem}](figures/{p.name})" for p in pictures)


def arms_table(profile: Profile) -> str:
    """Rule, tensors, parameters and module types of every arm."""
    table = tables.parameters(profile)
    kinds = [c for c in table.columns if c not in ("rule", "tensors", "parameters")]
    rows = (
        [arm, row["rule"], f"{row['tensors']:,}", f"{row['parameters']:,}"]
        + [str(row[kind]) for kind in kinds]
        for arm, row in table.iterrows()
    )
    return _markdown(["arm", "rule", "tensors", "parameters", *kinds], rows)


def _claims(profile: Profile) -> str:
    found = claims.load(profile.folder)
    summary = ", ".join(f"{n} {verdict}" for verdict, n in claims.counts(found).items() if n)
    return f"## The paper's claims\n\n{summary}.\n\n{claims.table_markdown(found)}"


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
    return _markdown(["part", "time", "longest stages"], rows)


def _provenance(profile: Profile) -> str:
    folders = tables.run_folders(profile)
    entries = {folder.name: read_json(folder / "provenance.json") for folder in folders}
    if not entries:
        return "No finished run."
    last: dict[str, Any] = next(reversed(entries.values()))
    commit = f"`{last['commit']}`" if last["commit"] else "unknown"
    state = {True: "clean", False: "with uncommitted changes", None: "unknown state"}
    packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items())
    speeds = _markdown(
        ["run", "trainable in the LLM", "trainable in all", "seconds a step"],
        (
            [
                name,
                f"{entry['trainable_llm']:,}",
                f"{entry['trainable_all']:,}",
                f"{entry['seconds_per_step']:.2f}",
            ]
            for name, entry in entries.items()
        ),
    )
    return (
        f"Commit {commit} ({state[last['clean']]}), Python {last['python']}, {packages};"
        f" {last['processor']}, {last['cores']} cores, {last['threads']} threads,"
        f" device {last['device']}; finished {last['finished']}.\n\n{speeds}"
    )


def headline(profile: Profile) -> str:
    """The few rows that the README shows: both ends of every arm, and its parameter count."""
    table = tables.results(profile)
    ends = table[table["step"].isin([0, table["step"].max()])]
    sizes = tables.parameters(profile)["parameters"]
    listed = ", ".join(f"{arm} {count:,}" for arm, count in sizes.items())
    return "\n\n".join(
        [
            missing_note(profile) or "Every test set was available.",
            wer_table(ends),
            loss_table(ends),
            _outcome(ends),
            f"Trained parameters of the LLM: {listed}. {_effort(profile)}",
        ]
    )


def _outcome(ends: pd.DataFrame) -> str:
    """Which arm learned and which forgot, in words, from both ends of the runs."""
    final = ends[ends["step"] > 0].groupby("arm")[["wer_mean", "text_loss"]].mean()
    seeds = ends["seed"].nunique()
    spread = "one seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"In this run ({spread}), `{final['wer_mean'].idxmin()}` ended with the lowest mean WER of"
        f" German and English, `{final['text_loss'].idxmin()}` with the lowest general-text loss."
    )


def _effort(profile: Profile) -> str:
    """How long the run took, and on what."""
    path = profile.folder / "timings.json"
    entries = [read_json(f / "provenance.json") for f in tables.run_folders(profile)]
    if not path.is_file() or not entries:
        return "Its time was not recorded."
    timings, machine = read_json(path), entries[-1]
    installation = timings.get("install_seconds") or 0.0
    spent = (entry.get("first") or entry for entry in timings["notebooks"].values())
    total = installation + sum(entry["seconds"] for entry in spent)
    return (
        f"`bash reproduce.sh` took {clock(total)}, {clock(installation)} of it"
        f" installation, on {machine['cores']} cores ({machine['processor']})."
    )


def block_of(text: str, name: str) -> str:
    """What stands between the README's two markers of a name."""
    begin, end = (marker.format(name) for marker in MARKERS)
    return text.partition(begin)[2].partition(end)[0].strip()


def replace_block(text: str, name: str, block: str) -> str:
    """Put ``block`` between the two markers of a name.

    Raises:
        InputError: the text has no such markers.
    """
    begin, end = (marker.format(name) for marker in MARKERS)
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise InputError(f"the text has no {begin}", "put both markers back")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"
