"""Names that transformers gives to stored tensors, held to what its own loading makes of them."""

import json
import sys

import pytest
import tiny
from transformers import CONFIG_MAPPING, LlamaConfig, Mamba2Config, MixtralConfig

from kappa_lib.errors import InputError
from kappa_lib.weights import renaming
from kappa_lib.weights.models import open_checkpoint
from kappa_lib.weights.renaming import loaded_names

STORED = "language_model.model.layers.0.self_attn.q_proj.weight"
MIXTRAL = json.dumps(MixtralConfig(**tiny.TEXT, num_local_experts=2).to_dict())


@pytest.mark.parametrize("kind", tiny.MULTIMODAL)
def test_every_stored_tensor_is_found_in_the_loaded_model(kind, tmp_path):
    model = tiny.multimodal(kind)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    stored = [info.name for info in checkpoint.tensors]
    names = loaded_names(stored, checkpoint.config)
    assert len(set(names)) == len(stored)
    assert names != stored
    values = model.state_dict()
    for info, name in zip(checkpoint.tensors, names, strict=True):
        assert checkpoint.read(info).equal(values[name]), name


def test_names_of_the_hub_and_of_today_are_both_found():
    """As Google stores Gemma 3, and as transformers 4.52 to 4.56 held it."""
    config = json.dumps(tiny.multimodal("gemma3").config.to_dict())
    end = "encoder.layers.0.mlp.fc1.weight"
    for old in (f"vision_tower.vision_model.{end}", f"model.vision_tower.{end}"):
        assert loaded_names([old], config) == [f"model.vision_tower.{end}"]


def test_a_text_decoder_keeps_its_names_whether_or_not_the_head_was_stored():
    config = json.dumps(LlamaConfig(**tiny.TEXT, architectures=["LlamaForCausalLM"]).to_dict())
    name = "model.layers.1.mlp.up_proj.weight"
    assert loaded_names([name, name.removeprefix("model.")], config) == [name, name]


def decoder(kind: str) -> tuple[str, list[str]]:
    """Configuration of a small decoder, and its class' own names of a layer's matrices."""
    name = f"{type(CONFIG_MAPPING[kind]()).__name__.removesuffix('Config')}ForCausalLM"
    settings = {**tiny.TEXT, "head_dim": 8, "architectures": [name], "pad_token_id": 0}
    config = json.dumps(CONFIG_MAPPING[kind](**settings).to_dict())
    parameters = dict(renaming._model(config).named_parameters())
    return config, [n for n, p in parameters.items() if "layers" in n and p.ndim == 2]


@pytest.mark.parametrize("kind", renaming.PLAIN)
def test_plain_names_are_kept_without_asking_transformers(kind, monkeypatch):
    config, names = decoder(kind)
    assert len(names) == 14
    slow = [loaded_names([name, "model.norm.weight"], config)[0] for name in names]
    monkeypatch.setattr(renaming, "_model", None)  # whose call would fail
    assert loaded_names(names, config) == names == slow


def test_plain_names_that_the_model_lacks_are_refused():
    config, names = decoder("llama")
    with pytest.raises(InputError, match=r"layers\.7\.mlp"):
        loaded_names([names[0], "model.layers.7.mlp.up_proj.weight"], config)
    for change in ({"architectures": ["LlamaModel"]}, {"num_hidden_layers": None}):
        other = json.dumps(json.loads(config) | change)
        assert not renaming._kept(names, other)


def test_renamed_by_itself_it_is_translated_and_merged_with_others_refused():
    layer = "model.layers.0.block_sparse_moe"
    assert loaded_names([f"{layer}.gate.weight"], MIXTRAL) == ["model.layers.0.mlp.gate.weight"]
    with pytest.raises(InputError, match=r"experts\.1\.w2\.weight(.|\n)*Mixtral(.|\n)*--exclude"):
        loaded_names([f"{layer}.gate.weight", f"{layer}.experts.1.w2.weight"], MIXTRAL)


def test_a_configuration_may_hold_infinity():
    config = Mamba2Config(hidden_size=32, num_heads=4, head_dim=16, num_hidden_layers=2)
    config.architectures = ["Mamba2ForCausalLM"]
    name = "backbone.layers.1.mixer.in_proj.weight"
    assert "Infinity" in config.to_json_string()
    assert loaded_names([name], config.to_json_string()) == [name]


def test_a_tensor_that_the_model_lacks_is_refused():
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.gate"):  # it has two layers
        loaded_names(["model.layers.2.mlp.gate.weight"], MIXTRAL)


@pytest.mark.parametrize(
    "config", ["", "{}", '{"model_type": "of_tomorrow"}', '{"model_type": []}']
)
def test_without_a_model_to_ask_names_stay(config):
    assert loaded_names([STORED], config) == [STORED]


def test_without_transformers_names_stay(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    config = f"{MIXTRAL} "  # not yet seen, whose model would be remembered
    assert loaded_names([STORED], config) == [STORED]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json: not JSON"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "can't build"),
        (
            '{"model_type": "llama", "architectures": ["pipeline"], "hidden_size": -1}',
            "can't build",
        ),
    ],
)
def test_a_damaged_config_is_named(config, said):
    with pytest.raises(InputError, match=said):
        loaded_names([STORED], config)
