"""Numbers that prose quotes are those of the committed results, computed here by SciPy alone."""

import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kappa_lib import paths
from kappa_lib.evidence import claims
from kappa_lib.training.experiment import LORA_SCALE

REFERENCE = paths.REFERENCE
TEXTS = {
    name: " ".join((paths.ROOT / name).read_text(encoding="utf-8").split())
    for name in ("README.md", "article.md", "docs/findings.md")
}
NEIGHBOURS = ("lower_of_neighbours", "higher_of_neighbours")
EQUAL = ("selected", "inverse_matched_size")
PEFT_S_OWN = ("text", "peft_default", "peft_all")
# Row of the findings → committed profile and its two arms.
ROWS = {
    "same function: κ as it is − × 30, matched rates": ("gauge", "selected", "dose3_matched"),
    "same function: κ as it is − × 8, matched rates": ("gauge", "selected", "dose2_matched"),
    "matched pairs: lower − higher κ": ("cause", *NEIGHBOURS),
    "matched pairs, 300 steps": ("understood", *NEIGHBOURS),
    "LoRA, early: matched pairs": ("text_early", *NEIGHBOURS),
    "attention − MLP, equal size": ("type", "attention_matched_size", "mlp_matched_size"),
    "values − keys": ("type", "value", "key"),
    "MLP − a third of it": ("type", "mlp", "mlp_matched_size"),
    "smallest − largest κ on real input": ("type", "lowest_input_kappa", "highest_input_kappa"),
    "smallest − largest κ, the paper's arms": ("study", "selected", "inverse"),
    "smallest − largest κ, 600 steps": ("long", *EQUAL),
    "smallest − largest κ, people's voices": ("voices", *EQUAL),
    "smallest − largest κ, ten epochs": ("turn", *EQUAL),
    "LoRA: smallest κ − every matrix": ("text", "selected", "all"),
    "LoRA: smallest κ − random": ("text", "selected", "random"),
    "LoRA: smallest κ − random of the same types": ("text", "selected", "random_like_selected"),
    "LoRA, longer: smallest κ − every matrix": ("text_longer", "selected", "all"),
    "LoRA, Qwen 0.5B: smallest κ − every matrix": ("text_qwen", "selected", "all"),
    "LoRA, Qwen 0.5B: smallest κ − random of the same types": (
        "text_qwen",
        "selected",
        "random_like_selected",
    ),
    "LoRA, early: smallest κ − every matrix": ("text_early", "selected", "all"),
    "LoRA, early: smallest κ − random": ("text_early", "selected", "random"),
    "LoRA, early: smallest κ − random of the same types": (
        "text_early",
        "selected",
        "random_like_selected",
    ),
}
# Row of the README → row above.
ANSWERS = {
    "**same function**: κ as it is, κ × 30, at matched rates": (
        "same function: κ as it is − × 30, matched rates"
    ),
    "LoRA on the smallest κ, LoRA on every matrix": "LoRA: smallest κ − every matrix",
    "LoRA on the smallest κ, on random matrices": "LoRA: smallest κ − random",
    "LoRA on the smallest κ, on random matrices of the same types": (
        "LoRA: smallest κ − random of the same types"
    ),
    "smallest κ, largest κ, as many parameters": "smallest − largest κ, 600 steps",
    "**matched pair**: lower and higher κ of neighbouring layers": (
        "matched pairs: lower − higher κ"
    ),
}


def ends(profile, *arms):
    """(seed, arm) → the last evaluation of each run; the pilot's seed only where it is needed."""
    table = pd.read_csv(REFERENCE / profile / "metrics.csv")
    table = table[table["arm"].isin(arms)]
    table = table[table["step"] == table.groupby(["arm", "seed"])["step"].transform("max")]
    seeds = table[table["seed"] > 0]
    table = seeds if seeds["seed"].nunique() >= 3 else table
    wide = table.pivot(index="seed", columns="arm")
    return wide[[(column, arm) for column in wide.columns.levels[0] for arm in arms]].dropna(
        how="all", axis=1
    )


