"""Plans: parameters against hand counts, memory and disk against real runs."""

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.run import cli, plan
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.training import optim
from kappa_lib.training.precision import to_float32
from kappa_lib.weights import sizes

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
ADAPTOR_8B = (4 * 1280 * 4096 + 4096) + 2 * (4 * 4096 * 4096 + 4 * 4096) + 4 * 2 * 4096


def paper(**changes):
    """The paper's set-up, whatever the profile files say."""
    settings = {
        "profile": "planned",
        "model": LLAMA_8B,
        "encoder": "openai/whisper-large-v3",
        "dtype": "bfloat16",
        "arms": ["selected", "inverse", "lowest_in_type", "highest_in_type"],
    }
    return profiles.load("smoke", **{**settings, **changes})


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    return tmp_path


def test_the_papers_hundred_on_llama_3_8b():
    """What "100 selected" and "100 inverse" are by shape alone, added up by hand."""
    arms = plan.arms(paper())
    mlp, square, narrow = 14336 * 4096, 4096 * 4096, 1024 * 4096
    assert arms.loc[["selected", "inverse"], "tensors"].tolist() == [100, 100]
    # All keys and values have the smallest null, queries and outputs the largest; the 36 left to
    # choose are MLP matrices on both sides.
    assert arms.loc["selected", "parameters"] == 64 * narrow + 36 * mlp
    assert arms.loc["inverse", "parameters"] == 64 * square + 36 * mlp


def test_arms_within_types_are_exact_whatever_the_weights():
    arms = plan.arms(paper())
    table = kappa_table.null_table(*_layout(paper()))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        drawn = table.assign(kappa=torch.rand(len(table), generator=generator).numpy())
        for name in ("lowest_in_type", "highest_in_type"):
            expected = selection.select(drawn, name, 100).parameters
            assert arms.loc[name, "parameters"] == expected


def test_a_selection_that_exists_is_counted_instead_of_the_null(results):
    profile = paper(arms=["selected"])
    assert "the scan decides" in plan.text(profile)
    chosen = ["model.layers.3.mlp.up_proj.weight", "model.layers.7.self_attn.q_proj.weight"]
    size = 14336 * 4096 + 4096 * 4096
    made = selection.Selection("selected", "by hand", 0, chosen, size, "none")
    made.save(profile.folder / "selections" / "selected.json")
    found = plan.arms(profile).loc["selected"]
    assert (found["tensors"], found["parameters"]) == (2, size)
    assert found["gradients"] == 4 * (size + ADAPTOR_8B) / 1e9
    assert "chosen by measured κ" in plan.text(profile)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_weights_gradients_and_states_is_that_of_a_real_run(dtype, optimiser, tmp_path):
    torch.manual_seed(0)
    llm = LlamaForCausalLM(LlamaConfig(**SMALL)).to(getattr(torch, dtype)).requires_grad_(False)
    llm.save_pretrained(tmp_path / "mine")
    changes = {"optimiser": optimiser, "task": "vowels", "share": 0.4, "arms": ["selected"]}
    profile = paper(model=str(tmp_path / "mine"), dtype=dtype, **changes)  # no adaptor
    found = plan.arms(profile).loc["selected"]
    (chosen,) = plan.selections(profile, *_layout(profile))

    named = dict(llm.named_parameters())
    trained = [named[name].requires_grad_(True) for name in chosen.tensors]
    to_float32(trained)
    made = optim.make(optimiser, trained, 1e-3, torch.device("cpu"))
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    states = [v for state in made.state.values() for v in state.values() if torch.is_tensor(v)]
    # PyTorch counts the steps of a parameter in one number of 4 bytes.
    steps = 4 * len(trained)
    assert found["weights"] * 1e9 == pytest.approx(sum(p.nbytes for p in llm.parameters()))
    assert found["gradients"] * 1e9 == pytest.approx(sum(p.grad.nbytes for p in trained))
    assert found["optimiser"] * 1e9 == pytest.approx(sum(v.nbytes for v in states), abs=steps)
    assert found["tensors"] == round(0.4 * 14)


def _layout(profile):
    return sizes.layout(sizes.empty(profile.model))


def test_lora_trains_as_many_parameters_as_its_rank_has_everywhere():
    found = plan.arms(profiles.load("text", lora_rank=8, arms=["all"])).loc["all"]
    sums = [rows + cols for rows, cols in _layout(profiles.load("text"))[0].values()]
    assert found["parameters"] == 8 * 30 * sum(sums)
    assert found["gradients"] * 1e9 == pytest.approx(4 * found["parameters"])


def test_every_profile_is_planned():
    for name in profiles.names():
        profile = profiles.load(name)
        found = plan.arms(profile)
        assert list(found.index) == profile.arms
        assert (found["weights"] > 0).all()


def test_a_seed_more_is_a_run_more_on_the_disk():
    one, two = (plan.arms(paper(seeds=seeds))["disk"] for seeds in ([0], [0, 1]))
    pd.testing.assert_series_equal(two - one, plan.arms(paper())["gradients"], check_names=False)


def test_unknown_models_are_refused_rather_than_downloaded():
    with pytest.raises(InputError, match="someone/else"):
        plan.arms(paper(model="someone/else"))
    with pytest.raises(InputError, match="openai/whisper-huge"):
        plan.arms(paper(encoder="openai/whisper-huge"))


def test_the_command_prints_the_plan(capsys):
    assert cli.main(["plan", "--profile", "smoke", "--set", "arms=[all]"]) == 0
    shown = capsys.readouterr().out
    assert shown == plan.text(profiles.load("smoke", arms=["all"])) + "\n"
    assert "all      210 " in shown
