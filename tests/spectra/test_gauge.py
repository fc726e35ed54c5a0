"""Changes of gauge: the function keeps its bits, κ moves, and both as foretold."""

import copy
import json

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.helpers import find_kappa_target_modules
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kappa_lib.errors import InputError
from kappa_lib.run import cli
from kappa_lib.spectra import gauge
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.selection import select

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}
IDS = torch.arange(24).reshape(2, 12) % tiny.TEXT["vocab_size"]


def model(family="llama", dtype=torch.float32, seed=0, pairs=2, tied=False):
    """A random model, its biases and gains random, too."""
    config, kind, more = FAMILIES[family]
    torch.manual_seed(seed)
    sizes = tiny.TEXT | more | {"num_key_value_heads": pairs, "tie_word_embeddings": tied}
    made = kind(config(**sizes)).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            elif "embed" not in name:
                parameter.mul_(3)
    return made


@torch.no_grad()
def logits(of):
    return of(input_ids=IDS).logits


def kappas(of):
    """κ by NumPy, of every matrix in a layer."""
    return {
        name: np.linalg.cond(p.detach().double().numpy())
        for name, p in of.named_parameters()
        if p.ndim == 2 and ".layers." in name
    }


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    pairs=st.sampled_from([1, 2, 4]),
    tied=st.booleans(),
    dose=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_powers_of_two_keep_the_logits_in_every_bit(family, dtype, pairs, tied, dose, seed):
    of = model(family, dtype, seed, pairs, tied)
    before, weights = logits(of), copy.deepcopy(of.state_dict())
    gauge.regauge(of, seed, dose)
    assert torch.equal(logits(of), before)
    assert not torch.equal(
        of.model.layers[0].mlp.up_proj.weight, weights["model.layers.0.mlp.up_proj.weight"]
    )


