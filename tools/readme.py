"""The README's blocks on results: at a glance, the laptop's run, and the study's comparisons.

All of it comes from ``results/reference``, which ``KAPPA_RESULTS`` must name.
"""

from itertools import combinations
from typing import Any

import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import arms, claims, elsewhere, encoding, listing, report, tables
from kappa_lib.evidence.claims import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import (
    CORRECTED,
    ENOUGH_SEEDS,
    FAILS,
    HOLDS,
    PILOT_SEED,
    SAME,
    SCALES,
    UNDECIDED,
    decide_difference,
    decisive,
)
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.arms import ADAPTOR_ONLY
from kappa_lib.text import clock, counted, markdown
from kappa_lib.weights import models

# Between such lines the README holds what a run wrote.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")
COMPARED = (
    "selected-beats-inverse",
    "inverse-forgets-more",
    "mitigates-forgetting",
    "kappa-is-the-cause",
)


FIXED = (
    "Rules and seeds of `cause`, `understood`, `type`, `long`, `turn` and `text` were committed"
    " before their runs, though four arms of `type` were stopped at half of their seeds; that the"
    " runs of `cause` decide where a run has fewer seeds was added after them. Rules of `study`,"
    " from which the paper's arms come, were in part written after. Four rules were changed after"
    " the runs that they judge: how a rise of the curve is measured (`selected-falls`,"
    " `inverse-rises`: undecided by both forms), from where `inverse-good-early` counts (it held"
    " before), which way `pruning-by-kappa` may help (it failed before), and what"
    " `disruption-causes-forgetting` averages (undecided by both)."
)


def maybe(name: str) -> Profile | None:
    """The committed runs of a profile, or None of fewer than three seeds, too few to compare."""
    if not (paths.REFERENCE / name / "runs").is_dir():
        return None
    profile = tables.of_runs(name)
    return profile if len(profile.seeds) >= ENOUGH_SEEDS else None


def glance(laptop: Profile, study: Profile) -> str:
    """Scope, hardware, time, verdicts by scale, and every question with its answer."""
    found = claims.load(study.folder)
    rows = [
        ("scope", _scope(study)),
        ("hardware", _hardware(laptop)),
        ("time", f"{_effort(laptop)}. {_study_effort(study)}"),
        *((f"claims, {scale}", listing.sentence(found, CLAIM, scale)) for scale in SCALES),
        ("identities of the textbooks", f"{listing.sentence(found, IDENTITY)}; they cannot fail"),
        ("our own caveats", listing.sentence(found, CAVEAT)),
    ]
    by_id = {claim.id: claim for claim in found}
    return "\n\n".join([markdown(["at a glance", ""], rows), *_sentences(study, by_id)])


def _scope(profile: Profile) -> str:
    return (
        f"one small language model (`{profile.model}`) with a frozen `{profile.encoder}` encoder,"
        " short German and English sentences, mostly synthetic; not the paper's 8B model"
    )


def _hardware(profile: Profile) -> str:
    *_, last = tables.finished(profile).values()
    machine, run = (read_json(last / f"{name}.json") for name in ("provenance", "config"))
    return f"{machine['cores']} cores ({machine['processor']}), no GPU, {run['dtype']} arithmetic"


def _sentences(study: Profile, found: dict[str, Claim]) -> list[str]:
    """Every question in a row, and what does not fit into one."""
    table = tables.results(study)
    trained = arms.trained(study)
    sizes = [trained[arm]["parameters"] for arm in ("selected", "inverse")]
    _, pilot = decisive(sorted(table["seed"].unique().tolist()))
    counted = " The study has only two others, so it is counted there." if "with" in pilot else ""
    alone = arms.outcomes_by_text(table).empty
    one_text = " Their runs are from before there were three texts: they have one." * alone
    summary = arms.summary(elsewhere.questions())
    return [
        questions_table(summary),
        *_at_equal_loss(summary),
        "In the rows “all else alike” types, shapes and sizes are equal, depth to a third of a"
        " layer, and κ is what is left. For a verdict all outcomes of the first have to agree: that"
        f" it is κ is **{found['kappa-is-the-cause'].verdict}**. For each of the three texts, and"
        " every other number, see [the tables](results/reference/README.md)."
        f" Of the paper's arms {arms.reversed_sizes(*sizes)}.{one_text}",
        *_adaptor_alone(),
        *_against_lora(found["new-text-task"]),
        *_turn(),
        _encoding(found["kappa-tracks-encoding"]),
        f"{FIXED} Seed 0 was a pilot, seen before the rules, and is left out.{counted} Of the"
        " paper's versions 2 and 3 only the abstract could be read, not the body.",
    ]


