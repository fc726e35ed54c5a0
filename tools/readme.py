"""The README's blocks on results: at a glance, the laptop's run, and the study's comparisons.

All of it comes from ``results/reference``, which ``KAPPA_RESULTS`` must name.
"""

from typing import Any

import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import arms, claims, elsewhere, encoding, listing, report, tables
from kappa_lib.evidence.claims import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import CORRECTED, HOLDS, SCALES, Decision
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.arms import ADAPTOR_ONLY
from kappa_lib.text import clock, markdown

# Between such lines the README holds what a run wrote.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")
CAUSE = "kappa-is-the-cause"
LORA = {
    "on every matrix": "all",
    "on as many drawn at random": "random",
    "on as many of the same types": "random_like_selected",
}
COMPARED = (
    "selected-beats-inverse",
    "inverse-forgets-more",
    "mitigates-forgetting",
    "kappa-is-the-cause",
)


def committed(name: str) -> Profile:
    """A profile with the arms and seeds that its committed runs have."""
    return tables.of_runs(profiles.load(name))


def maybe(name: str) -> Profile | None:
    """:func:`committed`, or None where nothing of the profile is."""
    return committed(name) if (paths.REFERENCE / name / "runs").is_dir() else None


def glance(laptop: Profile, study: Profile, cause: Profile) -> str:
    """Scope, hardware, time, outcome, verdicts by scale, and the sentence that matters."""
    found = claims.load(study.folder)
    rows = [
        ("scope", _scope(study)),
        ("hardware", _hardware(laptop)),
        ("time", f"{_effort(laptop)}. {_study_effort(study)}"),
        *((f"claims, {scale}", _counted(found, CLAIM, scale)) for scale in SCALES),
        ("identities of the textbooks", f"{_counted(found, IDENTITY)}; they cannot fail"),
        ("our own caveats", _counted(found, CAVEAT)),
    ]
    by_id = {claim.id: claim for claim in found}
    return "\n\n".join([markdown(["at a glance", ""], rows), *_sentences(study, cause, by_id)])


def _scope(profile: Profile) -> str:
    return (
        f"one small language model (`{profile.model}`) with a frozen `{profile.encoder}` encoder,"
        " short German and English sentences, mostly synthetic; not the paper's 8B model"
    )


def _hardware(profile: Profile) -> str:
    *_, last = tables.finished(profile).values()
    machine, run = (read_json(last / f"{name}.json") for name in ("provenance", "config"))
    return f"{machine['cores']} cores ({machine['processor']}), no GPU, {run['dtype']} arithmetic"


def _counted(found: list[Claim], kind: str, scale: str | None = None) -> str:
    number = sum(c.kind == kind and scale in (None, c.scale) for c in found)
    return f"{number}: {listing.sentence(found, kind, scale)}"


def _sentences(study: Profile, cause: Profile, found: dict[str, Claim]) -> list[str]:
    """What became of the two questions that matter, each with its intervals."""
    forgets = found["inverse-forgets-more"]
    table = tables.results(study)
    sizes = [arms.trained(study, arm)["parameters"] for arm in ("selected", "inverse")]
    _, pilot = arms.decisive(sorted(table["seed"].unique().tolist()))
    counted = " The study has only two others, so it is counted there." if "with" in pilot else ""
    return [
        "**Is it κ?** Of each two neighbouring layers the tensor of lower κ less that of higher κ,"
        f" types, shapes, sizes and depth equal: {_decisive(cause)}.",
        "**Does training the tensors of highest κ forget more?** `selected` less `inverse`:"
        f" {_answer(forgets)}, for the two differ in more than κ. {arms.reversed_sizes(*sizes)}.",
        *_told("type", TYPES),
        *_adaptor_alone(),
        *_told("long", LONG),
        *_against_lora(found["new-text-task"]),
        *_turn(),
        _encoding(found["kappa-tracks-encoding"]),
        "Of the paper's versions 2 and 3 only the abstract could be read, not the body. Seed 0 was"
        f" a pilot: its direction was known before the rules were written.{counted}",
    ]


