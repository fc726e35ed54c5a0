"""What other tools make of a selection, and PEFT's own selection beside ours."""

import re

import numpy as np
import pytest
import tiny
import yaml
from peft.helpers import KappaTuneSelector
from torch import nn

from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.run import cli
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.selection import Selection
from kappa_lib.weights import models

EPS32 = float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def llama():
    return tiny.untied_llama(layers=12)


@pytest.mark.parametrize("kind", tiny.MULTIMODAL)
def test_what_select_writes_is_found_in_the_model_that_transformers_loads(kind, tmp_path):
    model = tiny.multimodal(kind)
    model.save_pretrained(tmp_path / "model")
    table = tmp_path / "table"
    assert cli.main(["scan", str(tmp_path / "model"), "-o", str(table), "--device", "cpu"]) == 0
    assert cli.main(["select", str(table), "-o", str(tmp_path)]) == 0
    for arm in ("selected", "inverse"):
        stored = read_json(tmp_path / f"{arm}.json")["tensors"]
        assert set(stored) <= set(kappa_table.read(table)["tensor"])
        loaded = type(model).from_pretrained(tmp_path / "model")
        unfrozen = yaml.safe_load((tmp_path / f"{arm}.axolotl.yaml").read_text())
        patterns = unfrozen["unfrozen_parameters"]
        names = [name for name, _ in loaded.named_parameters()]
        matched = {name for name in names if any(re.match(p, name) for p in patterns)}
        assert len(matched) == len(stored)
        targets = read_json(tmp_path / f"{arm}.peft.json")
        assert tiny.adapted(loaded, targets) == matched


def test_an_arm_without_tensors_is_not_for_other_tools(tmp_path):
    with pytest.raises(InputError, match="adaptor_only: no tensor"):
        Selection("adaptor_only", "none", 0, [], 0, "").export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_fused_experts_go_to_target_parameters_slices_and_names_of_gguf_are_refused():
    name = "model.layers.0.mlp.experts.gate_up_proj"
    whole = Selection("x", "", 0, [name, "model.layers.0.self_attn.q_proj.weight"], 1, "")
    assert whole.peft_targets() == {
        "target_modules": ["model.layers.0.self_attn.q_proj"],
        "target_parameters": [name],
    }
    for other in (f"{name}[2]", "blk.0.attn_q.weight", "enc.blk.0.attn_q.weight"):
        with pytest.raises(InputError, match=rf"{re.escape(other)}: no name that PEFT"):
            Selection("x", "", 0, [other], 1, "").peft_targets()


def peft_kappa(model: nn.Module) -> dict[str, float]:
    selector = KappaTuneSelector(model, show_progress=False)
    order = selector.get_best_targets()
    return {name: selector._condition_numbers[name] for name in order}


def test_order_of_a_random_model_is_pefts(llama):
    table = scan(llama, include=["*"], exclude=["*embed_tokens*"])
    ours = table.sort_values("kappa")["tensor"].str.removesuffix(".weight")
    assert list(ours) == list(peft_kappa(llama))


@pytest.mark.slow
def test_kappa_of_the_default_model_is_pefts_up_to_its_constant_and_float32():
    models.GGUFS[models.DEFAULT].get()
    model, _ = models.load(models.DEFAULT)
    table = scan(model).set_index("tensor")
    theirs = peft_kappa(model)
    assert len(table) == len(theirs) == 210
    for name, row in table.iterrows():
        # PEFT adds 1e-8 to σ_k and works in float32, whose error in σ_k is a few ε of σ₁.
        expected = row["sigma_max"] / (row["sigma_min"] + 1e-8)
        allowed = 20 * EPS32 * row["kappa"]
        assert theirs[name.removesuffix(".weight")] == pytest.approx(expected, rel=allowed)