@pytest.mark.parametrize("kind", ["norm", "up/down", "value/output", "query/key"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_symmetry_alone_keeps_the_function_for_any_factors(family, kind):
    of = model(family, torch.float64, pairs=2)
    before, generator = logits(of), torch.Generator().manual_seed(1)
    chosen = [s for s in gauge.of_model(of) if s.kind == kind]
    assert len(chosen) == len(of.model.layers) * (2 if kind == "norm" else 1)
    factors = [torch.rand(s.size, generator=generator, dtype=torch.float64) + 0.2 for s in chosen]
    gauge.apply(of, gauge.combined(zip(chosen, factors, strict=True)))
    torch.testing.assert_close(logits(of), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_flip_makes_the_mlp_largest_and_leaves_attention(family):
    of = model(family)
    before, told = logits(of), kappas(of)
    gauge.flip(of)
    assert torch.equal(logits(of), before)
    for name, value in kappas(of).items():
        if ".mlp." in name:
            assert value > 100 * max(told.values())
        else:
            assert value == told[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_balancing_makes_partners_equal_and_values_white(family):
    of = model(family, torch.float64)
    before = logits(of)
    gauge.balance(of)
    torch.testing.assert_close(logits(of), before, rtol=1e-9, atol=1e-10)
    for layer in of.model.layers:
        up, down = layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
        lengths = up.norm(dim=1), down.norm(dim=0)
        if layer.mlp.up_proj.bias is None:
            torch.testing.assert_close(*lengths, rtol=1e-2, atol=0)
        heads = layer.self_attn.v_proj.weight.view(2, -1, of.config.hidden_size)
        for value in heads.detach().numpy():
            assert np.linalg.cond(value) < 1 + 1e-9


def test_balancing_undoes_a_gauge():
    first, second = model(dtype=torch.float64), model(dtype=torch.float64)
    gauge.regauge(second, seed=3, dose=4)
    gauge.balance(first)
    gauge.balance(second)
    for name, value in kappas(first).items():
        assert kappas(second)[name] == pytest.approx(value, rel=0.05)


def test_steps_carried_through_the_gauge_follow_the_original():
    """D applied to Adam's update: the same run to rounding, whatever κ is."""
    first = model(dtype=torch.float64)
    second = copy.deepcopy(first)
    factors = gauge.regauge(second, seed=5, dose=4)
    optimisers = []
    for of in (first, second):
        optimisers.append(torch.optim.Adam(of.parameters(), lr=1e-3, eps=1e-12))
    for _ in range(5):
        for of, optimiser in zip((first, second), optimisers, strict=True):
            optimiser.zero_grad()
            of(input_ids=IDS, labels=IDS).loss.backward()
        before = {name: p.detach().clone() for name, p in first.named_parameters()}
        optimisers[0].step()
        with torch.no_grad():
            moved = dict(first.named_parameters())
            for name, parameter in second.named_parameters():
                parameter.add_(gauge.scaled(name, moved[name] - before[name], factors))
    assert (logits(first) - logits(second)).abs().max() < 1e-10
    assert (logits(first) - logits(model(dtype=torch.float64))).abs().max() > 1e-3


def test_what_adam_does_to_a_step_is_the_root_mean_square():
    rows, columns = torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([0.5, 8.0]).double()
    inverse = 1 / (rows[:, None] * columns)
    assert gauge.rms_inverse([rows, columns]) == pytest.approx(
        inverse.square().mean().sqrt().item()
    )


def test_other_architectures_and_fp16_are_refused_by_name():
    with pytest.raises(InputError, match="gemma3_text"):
        gauge.regauge(Gemma3ForCausalLM(Gemma3TextConfig(**tiny.TEXT, head_dim=8)))
    with pytest.raises(InputError, match=r"no model\.layers\.0\..*\n.*whole"):
        gauge.regauge(model().model)
    with pytest.raises(InputError, match=r"float16.*\n.*bf16"):
        gauge.regauge(model(dtype=torch.float16))


def test_a_factor_out_of_range_changes_nothing():
    of = model()
    before = copy.deepcopy(of.state_dict())
    with pytest.raises(InputError, match="smaller dose"):
        gauge.regauge(of, dose=90)
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gauge") / "model"
    model("qwen2", torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    return folder


def test_the_command_writes_a_checkpoint_of_the_same_function_and_layout(saved, tmp_path, capsys):
    out = tmp_path / "regauged"
    assert cli.main(["regauge", str(saved), "-o", str(out), "--seed", "1"]) == 0
    assert {p.name for p in out.iterdir()} == {p.name for p in saved.iterdir()} | {"regauge.json"}
    assert json.loads((out / "regauge.json").read_text()) == {
        "model": str(saved),
        "seed": 1,
        "dose": 6,
    }
    first, second = (AutoModelForCausalLM.from_pretrained(f) for f in (saved, out))
    assert second.dtype == torch.bfloat16
    assert torch.equal(logits(first), logits(second))
    told, moved = (np.array(list(kappas(of).values())) for of in (first, second))
    assert (np.maximum(moved / told, told / moved) >= 100).mean() >= 0.5


def test_two_selections_for_one_function_by_us_and_by_peft(saved, tmp_path):
    out = tmp_path / "flipped"
    assert cli.main(["regauge", str(saved), "-o", str(out), "--flip"]) == 0
    chosen = [set(select(scan(folder), "selected", 6).tensors) for folder in (saved, out)]
    assert not any(".mlp." in name for name in chosen[1])
    assert chosen[0] != chosen[1]
    loaded = (AutoModelForCausalLM.from_pretrained(folder).float() for folder in (saved, out))
    found = (find_kappa_target_modules(of, top_p=0.4)["target_modules"] for of in loaded)
    ours, flipped = map(set, found)
    assert ours != flipped
    assert any(".mlp." in name for name in ours)
    assert not any(".mlp." in name for name in flipped)


def test_a_folder_that_is_there_is_not_overwritten(saved, capsys):
    assert cli.main(["regauge", str(saved), "-o", str(saved)]) == cli.WRONG
    assert "is there already" in capsys.readouterr().err