def questions_table(summary: pd.DataFrame) -> str:
    """The committed runs' answer to each question: how its two arms differ, and what that says.

    ``summary`` is of :func:`kappa_lib.evidence.arms.summary`, its pairs the questions.
    """
    rows = []
    for pair, group in summary.groupby("pair", sort=False):
        found = group.set_index("outcome")
        cells = []
        for outcome in arms.OUTCOMES:
            row, digits = found.loc[outcome], 2 if outcome == "wer" else 4
            shown = listing.interval(row["mean"], row["low"], row["high"], digits)
            cells.append(f"**{shown}**" if row["reading"] in _FIRST else shown)
        rows.append([pair, *cells, _reading(found["reading"])])
    heads = map(", ".join, arms.OUTCOMES.values())
    return markdown(["first − second", *heads, "so the first"], rows)


def _at_equal_loss(summary: pd.DataFrame) -> list[str]:
    """Which answers are others where both arms have learned as much, not at the last step."""
    told = []
    for pair, group in summary.groupby("pair", sort=False):
        found = group.set_index("outcome")["reading"]
        equal = {"wer": UNDECIDED}
        for name in ("text", "kl"):
            readings = set(found[found.index.str.startswith(f"{name} at equal")])
            equal[name] = readings.pop() if len(readings) == 1 else UNDECIDED
        learned = found.index.str.contains(" at equal ").any() and not pair.startswith("LoRA")
        if learned and any(equal[name] != found[name] for name in ("text", "kl")):
            told.append(f"“{elsewhere.question_of(pair)}” {_reading(pd.Series(equal))}")
    words = f"these rows say something else of forgetting: {'; '.join(told)}" if told else ""
    return [
        "Runs are compared at their last step, which favours an arm that has learned less; those on"
        " LoRA stop at one training loss. At equal held-out loss of the languages, where it was"
        f" kept, {words or 'no row says anything else of forgetting'}."
    ]


# Reading → what it says of the first arm: of its hearing, of its memory.
_FIRST = {
    "first lower": ("understands more", "forgets less"),
    "second lower": ("understands less", "forgets more"),
}


def _reading(readings: pd.Series) -> str:
    """What the three outcomes together say of the first arm; of forgetting two speak."""
    told = [_FIRST[readings["wer"]][0]] if readings["wer"] in _FIRST else []
    labels = {name: label for name, (label, _) in arms.OUTCOMES.items() if name != "wer"}
    lost = {label: readings[name] for name, label in labels.items() if readings[name] in _FIRST}
    if len(lost) == 2 and len(set(lost.values())) == 1:
        told.append(_FIRST[readings["kl"]][1])
    else:
        told += [f"{_FIRST[reading][1]} by {label} alone" for label, reading in lost.items()]
    return ", ".join(told) or (SAME if set(readings) == {SAME} else UNDECIDED)


def _adaptor_alone() -> list[str]:
    """What is heard and lost where nothing of the language model is trained."""
    profile = maybe("type")
    if not profile or ADAPTOR_ONLY not in profile.arms:
        return []
    table = tables.results(profile)
    last = table[(table["arm"] == ADAPTOR_ONLY) & (table["step"] == table["step"].max())]
    wer = 100 * last["wer_mean"]
    return [
        f"**Must the model change?** With the adaptor alone, {profile.steps} steps end at a WER of"
        f" {wer.mean():.0f} ± {wer.std():.0f} %, with a KL of {last['kl'].max():.4f}"
        f" (n = {len(last)})."
    ]


def _encoding(title: Claim) -> str:
    """The title's claim in its two senses, and what the smallest singular values are worth."""
    assert title.decision is not None
    assert title.measured is not None
    information, knowledge = (
        listing.interval(*title.measured[name], 2) for name in ("information", "knowledge")
    )
    folder = paths.REFERENCE / "encoding"
    surgery = encoding.read(folder).surgery
    others = {
        "on speech prompts": "speech",
        "Gemma 3 270M": "gemma",
        "Whisper's decoder": "whisper",
    }
    found = elsewhere.information({name: folder / of for name, of in others.items()})
    also = "; ".join(f"{name} {row['real']}" for name, row in found.iterrows())
    values, queries = (encoding.surgery_cost(surgery, f"{kind}_proj") for kind in "vq")
    return (
        "**Does κ track what a tensor encodes?** Within module types, Spearman's ρ of κ with the"
        f" information that the output lacks {information}, with what the model loses without the"
        f" tensor's directions {knowledge} ({title.decision.level:.1%}, {title.decision.n} layers):"
        f" **{title.verdict}**. Setting the smallest singular value of every value matrix nearly"
        f" to zero costs {encoding.text(values)} nats a token, of every query matrix, where it is"
        f" nearly zero already, {encoding.text(queries)}."
        f" The first ρ elsewhere (95 %): {also}."
    )


