"""How claims about measurements are decided: comparisons, correlations, and what needs code.

In words the rules stand in ``data/claims.yaml``, which declares what each claim is decided from.
What differs between two arms beside κ is looked for whatever the outcome: it can hide a difference
as well as make one, so *holds*, *fails* and *no relevant difference* all become *confounded*.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd

from kappa_lib.evidence import compare, curves, encoding
from kappa_lib.evidence.catalogue import Code, Comparison, Correlation
from kappa_lib.evidence.correlation import within_types
from kappa_lib.evidence.runs import Runs, runs_for
from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    FAILS,
    HIGHER,
    HOLDS,
    LEVEL,
    LOWER,
    NOT_RUN,
    NOT_TESTABLE,
    POINTS,
    SAME,
    UNDECIDED,
    Decision,
    Interval,
    decide_difference,
    decisive,
    holm,
    together,
)
from kappa_lib.profiles import Profile

OTHER_MODEL = Decision(NOT_TESTABLE, note="not measured for this model")
# What only differs in κ, and what such arms have to have in common.
ALIKE_ARMS = [
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("lowest_in_type", "highest_in_type"),
]


def decide(rule: Comparison | Correlation | Code, profile: Profile) -> Decision:
    """Decide a claim from the runs and tables that it declares, of or for ``profile``."""
    if isinstance(rule, Comparison):
        return compared(rule, runs_for(rule.runs, profile))
    if isinstance(rule, Correlation):
        return correlated(rule, profile)
    return CODE[rule.code](runs_for(rule.runs, profile))


def compared(rule: Comparison, found: Runs) -> Decision:
    """The verdict of a comparison, *confounded* where it decides while something else differs."""
    ran = [pair for pair in rule.pairs if found.first_of([pair])]
    if not ran or (rule.every and len(ran) < len(rule.pairs)):
        return NOT_RUN
    pairs = ran if rule.every else ran[:1]
    each = {
        pair: {o: compare.decide(found, pair, o, rule.margin, rule.seeds) for o in rule.outcomes}
        for pair in pairs
    }
    parts = each[pairs[0]] if len(pairs) == 1 else _by_holm(each)
    unlike = (compare.unlike(found, pair, rule.held) for pair in pairs)
    apart = {name: how for of in unlike for name, how in of.items()}
    return unless_confounded(together(parts, rule.claimed), apart)


def _by_holm(each: Mapping[compare.Pair, Mapping[str, Decision]]) -> dict[str, Decision]:
    """Parts of all pairs; where a pair's p, corrected, may be chance, its readings are undecided.

    The p of a pair is that of all its outcomes together, see :func:`together`.
    """
    p = {compare.name_of(pair): together(of).p for pair, of in each.items()}
    corrected, parts = holm({name: x for name, x in p.items() if x is not None}), {}
    for pair, of in each.items():
        name = compare.name_of(pair)
        chance = corrected.get(name, 1.0) >= 1 - LEVEL
        for outcome, part in of.items():
            decided = part.verdict in (LOWER, HIGHER) and chance
            parts[f"{name}, {outcome}"] = part.but(UNDECIDED) if decided else part
    return parts


def unless_confounded(decision: Decision, apart: Mapping[str, str]) -> Decision:
    """The decision, or *confounded* where it says anything while something else differs too."""
    if not apart:
        return decision
    told = ", ".join(f"{what} {how}" for what, how in apart.items())
    decided = decision.verdict in (HOLDS, CORRECTED, FAILS, SAME)
    found = decision.but(CONFOUNDED) if decided else decision
    return found.noting(f"first arm's {told}")


def correlated(rule: Correlation, profile: Profile) -> Decision:
    """The verdict on what κ goes with within module types, each outcome against the band."""
    table = encoding.table_of(rule.table, profile)
    if table is None:
        return OTHER_MODEL
    found = {name: within_types(table, rule.of, name, level=rule.level) for name in rule.outcomes}
    return banded(rule, found)


def banded(rule: Correlation, found: Mapping[str, Interval]) -> Decision:
    """:func:`correlated`, from the intervals of the outcomes."""
    readings = {name: _in_band(rule, rho) for name, rho in found.items()}
    said, supported = set(readings.values()), {n for n, r in readings.items() if r == HIGHER}
    verdict = UNDECIDED
    if said == {HIGHER}:
        verdict = HOLDS
    elif said == {LOWER}:
        verdict = CORRECTED if rule.either_way else FAILS
    elif said == {SAME}:
        verdict = FAILS
    elif said == {HIGHER, LOWER} and supported <= set(rule.corrected):
        verdict = CORRECTED
    unit = "Spearman's ρ"
    parts = {
        name: Decision(readings[name], rho.estimate, rho.ends[1:], rho.level, unit, rho.n)
        for name, rho in found.items()
    }
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first.but(verdict)
    return Decision(verdict, level=rule.level, n=first.n, parts=parts)


def _in_band(rule: Correlation, rho: Interval) -> str:
    if not rule.either_way:
        return rho.reading(rule.above, rule.below)
    small = -rule.below < rho.low and rho.high < rule.below
    return SAME if small else rho.reading(rule.above, -rule.above)


def new_modality(found: Runs) -> Decision:
    """The last WER of every test corpus, recorded people included, lies below one half."""
    if "selected" not in found.ends.index:
        return NOT_RUN
    ends = found.ends.loc[["selected"]].set_index("seed").filter(regex="^wer_(?!mean)")
    kept, note = decisive(ends.index.tolist())
    rates = 100 * ends.loc[kept].dropna(axis="columns")
    parts = {
        corpus.removeprefix("wer_"): decide_difference(
            rates[corpus], [50.0] * len(rates), POINTS, "points from 50 %"
        ).noting(note)
        for corpus in rates
    }
    if not parts:
        return Decision(NOT_TESTABLE, note="not tested on speech")
    decision = together(parts)
    if {part.verdict for part in parts.values()} == {LOWER, HIGHER}:
        return replace(decision, verdict=CORRECTED, p=max(part.p for part in parts.values()))
    return decision


def disruption_causes_forgetting(found: Runs) -> Decision:
    """Where arms of the same size and types disrupt differently, the more disrupted forgets more.

    Without a decided difference in disruption there is nothing for forgetting to follow.
    """
    pair = found.first_of(ALIKE_ARMS)
    if pair is None:
        return NOT_RUN
    moved = pd.DataFrame({arm: found.disruption(arm) for arm in pair}).dropna()
    if moved.empty:
        return Decision(NOT_TESTABLE, note="no spectra from before and after training")
    kept, note = decisive(moved.index.tolist())
    disrupted = decide_difference(*moved.loc[kept].to_numpy().T, 0.0, "log of |Δ log κ|")
    forgot = {outcome: compare.decide(found, pair, outcome) for outcome in ("text", "kl")}
    decision = follows(disrupted, forgot).noting(note)
    apart = compare.unlike(found, pair, ["parameters", "types", "layers"])
    return unless_confounded(decision, apart)


def follows(disrupted: Decision, forgot: Mapping[str, Decision]) -> Decision:
    """The rule itself: forgetting, in all outcomes, to the side of the disruption."""
    both, sides = together(forgot), {part.verdict for part in forgot.values()}
    verdict = UNDECIDED
    if disrupted.verdict == NOT_TESTABLE:
        verdict = NOT_TESTABLE
    elif disrupted.verdict in (LOWER, HIGHER) and sides in ({LOWER}, {HIGHER}):
        verdict = HOLDS if sides == {disrupted.verdict} else FAILS
    return Decision(verdict, n=disrupted.n, p=both.p, parts={"disruption": disrupted, **forgot})


CODE: dict[str, Callable[[Runs], Decision]] = {
    "every corpus is understood": new_modality,
    "forgetting follows disruption": disruption_causes_forgetting,
    "the curve falls": curves.selected_falls,
    "the curve rises": curves.inverse_rises,
    "the curve is good early": curves.inverse_good_early,
}
