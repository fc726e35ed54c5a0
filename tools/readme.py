"""The tables of every committed run: what its arms learned and forgot, and how pairs differ.

All of it comes from ``results/reference``, which ``KAPPA_RESULTS`` must name.
"""

from itertools import combinations
from typing import Any

import pandas as pd

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence import arms, claims, listing, report, tables
from kappa_lib.evidence.verdicts import (
    ENOUGH_SEEDS,
    FAILS,
    HOLDS,
    PILOT_SEED,
    decide_difference,
    decisive,
)
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.text import counted, markdown

# Between such lines a page holds what a run wrote.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")
COMPARED = (
    "selected-beats-inverse",
    "inverse-forgets-more",
    "mitigates-forgetting",
    "kappa-is-the-cause",
)


def maybe(name: str) -> Profile | None:
    """The committed runs of a profile, or None of fewer than three seeds, too few to compare."""
    if not (paths.REFERENCE / name / "runs").is_dir():
        return None
    profile = tables.of_runs(name)
    return profile if len(profile.seeds) >= ENOUGH_SEEDS else None


def cause(profile: Profile) -> str:
    """How well every arm's models listen, what they lost, and how the arms of a pair differ."""
    parts = [ends(profile, _LISTENING | _LOST), *_arithmetic(profile), _pairs(profile)]
    return "\n\n".join(parts)


def cause_by_text(profile: Profile) -> str:
    """:func:`cause` of a profile with one pair, and what the pair lost of each kind of text."""
    differences = arms.outcomes_by_text(tables.results(profile))
    found = arms.summary(differences).set_index("outcome")
    kinds, rows = sorted(o.removeprefix("kl ") for o in found.index if o.startswith("kl ")), []
    for kind in kinds:
        cells = [found.loc[f"{name} {kind}"] for name in ("text", "kl")]
        shown = [listing.interval(c["mean"], c["low"], c["high"], 3) for c in cells]
        rows.append([kind, *(f"{x}, {c['reading']}" for x, c in zip(shown, cells, strict=True))])
    told = [cause(profile), "By kind of general text:"]
    told.append(markdown(["text", "loss, nats a token", "KL"], rows))
    if disagree(differences):
        told.append("The mean over the three hides that they disagree.")
    return "\n\n".join(told)


def disagree(differences: pd.DataFrame) -> bool:
    """Whether one text's difference is not another's, by the interval over seeds, in one outcome.

    ``differences`` is of :func:`kappa_lib.evidence.arms.outcomes_by_text`, of one pair.
    """
    by_kind = differences.pivot(index="seed", columns="outcome", values="difference")
    pairs = combinations(by_kind.loc[decisive(by_kind.index.tolist())[0]], 2)
    return any(
        decide_difference(by_kind[a], by_kind[b], arms.margin_of(a)).verdict in (HOLDS, FAILS)
        for a, b in pairs
        if a.split()[0] == b.split()[0]
    )


def _arithmetic(profile: Profile) -> list[str]:
    """Which arms ran in which type of number, where they did not all run in one."""
    kinds: dict[str, dict[str, None]] = {}  # a dictionary's keys keep the order of arms
    for (arm, _), folder in tables.finished(profile).items():
        kinds.setdefault(read_json(folder / "config.json")["dtype"], {})[arm] = None
    if len(kinds) == 1:
        return []
    said = (f"{dtype}: {', '.join(names)}" for dtype, names in kinds.items())
    return [f"Arithmetic was that of the processor at hand. {'; '.join(said)}."]


def text(profile: Profile) -> str:
    """LoRA here, there and anywhere: what the arms learned and lost, and how they differ.

    All stopped at one training loss, and only their ends were evaluated: at equal held-out loss
    nothing is known of them.
    """
    drawn = "Of an arm that is drawn anew for each seed, the first draw is meant."
    parts = [ends(profile, _TEXT), _pairs(profile, _EXCEPT_HELDOUT), drawn, *_pilot(profile)]
    return "\n\n".join(parts)


