"""``REPORT.md`` of a profile: what ran, every measured number, the claims, and where time went."""

from pathlib import Path
from typing import Any

from kappa_lib.evidence import arms, claims, listing, report_tables, tables
from kappa_lib.files import read_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.speech.transcripts import normaliser
from kappa_lib.text import clock, markdown
from kappa_lib.weights import models

FILE = "REPORT.md"


def write(profile: Profile) -> Path:
    """Write ``results/<profile>/REPORT.md`` from what the run left there; return its path."""
    table = tables.results(profile)
    parts = [
        f"# KappaTune companion: report of profile `{profile.profile}`",
        missing_note(profile),
        _setting(profile),
        left_out(profile),
        "## Word error rate at every evaluation",
        report_tables.wer_table(table),
        report_tables.wer_intervals_table(profile),
        _normalisers(profile),
        "## What was learned and what was forgotten",
        report_tables.loss_table(table),
        _figures(profile),
        "## Arm against arm",
        report_tables.pairs_table(
            table, {arm: arms.trained(profile, arm) for arm in table["arm"].unique()}
        ),
        "## The arms",
        report_tables.arms_table(profile),
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


def _claims(profile: Profile) -> str:
    found = claims.load(profile.folder)
    return "\n\n".join(
        [
            "## The paper's claims",
            listing.tally(found),
            listing.table(found),
            "## How each claim can be checked",
            listing.details(found),
        ]
    )


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


def _provenance(profile: Profile) -> str:
    folders = list(tables.finished(profile).values())
    entries = {folder.name: read_json(folder / "provenance.json") for folder in folders}
    if not entries:
        return "No finished run."
    last: dict[str, Any] = next(reversed(entries.values()))
    commit = f"`{last['commit']}`" if last["commit"] else "unknown"
    state = {True: "clean", False: "with uncommitted changes", None: "unknown state"}
    packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items())
    speeds = markdown(
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
