import json

import pytest
import tiny
import torch
from gguf import GGUFReader, dequantize

from kappa_lib import paths
from kappa_lib.errors import AssetError
from kappa_lib.weights import models


@pytest.mark.parametrize(
    ("name", "stored_as"),
    [
        (models.DEFAULT, "Q4_1"),
        pytest.param("qwen2.5-coder-0.5b", "Q4_K_M", marks=pytest.mark.slow),
    ],
)
def test_a_model_in_4_bit_is_its_gguf_dequantised(name, stored_as):
    llm, tokenizer = models.load(name)
    asset = models.GGUFS[name]
    gguf = asset.get() / asset.pins[0].name
    stored = {t.name: t for t in GGUFReader(gguf).tensors}
    for ours, theirs in [
        ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ]:
        tensor = stored[theirs]
        expected = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(llm.get_parameter(ours), expected)
    assert models.stored_as(name) == stored_as
    assert not any(p.requires_grad for p in llm.parameters())
    ids = tokenizer("Die Straße zum Bahnhof ist lang.", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "Die Straße zum Bahnhof ist lang."
    # Rows in another order, or a norm that lacks its one, would make the next token a guess.
    english = tokenizer("The sun rises in the east and sets in the west.", return_tensors="pt")
    with torch.inference_mode():
        assert llm(**english, labels=english["input_ids"]).loss < 3


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_folder_without_a_model_is_refused(tmp_path, place):
    with pytest.raises(AssetError, match=r"config\.json"):
        models.weights(str(tmp_path / place))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_whatever_decides_what_a_local_folder_computes_is_in_its_identity(tmp_path, name):
    folder = tmp_path / "snapshots/llama"
    folder.mkdir(parents=True)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        (folder / file).write_text("old")
    before = models.identity(str(folder))
    (folder / name).write_text("new")
    assert models.identity(str(folder)) != before


def test_the_pinned_models_are_known_by_the_file_that_they_came_from(tmp_path, monkeypatch):
    """The committed runs hold these."""
    monkeypatch.setattr(models, "weights", lambda _: tmp_path)
    committed = paths.REFERENCE / "text" / "runs" / "selected-seed1" / "config.json"
    config = json.loads(committed.read_text(encoding="utf-8"))
    assert models.identity(models.DEFAULT) == config["weights"]


def test_device_auto_is_cuda_only_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert models.pick_device("auto").type == expected
    assert models.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("units", "dtype"),
    [({}, "float32"), ({"avx2": True, "avx512_bf16": False}, "float32")]
    + [({unit: True}, "bfloat16") for unit in models.BF16_UNITS],
)
def test_dtype_auto_follows_the_units_and_another_dtype_does_not(
    units, dtype, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert models.pick_dtype("auto", "cpu") == dtype
    assert models.pick_dtype("bfloat16", "cpu") == "bfloat16"
    assert models.pick_dtype("float32", "cpu") == "float32"
    folder = tiny.save_model(tmp_path / "llama")
    llm, _ = models.load(str(folder), "auto", "cpu")
    assert {p.dtype for p in llm.parameters()} == {getattr(torch, dtype)}
