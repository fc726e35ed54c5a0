"""Numbers in prose that is written by hand are those of the committed results.

A paragraph is found by how it begins; what it has to say is computed anew.
"""

import re

import pandas as pd
import pytest

from kappa_lib import paths, profiles
from kappa_lib.evidence import encoding, report
from kappa_lib.evidence.claims import catalogue
from kappa_lib.evidence.encoding import within_types
from kappa_lib.evidence.verdicts import interval
from kappa_lib.files import read_json

SPEED, SEVENTH = "docs/speed.md", "notebooks/07_does_kappa_track_information"


def paragraph(page, start):
    """The paragraph or list that begins so, on one line."""
    if page.startswith("notebooks/"):
        cells = read_json(paths.ROOT / f"{page}.ipynb")["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = (paths.ROOT / page).read_text(encoding="utf-8")
    assert text.count(start) == 1, f"{page}: {start!r} is there {text.count(start)} times"
    return re.sub(r"\s+", " ", text[text.index(start) :].partition("\n\n")[0])


def says(page, start, *said):
    told = paragraph(page, start)
    for words in said:
        assert words in told, f"{page}, {start!r}: {words!r} is not in {told!r}"


def decision(claim_id):
    return catalogue()[claim_id].decided_by.decide(profiles.load("reference/study"))


def test_benchmarks():
    read = {n: read_json(paths.REFERENCE / n / f"{n}.json") for n in ("scale", "steps", "bench")}
    scale, steps, commands = read["scale"], read["steps"], read["bench"]["commands"]
    said = f"{scale['matrices']} matrices, {scale['checkpoint_gb']:.1f} GB of bf16 shards"
    took = (
        f"{scale['seconds'] / 60:.0f} minutes beside other work, with {scale['peak_gib']:.2f} GiB"
    )
    fast = " and in ".join(f"{d} {x:.2f}" for d, x in steps["times_as_fast"].items())
    each = ", ".join(f"`{name}` {seconds:.0f} s" for name, seconds in commands.items())
    says(SPEED, "On 2 cores, load 1 at the start.", said, took, fast, each)
    size = read_json(paths.REFERENCE / "paper_size" / "paper_size.json")["scan"]
    ends, rows = size["extremes"], size["auto"]
    alone = f"all {ends['matrices']} matrices took {ends['seconds']:.0f} s and at most"
    whole = f"the whole row {rows['seconds'] / rows['matrices']:.2f} s per matrix"
    says(SPEED, "On one NVIDIA H200.", alone, f"{ends['peak_gib']:.1f} GiB of the GPU", whole)


@pytest.fixture(scope="module")
def study():
    return encoding.tensors(encoding.FOLDER)


def test_notebook_7_on_the_two_senses(study):
    parts = decision("kappa-tracks-encoding").parts
    assert [part.verdict for part in parts.values()] == ["undecided", "lower"]
    start = "**We find** for the two senses apart"
    says(SEVENTH, start, "of the output is open", "would lose is refuted")
    rho = [
        within_types(rows, "kappa", "deficit", resamples=1).estimate
        for _, rows in study.groupby("type")
    ]
    ways = sum(x > 0 for x in rho), sum(x <= 0 for x in rho)
    said = f"Of {len(rho)} types, κ ranks the deficit the paper's way in {ways[0]} and the other"
    says(SEVENTH, start, said, f"way in {ways[1]}.")
    ideal, real = decision("encoding-capacity").parts.values()
    share = f"the correlation is {100 * real.estimate / ideal.estimate:.0f} % of that"
    says(SEVENTH, "**We find** that it is undecided whether κ usefully", share)
    assert ideal.verdict == "undecided"


def test_notebook_7_on_changes(study):
    table = study
    half = decision("pruning-by-kappa").parts["kl_truncated_50"]
    square = table["type"].isin(["q_proj", "o_proj"])
    lost = [f"{table.loc[part, 'kl_truncated_10'].median():.4f}" for part in (square, ~square)]
    start = "**We find** that within types cutting off small singular values costs a little less"
    assert half.interval[1] < 0
    shown = interval(half.estimate, *half.interval, 2)
    between = f"costs the square projections {lost[0]} nats at the median, the others {lost[1]}."
    says(SEVENTH, start, shown, between)
    each = table["loss_flattened"] - table["loss_flattened_noise"]
    lost, shuffled, raised = (
        encoding.cost(table, "flattened", "flattened_noise"),
        encoding.cost(table, "permuted", "flattened"),
        encoding.surgery_cost(pd.read_csv(encoding.FOLDER / "surgery.csv"), "all"),
    )
    assert lost.low > 0
    assert shuffled.low < 0 < shuffled.high
    assert raised.low > 0
    noisier = (each < 0).groupby(table["type"]).mean()
    assert noisier.idxmax() == "v_proj"
    largest = f"five of the {len(each)} tensors hold {each.nlargest(5).sum() / each.sum():.0%}"
    start = "**We find** that making the singular values equal"
    says(SEVENTH, start, lost.text(3), largest.replace("%", " %"), f"is {each.median():+.3f}")
    says(SEVENTH, start, f"In {noisier.max():.0%} of the value".replace("%", " %"))


def test_notebook_7_on_the_smallest_singular_values(study):
    folders = {"": encoding.FOLDER} | {
        n: encoding.FOLDER / n for n in ("speech", "gemma", "qwen", "whisper")
    }
    costs = {name: encoding.smallest(folder) for name, folder in folders.items()}
    something = {name: set(of.index[of["reading"] == "higher"]) for name, of in costs.items()}
    assert something == {
        "": {"v_proj", "up_proj", "down_proj"},
        "speech": {"v_proj", "up_proj"},
        "gemma": {"v_proj", "down_proj"},
        "qwen": {"v_proj"},
        "whisper": set(),
    }
    nothing = set(costs[""].index[costs[""]["reading"] == "no relevant difference"])
    assert nothing == {"q_proj", "k_proj", "o_proj", "gate_proj"}
    for of in costs.values():
        assert of.loc[of["κ"].idxmax(), "reading"] == "no relevant difference"
    ends = [
        costs[""].loc[costs[""]["κ"].agg(end), "nats per token"] for end in ("idxmax", "idxmin")
    ]
    start = "**We find**, on other texts than the one looked at beforehand"
    says(SEVENTH, start, f"`q_proj`, loses {ends[0]}", f"`v_proj`, {ends[1]}.")
    for name, folder in folders.items():
        rho = within_types(pd.read_csv(folder / "tensors.csv"), "kappa", "deficit", level=0.95)
        reading = rho.reading(encoding.RELEVANT, encoding.NEGLIGIBLE)
        assert reading == ("higher" if name == "gemma" else "undecided")


def test_notebook_6_answers_as_its_table_does():
    _, table = report.questions()
    kl = table[table["outcome"] == "kl"].set_index("pair")["reading"]
    more = [pair for pair in kl.index if kl[pair] == "higher" and "smallest" in pair]
    assert [pair.partition(" (n")[0] for pair in more] == [
        "smallest − largest κ, the paper's arms",
        "smallest − largest κ, 600 steps",
        "smallest − largest κ, people's voices",
        "smallest − largest κ, ten epochs",
        "LoRA: smallest κ − everywhere",
        "LoRA: smallest κ − at random",
        "LoRA, longer: smallest κ − everywhere",
        "LoRA, early: smallest κ − everywhere",
    ]
    assert "lower" not in set(kl)
    said = "By KL the matrices of smallest κ forgot *more*"
    says("notebooks/06_is_it_kappa", "**Not on this evidence**", said)


def test_a_number_that_moved_is_seen():
    with pytest.raises(AssertionError, match="is not in"):
        says(SPEED, "On one NVIDIA H200.", "43 s")