def _against_lora(claim: Claim) -> list[str]:
    """What the text task says of the later versions' claim, by itself and among the others."""
    found = elsewhere.text_task(models.DEFAULT)
    if not found["kappatune"]:
        return []
    alone = claims.decide("new-text-task", found).verdict
    return [
        "**Does KappaTune forget less than LoRA?** At equal size and training loss, on a task of"
        f" text alone, that claim is **{claim.verdict}** with Holm's correction over all primary"
        f" claims (by itself: {alone}); the rows on LoRA have the numbers."
    ]


def _turn() -> list[str]:
    """Whether WER rises again after its best, for each arm that could show it."""
    found = elsewhere.turn()
    if not found:
        return []
    told = []
    for claim, role in {"selected-falls": "selected", "inverse-rises": "inverse"}.items():
        numbers = claims.catalogue()[claim].numbers
        decision = claims.decide(claim, {number: found[number] for number in numbers})
        shown = "too few seeds for an interval"
        if decision.estimate is not None and decision.interval is not None:
            shown = f"{listing.interval(decision.estimate, *decision.interval, 1)} points"
        told.append(f"`{role}` {shown}, “{claim}” **{decision.verdict}**")
    seeds, planned = len(found["selected"]["seeds"]), len(profiles.load("turn").seeds)
    return [
        f"**Does the curve turn?** Over {found['epochs']:.0f} epochs at a constant rate, WER at the"
        f" end less WER where the other seeds' mean is lowest: {'; '.join(told)} (95 %, {seeds} of"
        f" {planned} seeds; `inverse` has the size of `selected`)."
    ]


def headline(profile: Profile) -> str:
    """Both ends of every arm of a run, and its parameter counts."""
    table = tables.results(profile)
    ends = table[table["step"].isin([0, table["step"].max()])]
    sizes = tables.parameters(profile)["parameters"]
    listed = ", ".join(f"{arm} {count:,}" for arm, count in sizes.items())
    lines = [
        report.missing_note(profile) or "Every test set was available.",
        report.wer_table(ends),
        report.wer_intervals_table(profile),
        report.loss_table(ends),
        f"Trained parameters of the LLM: {listed}. {_effort(profile)}, on {_hardware(profile)}.",
    ]
    if ends["seed"].nunique() == 1:
        lines.insert(4, "One seed shows no spread: of the arms, this run decides nothing.")
    return "\n\n".join(lines)


def _effort(profile: Profile) -> str:
    """How long `reproduce.sh` took."""
    path = profile.folder / "timings.json"
    if not path.is_file():
        return "Its time was not recorded"
    timings = read_json(path)
    installation = timings.get("install_seconds") or 0.0
    spent = (entry.get("first") or entry for entry in timings["notebooks"].values())
    total = installation + sum(entry["seconds"] for entry in spent)
    return f"`bash reproduce.sh` took {clock(total)}, {clock(installation)} of it installation"


def _study_effort(profile: Profile) -> str:
    return f"The study: {len(tables.finished(profile))} runs of {profile.steps} steps."


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


def article(all_arms: Profile, pair: Profile) -> dict[str, Any]:
    """What the article's template asks for."""
    by_id = {claim.id: claim for claim in claims.load(all_arms.folder)}
    found = [c for c in by_id.values() if c.kind == CLAIM]
    primary = [c for c in found if c.primary]
    held = sum(c.verdict in (HOLDS, CORRECTED) for c in primary)
    failed = sum(c.verdict == FAILS for c in primary)
    groups = {g: [c for c in found if c.group == g] for g in claims.GROUPS}
    return {
        "mark": "[Re] " if 2 * held > len(primary) else "[¬Re] " * (2 * failed > len(primary)),
        "primary": len(primary),
        "held": held,
        "fixed": FIXED,
        "scope": _scope(all_arms),
        "counts": "\n".join(f"- Claims, {s}: {listing.sentence(found, CLAIM, s)}." for s in SCALES),
        "claimed": {g: [c for c in of if c.primary] or of[:3] for g, of in groups.items()},
        "study": _study_effort(all_arms),
        "advice": elsewhere.advice(),
        "found": _sentences(all_arms, by_id),
        "cause": cause_by_text(pair),
        "table": markdown(
            ["the paper says", "verdict", "scale"],
            [[c.statement, listing.said(c), c.scale] for c in found],
        ),
    }


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