# Pairs of the profiles `type` and `long` that the README tells in words.
TYPES = {
    ("attention_matched_size", "mlp_matched_size"): (
        "**Is it the type?** All attention matrices, less as many parameters of the MLP"
    ),
    ("value", "key"): (
        "All value matrices, less all key matrices, which have the same shape and a higher κ"
    ),
    ("mlp", "mlp_matched_size"): "**Is it the size?** All MLP matrices, less a third of them",
    ("lowest_input_kappa", "highest_input_kappa"): (
        "**Is it κ on the real input?** The smallest κ of WΣ_X^½, less the largest, whose types"
        " and sizes differ"
    ),
}
LONG = {
    ("selected", "inverse_matched_size"): (
        "**And once it understands?** With ten times the steps, at falling rate, the smallest κ"
        " less as many parameters of the largest"
    )
}


def _told(name: str, pairs: dict[tuple[str, str], str]) -> list[str]:
    """One paragraph on those pairs of a profile that have been run, each with its intervals."""
    profile = maybe(name)
    if not profile:
        return []
    summary, planned = arms.summary(arms.outcomes(tables.results(profile))), profiles.load(name)
    told = []
    for pair in arms.present(profile.arms):
        found = summary[summary["pair"] == arms.name_of(pair)].set_index("outcome")
        if found.empty or pair not in pairs:
            continue
        said = []
        for outcome, (label, digits, unit) in _UNITS.items():
            row = found.loc[outcome]
            shown = listing.interval(row["mean"], row["low"], row["high"], digits)
            said.append(f"{label} {shown} {unit}, {row['reading']}")
        seeds = f"95 %, {found['seeds'].iloc[0]} of {len(planned.seeds)} seeds"
        told.append(f"{pairs[pair]}: {'; '.join(said)} ({seeds}).")
    return [" ".join(told)] if told else []


def _adaptor_alone() -> list[str]:
    """What is heard and lost where nothing of the language model is trained."""
    profile = maybe("type")
    if not profile or ADAPTOR_ONLY not in profile.arms:
        return []
    table = tables.results(profile)
    last = table[(table["arm"] == ADAPTOR_ONLY) & (table["step"] == table["step"].max())]
    wer = 100 * last["wer_mean"]
    return [
        "**Must the model change?** With the adaptor alone, in as many steps, WER ends at"
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
        f" **{title.verdict}**. Shrinking the smallest singular value alone costs"
        f" {encoding.text(values)} nats a token in all value projections, whose κ is the smallest,"
        f" and {encoding.text(queries)} in all query projections, whose κ is the largest."
        f" The first ρ elsewhere (95 %): {also}."
    )