def turn(profile: Profile) -> str:
    """Both arms' WER at every evaluation, what was learned and lost by then, and the ends' pair."""
    table, rows = tables.results(profile), []
    for step, group in table[table["step"] > 0].groupby("step"):
        rows += [[step, *row] for row in _rows(group, _TURN)]
    means = markdown(["step", "arm", "seeds", *_TURN], rows)
    parts = ["Mean and standard deviation over seeds:", means, _pairs(profile), *_pilot(profile)]
    return "\n\n".join(parts)


def _pilot(profile: Profile) -> list[str]:
    """What ``tools.pilot`` found of learning rates, where rates were tried."""
    path = profile.folder / "pilot.csv"
    if not path.is_file():
        return []
    found = pd.read_csv(path).pivot(index="arm", columns="lr", values="heldout_loss")
    rows = [
        [arm, *(f"**{x:.3f}**" if x == losses.min() else f"{x:.3f}" for x in losses)]
        for arm, losses in found.iterrows()
    ]
    said = (
        f"Held-out loss at the end of the pilot, seed {PILOT_SEED}, by learning rate, the lowest"
        f" bold; the runs took {profile.lr:g}:"
    )
    return [said, markdown(["arm", *map("{:g}".format, found.columns)], rows)]


# Heading → column of the results, its factor, and digits.
_LISTENING = {
    "WER de_open, %": ("wer_de_open", 100, 1),
    "WER en_open, %": ("wer_en_open", 100, 1),
    "WER en_human, %": ("wer_en_human", 100, 1),
}
_LOST = {"general-text loss": ("text_loss", 1, 3), "KL": ("kl", 1, 3)}
_TEXT = {
    "steps": ("step", 1, 0),
    "training loss": ("train_loss", 1, 2),
    "WER de, %": ("wer_de_open", 100, 1),
    "WER en, %": ("wer_en_open", 100, 1),
    **_LOST,
}
_EXCEPT_HELDOUT = "^(?!heldout_)"
_TURN = {"training loss": ("train_loss", 1, 2), "WER, %": ("wer_mean", 100, 1), **_LOST}


def ends(profile: Profile, columns: dict[str, tuple[str, float, int]]) -> str:
    """Mean and standard deviation over seeds at each run's last evaluation."""
    table = tables.results(profile)
    last = table.loc[table.groupby(["arm", "seed"])["step"].idxmax()]
    shown = markdown(["arm", "seeds", *columns], _rows(last, columns))
    return f"At the last evaluation, mean and standard deviation over seeds:\n\n{shown}"


def _rows(table: pd.DataFrame, columns: dict[str, tuple[str, float, int]]) -> list[list[Any]]:
    rows = []
    for arm, group in table.groupby("arm", sort=False):
        cells = [
            f"{factor * group[c].mean():.{digits}f} ± {factor * group[c].std():.{digits}f}"
            for c, factor, digits in columns.values()
        ]
        rows.append([arm, len(group), *cells])
    return rows


def _pairs(profile: Profile, columns: str = ".") -> str:
    table = tables.results(profile).filter(regex=columns)
    return report.pairs_table(table, arms.trained(profile))


def study(profile: Profile) -> str:
    """The arms of the study against each other, and the verdicts that follow from it."""
    table = tables.results(profile)
    runs, seeds = table.groupby(["arm", "seed"]).ngroups, table["seed"].nunique()
    decided = {c.id: c for c in claims.load(profile.folder)}
    facts = arms.trained(profile)
    verdicts = "\n".join(
        f"- {decided[name].statement} **{listing.said(decided[name])}**:"
        f" {listing.measured(decided[name])}."
        for name in COMPARED
    )
    return "\n\n".join(
        [
            f"{counted(table['arm'].nunique(), 'arm')}, {counted(seeds, 'seed')},"
            f" {counted(runs, 'run')} of {table['step'].max()} steps.",
            report.pairs_table(table, facts),
            "By the rules of today, which were not those of the day of the run, from its numbers:",
            verdicts,
        ]
    )


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