def compared(row, outcome):
    """n, both levels, the mean difference and the ends of its 95 % t-interval."""
    return of_pair(*ROWS[row], outcome)


def of_pair(profile, first, second, outcome):
    found = ends(profile, first, second)[outcome].dropna()
    return len(found), *found[[first, second]].mean(), *mean_and_ends(found[first] - found[second])


def mean_and_ends(values):
    """The mean, and the ends of its 95 % t-interval."""
    mean = values.mean()
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return mean, mean - half, mean + half


def interval(values, digits):
    mean, low, high = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in values)
    return f"{mean} [{low}, {high}]"


def finding(row):
    """A row of the findings' table."""
    cells = []
    for outcome, factor, level, digits in (
        ("wer_mean", 100, 1, 1),
        ("text_loss", 1, 3, 3),
        ("kl", 1, 3, 3),
    ):
        n, *values = compared(row, outcome)
        first, second, *difference = (factor * x for x in values)
        said = interval(difference, digits)
        said = f"**{said}**" if difference[1] * difference[2] > 0 else said
        cells.append(f"{first:.{level}f}, {second:.{level}f}: {said}")
    return f"| {row} | {n} | {' | '.join(cells)} |"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_findings(row):
    assert finding(row) in TEXTS["docs/findings.md"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_row_of_the_answer(answer):
    _, heard, other, *_ = compared(ANSWERS[answer], "wer_mean")
    n, first, second, *difference = compared(ANSWERS[answer], "kl")
    reading = "more" if difference[1] > 0 else "less" if difference[2] < 0 else "undecided"
    assert (
        f"| {answer} (n = {n}) | {100 * heard:.1f}, {100 * other:.1f} | {first:.3f}, {second:.3f}"
        f" | {interval(difference, 3)} | {reading} |"
    ) in TEXTS["README.md"]


def at_loss_of_both(profile, first, second, learned="heldout_loss", cost="kl"):
    """Seeds × KL or another cost of two arms, both at the held-out loss that both reached."""
    table = pd.read_csv(REFERENCE / profile / "metrics.csv")
    found = []
    for _, of_seed in table[table["arm"].isin([first, second])].groupby("seed"):
        paths = {name: rows.sort_values("step") for name, rows in of_seed.groupby("arm")}
        if len(paths) < 2:
            continue
        level = max(rows[learned].min() for rows in paths.values())
        two = (paths[first], paths[second])
        found.append([np.interp(-level, -rows[learned], rows[cost]) for rows in two])
    return np.array(found)


def at_equal_loss(profile, first, second, corpus, cost="kl"):
    """A cost of the first arm minus that of the second, with the ends of its interval."""
    found = at_loss_of_both(profile, first, second, f"heldout_{corpus}", cost)
    return mean_and_ends(found[:, 0] - found[:, 1])


def with_peft_s_own():
    """Seeds × KL of the smallest κ and of every matrix; their difference in both languages."""
    each = (at_equal_loss(*PEFT_S_OWN, corpus) for corpus in ("de_open", "en_open"))
    german, english = (interval(values, 3) for values in each)
    return at_loss_of_both(*PEFT_S_OWN), f"{german} in German, {english} in English"


def ranks_of_random():
    """The lowest and the highest rank at which random matrices have LoRA's parameters."""
    folder = REFERENCE / "text"
    table = pd.read_csv(folder / "kappa.csv", index_col="tensor").dropna(subset="layer")
    sides = table["rows"] + table["cols"]
    seeds = ends("text", "selected", "random")["kl"].dropna().index
    each = [json.loads((folder / f"selections/random-seed{s}.json").read_text()) for s in seeds]
    everywhere = json.loads((folder / "runs/all-seed1/config.json").read_text())["lora_rank"]
    ranks = [int(everywhere * sides.sum() / sides[of["tensors"]].sum()) for of in each]
    return min(ranks), max(ranks)


def test_numbers_of_the_intervention():
    readme, article, findings = TEXTS.values()
    ends = []
    for arm in ("dose2_matched", "dose3_matched"):
        for corpus in ("de_open", "en_open"):
            values = at_equal_loss("gauge", "selected", arm, corpus)
            ends.append(values[1])
            assert interval(values, 3) in findings
            if arm == "dose3_matched":
                assert interval(values, 3) in readme
                assert interval(values, 3).replace("+", "") in article
            else:
                assert "+0.007 in both" in readme
                assert f"{values[0]:+.3f}" == "+0.007"
    assert min(ends) > -0.002
    for arm in ("rate2", "dose2", "dose3"):
        both = [-at_equal_loss("gauge", "selected", arm, c)[0] for c in ("de_open", "en_open")]
        assert "{:.3f} and {:.3f}".format(*both) in (readme if arm == "rate2" else findings)
    held = [compared(row, "heldout_loss")[1:3] for row in list(ROWS)[:2]]
    assert f"{held[0][0]:.2f}, {held[1][1]:.2f} and {held[0][1]:.2f}" in findings
    assert claim("kappa-causes-forgetting")["verdict"] == "undecided"
    share = claim("rule-reads-the-function")["numbers"]["share"]
    assert round(94 * share) == 34


def test_numbers_of_the_secondary_comparisons():
    findings = TEXTS["docs/findings.md"]
    others = {"dose2_rms": "selected", "dose3_rms": "selected", "inverse": "selected"}
    for arm, first in (others | {"inverse_dose2_matched": "inverse"}).items():
        both = [at_equal_loss("gauge", first, arm, c)[0] for c in ("de_open", "en_open")]
        assert "{:.3f} and {:.3f}".format(*map(abs, both)) in findings
    slow = [ends("gauge", a)["heldout_loss"][a].mean() for a in ("dose2_rms", "dose3_rms")]
    original = ends("gauge", "selected", "inverse")["heldout_loss"].dropna()["selected"].mean()
    assert "{:.2f} and {:.2f}, the original {:.2f}".format(*slow, original) in findings


def kappa_contrast():
    """κ of the higher arm of the matched pair over that of the lower, as geometric means."""
    table = pd.read_csv(REFERENCE / "cause" / "kappa.csv").set_index("tensor")["kappa"]
    means = []
    for arm in NEIGHBOURS:
        chosen = json.loads((REFERENCE / "cause" / "selections" / f"{arm}.json").read_text())
        means.append(stats.gmean(table[chosen["tensors"]]))
    return means[1] / means[0]


def overlap():
    """The share of random matrices of the same types that are among the smallest κ themselves."""
    folder = REFERENCE / "text" / "selections"
    smallest = set(json.loads((folder / "selected.json").read_text())["tensors"])
    drawn = [json.loads(p.read_text())["tensors"] for p in folder.glob("random_like_selected-*")]
    return sum(len(smallest & set(d)) / len(d) for d in drawn) / len(drawn)


def by_text(kind):
    """Levels of the matched pair on one text: its KL, or its loss."""
    found = ends("cause", *NEIGHBOURS)[kind]
    return [found[arm].mean() for arm in NEIGHBOURS]


def claim(name):
    return json.loads((REFERENCE / "study" / "claims" / f"{name}.json").read_text())


def encoded(of):
    """Spearman's ρ of κ with the information deficit, of ranks within module types."""
    table = pd.read_csv(REFERENCE / "encoding" / of / "tensors.csv")
    ranks = table.groupby("type")[["kappa", "deficit"]].rank()
    return (ranks - ranks.groupby(table["type"]).transform("mean")).corr().iloc[0, 1]


def test_numbers_in_sentences_of_the_readme():
    told = TEXTS["README.md"]
    assert f"by a factor of {kappa_contrast():.1f} only" in told
    kinds = ("kl_english", "kl_technical", "text_loss", "text_german")
    apart = (lower - higher for lower, higher in map(by_text, kinds))
    assert (
        "By KL the lower κ forgot less on English ({:.3f}) and technical text ({:.3f});"
        " by general-text loss it forgot more ({:+.3f}), nearly all of it on German ({:+.3f})."
    ).format(*apart) in told
    qwen = "LoRA, Qwen 0.5B: smallest κ − every matrix"
    _, first, second, *difference = compared(qwen, "kl")
    found = f"seeds (KL {first:.3f} against {second:.3f}: {interval(difference, 3)}, *undecided*)"
    assert found in told
    kl, apart = with_peft_s_own()
    at_end = interval(of_pair(*PEFT_S_OWN, "kl")[3:], 3)
    assert f"at equal held-out loss {apart}; at the end {at_end} (n = {len(kl)})" in told
    runs = (REFERENCE / "text" / "runs" / f"{arm}-seed4" for arm in PEFT_S_OWN[1:])
    few, every = (json.loads((r / "config.json").read_text())["parameters"] for r in runs)
    assert round(every / few) == 6
    assert "have a sixth of the parameters" in told
    assert f"in ours {LORA_SCALE:.0f} on both" in told
    assert interval(difference, 3) in TEXTS["article.md"]
    assert round(overlap() * 4) == 3
    assert "share three matrices in four" in told


def test_numbers_of_people_s_voices():
    told = TEXTS["docs/findings.md"]
    people = 100 * ends("voices", *EQUAL)
    means, actors = {}, {}
    for arm in EQUAL:
        of = {c: people[f"wer_{c}"][arm] for c in ("en_human", "en_open", "de_open", "en_actors")}
        means[arm] = [f"{values.mean():.1f} %" for values in of.values()]
        actors[arm] = "{:.1f} % [{:.1f}, {:.1f}]".format(*mean_and_ends(of["en_actors"]))
    human, english, german, _ = means["selected"]
    assert f"WER is {human} on a person" in told
    assert f"{english} and {german} on English and German" in told
    assert f"{actors['selected']} on six characters" in told
    assert f"it is {', '.join(means[EQUAL[1]][:3])} and {actors[EQUAL[1]]}." in told
    _, first, second, *difference = compared("smallest − largest κ, people's voices", "kl")
    assert f"(KL {first:.3f} and {second:.3f}: {interval(difference, 3)})" in told
    assert f"({first:.3f} against {second:.3f}, n = {len(people)})" in TEXTS["article.md"]
    assert claim("new-modality")["verdict"] == "undecided"


def test_numbers_of_the_longer_training():
    readme, article, findings = TEXTS.values()
    row = "LoRA, longer: smallest κ − every matrix"
    n, first, second, *difference = compared(row, "kl")
    apart = interval(difference, 3)
    assert f"KL {first:.3f} against {second:.3f}, {apart} (n = {n})" in readme
    assert f"came to {first:.3f} and {second:.3f} ({apart}, n = {n})" in article
    assert f"KL is then {first:.3f} and {second:.3f};" in findings
    rates = [100 * x for x in compared(row, "wer_mean")[1:3]]
    assert "a WER of {:.1f} % and {:.1f} %,".format(*rates) in article
    each = ends(*ROWS[row])
    rates = 100 * each[["wer_de_open", "wer_en_open"]].mean()
    german, english = rates["wer_de_open"], rates["wer_en_open"]
    found = (german["selected"], english["selected"], german["all"], english["all"])
    assert (
        "WER is {:.1f} % in German and {:.1f} % in English with the smallest κ,"
        " {:.1f} % and {:.1f} % with every matrix"
    ).format(*found) in findings
    assert max(german["selected"] - 55, english.max() - 45) < 0 < german["all"] - 55  # the aims
    differences = each["kl"]["selected"] - each["kl"]["all"]
    assert "by {:.2f}, {:.2f} and {:.2f}, and".format(*differences) in findings
    for corpus in ("de_open", "en_open"):
        assert interval(at_equal_loss(*ROWS[row], corpus), 3) in findings


def test_the_time_of_the_small_run():
    timings = json.loads((REFERENCE / "laptop" / "timings.json").read_text())
    spent = [entry.get("first") or entry for entry in timings["notebooks"].values()]
    total = round(timings["install_seconds"] + sum(entry["seconds"] for entry in spent))
    assert f"It took {total // 60} min {total % 60:02d} s on 2 cores" in TEXTS["README.md"]


def test_numbers_in_sentences_of_the_findings():
    told = TEXTS["docs/findings.md"]
    for row, outcome, digits in (
        ("matched pairs: lower − higher κ", "kl", 3),
        ("attention − MLP, equal size", "kl", 3),
        ("values − keys", "kl", 3),
        ("MLP − a third of it", "kl", 3),
        ("smallest − largest κ, 600 steps", "kl", 3),
        ("smallest − largest κ, ten epochs", "kl", 3),
        ("LoRA: smallest κ − every matrix", "kl", 3),
        ("LoRA, early: smallest κ − every matrix", "kl", 3),
    ):
        _, first, second, *_ = compared(row, outcome)
        assert f"{first:.{digits}f} against {second:.{digits}f}" in told, row
    for row in (
        "LoRA, early: smallest κ − random",
        "LoRA, early: smallest κ − random of the same types",
    ):
        assert f"({compared(row, 'kl')[2]:.3f})" in told
    assert f"{compared('matched pairs: lower − higher κ', 'text_loss')[3]:.4f} higher" in told
    for kind in ("kl_english", "kl_technical", "text_german"):
        lower, higher = by_text(kind)
        assert f"{lower:.3f} against {higher:.3f}" in told
    text = pd.read_csv(REFERENCE / "text" / "metrics.csv").query("step > 0").sort_values("step")
    kl = {arm: rows.groupby("seed")["kl"].apply(list) for arm, rows in text.groupby("arm")}
    apart = np.subtract(kl["selected"].tolist(), kl["all"].tolist())  # seeds, levels
    assert apart.shape == (5, 4)
    assert (apart > 0).all()
    assert "is {:.2f}, {:.2f}, {:.2f}, {:.2f} and {:.2f}".format(*apart[:, -1]) in told
    _, first, second, *_ = compared("LoRA, Qwen 0.5B: smallest κ − every matrix", "kl")
    assert f"the KL is {first:.3f} with LoRA on the smallest κ and {second:.3f}" in told
    kl = ends("text", "selected", "random_like_selected")["kl"]
    differences = kl["selected"] - kl["random_like_selected"]
    apart = "{:+.2f}, {:+.2f}, {:+.2f}, {:+.2f} and {:+.2f}".format(*differences)
    assert f"end at a KL of {kl['random_like_selected'].mean():.3f}" in told
    assert f"end at a KL of {kl['random_like_selected'].mean():.3f}" in TEXTS["article.md"]
    unplanned = of_pair("text", "random_like_selected", "all", "kl")[3:]
    assert f"{interval(unplanned, 3)}, a comparison that was not planned" in told
    assert f"seed differs by {apart}" in told
    kl, apart = with_peft_s_own()
    own = kl.mean(axis=0)
    assert "smallest κ had a KL of {:.3f} and every matrix of {:.3f} at".format(*own) in told
    assert f"*undecided*: {apart}." in told
    assert interval(of_pair(*PEFT_S_OWN, "kl")[3:], 3) in told
    for cost in ("kl", "text_loss"):
        assert interval(at_equal_loss("type", "value", "key", "de_open", cost), 3) in told
    assert "come to {:.3f} and {:.3f} at equal held-out".format(*own) in TEXTS["article.md"]
    assert f"undecided ({apart}, n = {len(kl)})" in TEXTS["article.md"]
    kl = ends("text", "selected", "random")["kl"].dropna()
    *rest, last = (f"{x:.2f}" for x in kl["selected"] - kl["random"])
    assert f"in each seed, by {', '.join(rest)} and {last}, on average by" in told
    _, first, second, *difference = of_pair("text", "selected", "random", "kl")
    assert f"at a KL of {second:.3f}, where the smallest κ" in told
    assert f"seeds had {first:.3f}" in told
    low, high = ranks_of_random()
    for text in (told, TEXTS["article.md"]):
        assert f"ranks of {low} to {high}" in text
        assert f" {interval(difference, 3)}" in text
    _, first, second, *difference = of_pair("text", "random", "all", "kl")
    assert f"random ones differ by {interval(difference, 3)} (not planned)" in told
    own = at_loss_of_both("text", "selected", "peft_default").mean(axis=0)
    assert "same 42 matrices had {:.2f} where they had {:.2f} with PEFT's".format(*own) in told
    kl = ends("text_qwen", "selected", "all")["kl"]
    assert "by {:.2f}, {:.2f} and {:.2f} nats".format(*kl["selected"] - kl["all"]) in told
    kl = ends("text_qwen", "selected", "random_like_selected")["kl"]
    apart = kl["selected"] - kl["random_like_selected"]
    assert f"a KL of {kl['random_like_selected'].mean():.3f}" in told
    assert "by {:+.2f}, {:+.2f} and {:+.2f}".format(*apart) in told
    (decision,) = (c.decision for c in claims.load(REFERENCE / "study") if c.id == "new-text-task")
    assert decision.verdict == "fails"
    p = decision.note.removeprefix("p = ").removesuffix(" by Holm")
    assert all(p in TEXTS[name] for name in ("docs/findings.md", "README.md", "article.md")), p
    alone = ends("type", "adaptor_only")
    assert f"WER of {100 * alone['wer_mean'].to_numpy().mean():.0f} %, with a KL of 0." in told
    assert alone["kl"].to_numpy().max() == 0
    for name in ("selected-falls", "inverse-rises"):
        decision = claim(name)["decision"]
        assert interval([decision["estimate"], *decision["interval"]], 1) in told
        assert decision["verdict"] == "undecided"
    for part in claim("kappa-tracks-encoding")["decision"]["parts"].values():
        assert interval([part["estimate"], *part["interval"]], 2) in told
    rhos = {of: f"{encoded(of):+.2f}" for of in ("speech", "gemma", "qwen", "whisper")}
    assert f"prompts is {rhos['speech']}, in Gemma 3 270M {rhos['gemma']}, in Qwen" in told
    assert f"0.5B {rhos['qwen']}, in Whisper's decoder {rhos['whisper']}." in told
    surgery = pd.read_csv(REFERENCE / "encoding" / "surgery.csv")
    cost = surgery[surgery["change"] == "surgery"].groupby("scope")["loss"].mean()
    assert f"costs {cost['v_proj']:+.2f} nats per token" in told
    assert f"to begin with, {abs(cost['q_proj']):+.2f}" in told


def test_numbers_in_sentences_of_the_article():
    told = TEXTS["article.md"]
    lora = ("LoRA: smallest κ − every matrix", "LoRA, early: smallest κ − every matrix")
    for row in (*lora, "matched pairs: lower − higher κ"):
        assert interval(compared(row, "kl")[3:], 3) in told
    for when in ("LoRA", "LoRA, early"):
        row = f"{when}: smallest κ − random of the same types"
        assert interval(compared(row, "kl")[3:], 3) in told
    for row in (
        "smallest − largest κ, 600 steps",
        "attention − MLP, equal size",
        "MLP − a third of it",
    ):
        _, first, second, *_ = compared(row, "kl")
        assert f"{first:.3f} against {second:.3f}" in told
    for row in lora:
        _, first, second, *_ = compared(row, "kl")
        assert f"KL of {first:.3f} nats per token, LoRA on every matrix at {second:.3f}" in told
    assert f"by a factor of {kappa_contrast():.1f} only" in told
    for part in claim("kappa-tracks-encoding")["decision"]["parts"].values():
        assert interval([part["estimate"], *part["interval"]], 2) in told
    found = claims.load(REFERENCE / "study")
    primary = Counter(c.verdict for c in found if c.primary)
    assert primary == {"confounded": 2, "undecided": 4, "fails": 1}
    assert "seven primary claims, those about training, none holds here: two are" in told
    theory = Counter(c.verdict for c in found if c.kind == "claim" and c.scale == "proved")
    assert theory == {"holds with a correction": 6, "fails": 3, "confounded": 1}
    assert "six hold with a correction, three fail and one is confounded" in told


def test_the_readme_is_short():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 165
    assert len(text.split()) <= 2000
    table = text.partition("| first and second arm")[2].partition("\n\n")[0]
    assert len(re.findall(r"^\| ", table, re.M)) <= 6


if __name__ == "__main__":  # the findings' table, to paste
    print("\n".join(map(finding, ROWS)))