def _against_lora(claim: Claim) -> list[str]:
    """The text task's sentence: LoRA where κ is smallest, everywhere, and where chance puts it."""
    profile = maybe("text")
    if not profile:
        return []
    table, planned = tables.results(profile), len(profiles.load("text").seeds)
    found = {arm: arms.measured(profile, table, arm) for arm in profile.arms}
    told = []
    for name, arm in LORA.items():
        if arm not in found:
            continue
        pair = {"kappatune": found["selected"], "lora": found[arm]}
        decision = claims.decide("new-text-task", pair)
        told.append(f"{name}, {_outcomes(decision)} (n = {decision.n}): **{decision.verdict}**")
    return [
        "**Does KappaTune forget less than LoRA at equal training loss?** On a task of text alone,"
        " LoRA on the fifth of the matrices with the smallest κ, less LoRA of as many parameters"
        f" {'; '.join(told)} (95 %, {len(profile.seeds)} of {planned} seeds). With Holm's"
        f" correction over all primary claims the first of these is **{claim.verdict}**."
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
    both = {role: found[role] for role in ("selected", "inverse")}
    forgets = claims.decide("inverse-forgets-more", both)
    return [
        f"**Does the curve turn?** Over {found['epochs']:.0f} epochs at a constant rate, WER at the"
        f" end less WER at its best: {'; '.join(told)} (95 %, {seeds} of {planned} seeds;"
        " `inverse` has the size of `selected`). At the end, `selected` less `inverse`:"
        f" {_outcomes(forgets)}, “inverse-forgets-more” **{forgets.verdict}** (their module"
        " types differ)."
    ]


def _answer(claim: Claim) -> str:
    """Every outcome with its interval, and the verdict."""
    assert claim.decision is not None
    return f"{_outcomes(claim.decision)} (95 %, {claim.decision.n} seeds): **{claim.verdict}**"


def _decisive(profile: Profile) -> str:
    """What the runs of ``cause`` say; the rule decides once, when all seeds have been run."""
    table, planned = tables.results(profile), len(profiles.load(profile.profile).seeds)
    pair = (arms.measured(profile, table, arm) for arm in profile.arms)
    decision = claims.decide(CAUSE, dict(zip(("low", "high"), pair, strict=True)))
    seeds = len(profile.seeds)
    word = decision.verdict if seeds == planned else f"so far; decided at {planned} seeds"
    told = _outcomes(decision) or "too few seeds for an interval"
    return f"{told} (95 %, {seeds} of {planned} seeds): **{word}**"


# Outcome → its name, digits and unit.
_UNITS = {
    "wer": ("WER", 2, "points"),
    "text": ("general-text loss", 4, "nats a token"),
    "kl": ("KL", 4, "nats a token"),
}


def _outcomes(decision: Decision) -> str:
    told = []
    for name, part in decision.parts.items():
        label, digits, _ = _UNITS[name]
        if part.estimate is not None and part.interval is not None:
            shown = listing.interval(part.estimate, *part.interval, digits)
            told.append(f"{label} {shown} {part.unit}")
    return ", ".join(told)


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
    runs = [read_json(f / "provenance.json") for f in tables.finished(profile).values()]
    seconds = sum(run["seconds_per_step"] for run in runs) / len(runs)
    return (
        f"The study: {len(runs)} runs of {profile.steps} steps, {seconds:.1f} s a step,"
        " evaluations apart."
    )


def cause(profile: Profile) -> str:
    """How well every arm's models listen, what they lost, and how the arms of a pair differ."""
    parts = [ends(profile, _LISTENING | _LOST), *_arithmetic(profile), _pairs(profile)]
    return "\n\n".join(parts)


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
    return f"{ends(profile, _TEXT)}\n\n{_pairs(profile, _EXCEPT_HELDOUT)}"


def turn(profile: Profile) -> str:
    """Both arms' WER at every evaluation, what was learned and lost by then, and the ends' pair."""
    table, rows = tables.results(profile), []
    for step, group in table[table["step"] > 0].groupby("step"):
        rows += [[step, *row] for row in _rows(group, _TURN)]
    means = markdown(["step", "arm", "seeds", *_TURN], rows)
    return f"Mean and standard deviation over seeds:\n\n{means}\n\n{_pairs(profile)}"


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
    return report.pairs_table(table, {a: arms.trained(profile, a) for a in profile.arms})


def article(all_arms: Profile, pair: Profile) -> dict[str, Any]:
    """What the article's template asks for."""
    by_id = {claim.id: claim for claim in claims.load(all_arms.folder)}
    found = [c for c in by_id.values() if c.kind == CLAIM]
    primary = [c for c in found if c.primary]
    held = sum(c.verdict in (HOLDS, CORRECTED) for c in primary)
    groups = {g: [c for c in found if c.group == g] for g in claims.GROUPS}
    return {
        "mark": "[Re]" if 2 * held > len(primary) else "[¬Re]",
        "primary": len(primary),
        "held": held,
        "scope": _scope(all_arms),
        "counts": "\n".join(f"- Claims, {s}: {_counted(found, CLAIM, s)}." for s in SCALES),
        "claimed": {g: [c for c in of if c.primary] or of[:3] for g, of in groups.items()},
        "study": _study_effort(all_arms),
        "found": _sentences(all_arms, pair, by_id),
        "cause": cause(pair),
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
    facts = {arm: arms.trained(profile, arm) for arm in table["arm"].unique()}
    verdicts = "\n".join(
        f"- {decided[name].statement} **{listing.said(decided[name])}**:"
        f" {listing.measured(decided[name])}."
        for name in COMPARED
    )
    return "\n\n".join(
        [
            f"{table['arm'].nunique()} arms, {seeds} seeds, {runs} runs of"
            f" {table['step'].max()} steps.",
            report.pairs_table(table, facts),
            "By the rules of today, which were not those of the day of the run, from its numbers:",
            verdicts,
        ]
    )


def block_of(text: str, name: str) -> str:
    """What stands between the two markers of a name."""
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
