"""Plans: parameter counts against the real modules, memory and time against measurement."""

import hashlib
import json
import math
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.files import read_json, write_json
from kappa_lib.run import cli, plan, plan_text, workload
from kappa_lib.run.plan import Plan
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.arms import ARMS
from kappa_lib.training import optim
from kappa_lib.training.precision import autocast, promote
from kappa_lib.weights import models, sizes

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
BILLION = {"8B": 8.03, "3B": 3.21, "1B": 1.24}  # as the models' cards say


def paper(**changes):
    """The paper's set-up, whatever the profile files say."""
    settings = {
        "profile": "planned",
        "model": LLAMA_8B,
        "encoder": "openai/whisper-large-v3",
        "dtype": "bfloat16",
        "arms": ["selected", "inverse", "lowest_in_type", "highest_in_type"],
        "batch": 16,
    }
    return profiles.load("smoke", **{**settings, **changes})


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("model", sizes.CONFIGS)
def test_counts_follow_from_the_published_configuration(model):
    config = sizes.CONFIGS[model]
    width, inner, layers = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    head = width // config["num_attention_heads"]
    keys = head * config["num_key_value_heads"]
    found = sizes.language_model(sizes.llama_config(model))
    assert found.shapes == {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    matrices = layers * (2 * width * width + 2 * keys * width + 3 * width * inner)
    tables = (1 if config["tie_word_embeddings"] else 2) * config["vocab_size"] * width
    assert found.matrices == matrices
    assert found.tables == tables
    assert found.parameters == matrices + tables + (2 * layers + 1) * width
    # The same without transformers' modules, in the same order.
    shapes, number = sizes.llama_layer(model)
    assert list(shapes.items()) == list(found.shapes.items())
    assert number == found.layers
    assert sizes.llama_parameters(model) == found.parameters


@pytest.mark.parametrize("model", [m for m in sizes.CONFIGS if "Llama-3" in m])
def test_llamas_have_the_size_in_their_name_and_their_own_rope(model):
    config = sizes.llama_config(model)
    parameters = sizes.language_model(config).parameters
    assert parameters / 1e9 == pytest.approx(BILLION[model.split("-")[-2]], abs=0.01)
    assert config.rope_parameters["rope_type"] == "llama3"
    assert config.rope_parameters["rope_theta"] == 500_000
    assert config.tie_word_embeddings == ("3.2" in model)


def test_the_8b_shapes_are_the_published_ones():
    llm = sizes.language_model(sizes.llama_config(LLAMA_8B))
    assert llm.shapes == {
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (1024, 4096),
        "self_attn.v_proj": (1024, 4096),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (14336, 4096),
        "mlp.up_proj": (14336, 4096),
        "mlp.down_proj": (4096, 14336),
    }
    assert llm.layers == 32


@pytest.mark.parametrize("encoder", sizes.ENCODERS)
def test_encoder_counts_follow_from_the_published_sizes(encoder):
    (d, layers, bands, inner), _ = sizes.ENCODERS[encoder]
    convolutions = 3 * d * bands + d + 3 * d * d + d
    # Whisper's keys have no bias; two layer norms a layer, one at the end; 1500 fixed positions.
    layer = 4 * d * d + 3 * d + 2 * d * inner + inner + d + 4 * d
    found = sizes.encoder(encoder)
    assert found.width == d
    assert found.parameters == convolutions + 1500 * d + layers * layer + 2 * d


def test_adaptor_count_is_that_of_its_layers():
    project = 4 * 1280 * 4096 + 4096
    attention = 4 * 4096 * 4096 + 4 * 4096
    assert Plan(paper()).adaptor == project + 2 * attention + 4 * 2 * 4096


def test_the_papers_hundred_on_llama_3_8b():
    """What "100 selected" and "100 inverse" are by shape alone, added up by hand."""
    arms = {arm.name: arm for arm in Plan(paper()).arms}
    mlp, square, narrow = 14336 * 4096, 4096 * 4096, 1024 * 4096
    assert arms["selected"].tensors == arms["inverse"].tensors == 100
    # All keys and values have the smallest null, queries and outputs the largest; the 36 left to
    # choose are MLP matrices on both sides.
    assert arms["selected"].parameters == 64 * narrow + 36 * mlp
    assert arms["inverse"].parameters == 64 * square + 36 * mlp
    assert arms["selected"].kinds["k_proj"] == arms["selected"].kinds["v_proj"] == 32
    assert arms["inverse"].kinds["q_proj"] == arms["inverse"].kinds["o_proj"] == 32
    assert {arms[name].basis for name in ("selected", "inverse")} == {"null"}


def test_arms_within_types_are_exact_whatever_the_weights():
    arms = {arm.name: arm for arm in Plan(paper()).arms}
    llm = sizes.language_model(sizes.llama_config(LLAMA_8B))
    table = kappa_table.null_table(llm.shapes, llm.layers)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        drawn = table.assign(kappa=torch.rand(len(table), generator=generator).numpy())
        for name in ("lowest_in_type", "highest_in_type"):
            assert arms[name].basis == "shapes"
            assert arms[name].parameters == selection.select(drawn, name, 100).parameters


def test_a_selection_that_exists_is_counted_instead_of_the_null(results):
    profile = paper(arms=["selected"])
    chosen = ["model.layers.3.mlp.up_proj.weight", "model.layers.7.self_attn.q_proj.weight"]
    size = 14336 * 4096 + 4096 * 4096
    made = selection.Selection("selected", "by hand", 0, chosen, size, "none")
    made.save(profile.folder / "selections" / "selected.json")
    (arm,) = Plan(profile).arms
    assert (arm.tensors, arm.parameters, arm.basis) == (2, size, "selection")
    assert {kind: n for kind, n in arm.kinds.items() if n} == {"up_proj": 1, "q_proj": 1}


def saved_bytes(config: LlamaConfig, dtype: torch.dtype, checkpointing: bool = False) -> int:
    """Bytes that autograd holds after a forward pass of 2 × 32 positions, weights apart."""
    torch.manual_seed(0)
    llm = LlamaForCausalLM(config).to(dtype)
    if checkpointing:
        llm.train()
        llm.activation_checkpointing_enable()
    weights = {p.untyped_storage().data_ptr() for p in llm.parameters()}
    held, sizes = [], {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = torch.randn(2, 32, config.hidden_size, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        llm.model(inputs_embeds=inputs, use_cache=False)
    return sum(sizes.values())


def small(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def counted(layers: int) -> sizes.LanguageModel:
    return sizes.language_model(small(layers))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_activations_of_a_layer_are_what_autograd_saves(dtype, size):
    layer = saved_bytes(small(3), dtype) - saved_bytes(small(2), dtype)
    assert layer == pytest.approx(planned_bytes_of_a_layer(size, False), rel=0.01)


def planned_bytes_of_a_layer(size: int, checkpointing: bool) -> float:
    load = workload.Workload(32, 32, 0, 0, 0, 0)
    three, two = (workload.activations(counted(n), size, load, 2, checkpointing) for n in (3, 2))
    return three - two


def test_checkpointing_keeps_the_inputs_of_layers():
    layer = saved_bytes(small(3), torch.float32, True) - saved_bytes(small(2), torch.float32, True)
    assert layer == pytest.approx(planned_bytes_of_a_layer(4, True), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_weights_gradients_and_states_is_that_of_a_real_run(dtype):
    torch.manual_seed(0)
    llm = LlamaForCausalLM(small(2)).to(dtype).requires_grad_(False)
    before = sum(p.nbytes for p in llm.parameters())
    trained = list(llm.model.layers[0].mlp.requires_grad_(True).parameters())
    promote(trained)
    optimiser = torch.optim.AdamW(trained)
    with autocast(llm):
        llm(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimiser.step()
    count = sum(p.numel() for p in trained)
    states = [v for state in optimiser.state.values() for v in state.values() if v.ndim]

    made = Plan(paper(dtype=str(dtype).removeprefix("torch.")))
    found, without = made.memory(count), made.memory(0)
    wider = sum(p.nbytes for p in llm.parameters()) - before
    assert found.weights - without.weights == wider
    assert found.gradients - without.gradients == sum(p.grad.nbytes for p in trained)
    moments = sum(value.nbytes for value in states)
    assert found.optimiser - without.optimiser == moments + made.recipe.temporaries * count


def test_a_profile_of_dtype_auto_is_planned_for_this_machine(monkeypatch):
    monkeypatch.setattr(models, "pick_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(models, "pick_dtype", lambda dtype, device: "bfloat16")
    made = Plan(paper(dtype="auto"))
    assert (made.profile.dtype, made.profile.device) == ("bfloat16", "cpu")
    assert not made.recipe.checkpointing
    assert "recomputed" not in made.recipe.name
    on_gpu = Plan(paper(dtype="bfloat16", device="auto"))
    assert on_gpu.recipe.checkpointing
    assert made.memory(1000).activations > on_gpu.memory(1000).activations


def test_recipes_order_as_they_should():
    profile = paper()
    made = Plan(profile)
    needed = {r.options(profile): made.memory(2_000_000_000, r) for r in plan.recipes(profile)}
    done = needed[plan.AS_IT_IS]
    assert needed["--set optimiser=adafactor"].optimiser < done.optimiser / 10
    assert needed["--set optimiser=adafactor"].weights == done.weights
    halved = needed["--processes 2 --set parallel=fsdp2"]
    assert halved.weights == done.weights / 2
    assert halved.optimiser == done.optimiser / 2
    # An evaluation gathers all weights: bf16, but for 2 bytes more of what trains.
    whole = 2 * made.llm.parameters + 2 * 2_000_000_000
    assert whole < halved.activations + halved.gradients < whole + done.activations
    assert needed[plan.NOT_HERE].optimiser == 0


SETTINGS = [
    ({}, 1),
    ({}, 4),
    ({"optimiser": "adafactor"}, 1),
    ({"optimiser": "adafactor"}, 4),
    ({"parallel": "fsdp2"}, 1),
    ({"parallel": "fsdp2"}, 4),
]


@pytest.mark.parametrize(("changes", "processes"), SETTINGS)
def test_options_give_the_recipe_beside_which_they_stand(changes, processes):
    profile = paper(**changes)
    ways = plan.recipes(profile, processes)
    assert len({way.name for way in ways}) == len(ways)
    assert ways[0].options(profile, processes) == plan.AS_IT_IS
    for recipe in ways:
        words = recipe.options(profile, processes)
        if words in (plan.AS_IT_IS, plan.NOT_HERE):
            continue
        typed = cli.parser().parse_args(["train", "--processes", str(processes), *words.split()])
        again = paper(**changes | cli.overrides(typed))  # refuses what train would refuse
        assert plan.recipes(again, typed.processes)[0] == recipe


def test_processes_share_a_batch_and_the_time():
    profile = paper()
    one, four = (Plan(profile, n).memory(10**9) for n in (1, 4))
    assert four.activations < one.activations
    assert four.weights == one.weights
    texts = [plan_text.main_text("paper", None, 200.0, n) for n in (1, 8)]
    found = [re.search(r"altogether: \S+ operations, (\d+) h (\d+) min", text) for text in texts]
    minutes = [60 * int(hours) + int(rest) for hours, rest in (match.groups() for match in found)]
    assert minutes[0] == pytest.approx(8 * minutes[1], rel=0.05)
    with pytest.raises(InputError, match="0 processes"):
        plan_text.main_text("paper", processes=0)


def test_adafactors_states_are_as_small_as_planned():
    weight = torch.nn.Parameter(torch.zeros(14336 // 16, 4096 // 16))
    optimiser = optim.make("adafactor", [weight], 1e-3, torch.device("cpu"))
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    held = sum(v.nbytes for v in optimiser.state[weight].values() if torch.is_tensor(v))
    # Row and column averages: 16 times fewer a parameter in a matrix 16 times as wide.
    recipe = plan.recipes(paper(optimiser="adafactor"))[0]
    assert held / weight.numel() / 16 < recipe.states


def test_the_host_keeps_the_original_tensors_and_the_base_models_answers():
    profile = paper(text_tokens=1000)
    made = Plan(profile)
    answers, whole = 2 * 3 * 1000 * 4096, made.llm.parameters
    checkpoint = 12 * (500 + made.adaptor)
    assert made.host_memory(500) == 2 * 500 + answers + checkpoint
    # Eight copies of the originals, or of the whole model; one checkpoint.
    assert Plan(profile, 8).host_memory(500) == 8 * 2 * 500 + answers + checkpoint
    sharded = Plan(paper(text_tokens=1000, parallel="fsdp2"), 8)
    assert sharded.host_memory(500) == 8 * (2 * whole + 2 * 500) + answers + checkpoint


def test_arithmetic_of_a_step_is_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = small(2)
    torch.manual_seed(0)
    llm = LlamaForCausalLM(config).requires_grad_(False)
    llm.model.layers[0].mlp.requires_grad_(True)
    count = sum(p.numel() for p in llm.parameters() if p.requires_grad)
    inputs = torch.randn(1, 48, config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state.sum().backward()
    forward = 2.0 * counted(2).matrices
    # The counter knows the matrix products; fused attention on a CPU it passes over.
    assert counter.get_total_flops() == 48 * (2 * forward + 2 * count)
    attention = 48 * (workload.forward(counted(2), 48) - forward)
    # Two layers, two products of 256-wide queries with the keys up to each position.
    assert attention == pytest.approx(2 * 2 * 2 * 256 * sum(range(1, 49)), rel=0.03)


def test_features_and_downloads_have_their_real_sizes():
    made = Plan(paper(train_utterances={"en": 1000}, test_utterances={"en": 0}))
    disk = made.disk()
    assert disk["model"] == 2 * made.llm.parameters
    seconds = 1000 * workload.SECONDS["en"][0]
    assert disk["features"] == pytest.approx(seconds * 50 * 1280 * 2)


def write_run(profile, seconds_per_step: float, parameters: int) -> None:
    folder = profile.folder / "runs" / "selected-seed0"
    config = {"batch": profile.batch, "steps": profile.steps, "parameters": parameters}
    write_json(folder / "config.json", config)
    record = {"seconds_per_step": seconds_per_step, "device": "cpu", "processor": "a chip"}
    write_json(folder / "provenance.json", record)


def test_the_rate_is_arithmetic_over_measured_time():
    profile = profiles.load("smoke")
    assert plan_text.measured_rate(profile) is None
    write_run(profile, 2.0, 1000)
    rate, source = plan_text.measured_rate(profile)
    assert rate == pytest.approx(Plan(profile).step(1000) / 2.0)
    assert "a chip" in source
    # Another profile is judged by what has run here.
    assert plan_text.known_rate(paper(), None) == (rate, source)
    assert plan_text.known_rate(paper(), 250.0)[0] == 250e12


def test_runs_that_cannot_be_planned_give_no_rate_and_stop_no_plan():
    write_run(profiles.load("text"), 2.0, 1000)
    assert plan_text.known_rate(paper(), None) is None


def test_a_rate_is_that_of_one_of_the_processes():
    profile = profiles.load("smoke")
    write_run(profile, 2.0, 1000)
    alone, _ = plan_text.measured_rate(profile)
    path = profile.folder / "runs" / "selected-seed0" / "provenance.json"
    write_json(path, read_json(path) | {"processes": 4})
    assert plan_text.measured_rate(profile)[0] == pytest.approx(alone / 4)


def test_time_follows_the_rate_and_the_steps():
    made = Plan(paper(steps=100, eval_every=200))
    trained = {arm.name: arm.parameters for arm in made.arms}["selected"]
    training = 100 * made.step(trained)
    once, twice = (Plan(paper(steps=n, eval_every=200)).work()[0]["selected"] for n in (100, 200))
    assert twice - once == pytest.approx(training)  # one evaluation each, and one seed
    tokens = 100 * 16 * made.load.mean
    # Forwards, forwards again, backwards through all weights, and to those that train.
    floor = tokens * (6 * made.llm.matrices + 2 * trained)
    assert floor < training < 1.2 * floor


def test_arms_that_shapes_decide_exist():
    assert set(plan.BY_SHAPE) <= set(ARMS)


def test_every_profile_of_speech_is_planned():
    speech = [name for name in profiles.names() if profiles.load(name).task == "speech"]
    assert "type" in speech
    for name in speech:
        made = Plan(profiles.load(name))
        assert [arm.name for arm in made.arms] == made.profile.arms
        assert made.largest.parameters > 0


def test_the_text_says_what_fits_and_what_does_not():
    made = Plan(paper())
    hundred = {arm.name: f"{arm.parameters:,}" for arm in made.arms}
    shown = plan_text.text(made, (40 * plan_text.GIB, "40 GiB"), (1e14, "given"))
    assert hundred["selected"] in shown
    assert hundred["inverse"] in shown
    assert "the exact one comes after the scan" in shown
    assert "nothing has been downloaded" in shown
    assert "Not every arm fits 40 GiB as it is" in shown
    assert "--processes 8 --set parallel=fsdp2" in shown.partition("with these it does")[2]
    assert plan.NOT_HERE not in shown.partition("with these it does")[2]
    roomy = plan_text.text(made, (999 * plan_text.GIB, "999 GiB"))
    assert "Every arm fits 999 GiB" in roomy
    tight = plan_text.text(made, (1 * plan_text.GIB, "1 GiB"))
    assert "No way listed here fits" in tight
    assert "no measurement here" in tight


def test_smollm_is_planned_from_its_own_shapes():
    made = Plan(profiles.load("smoke"))
    assert {arm.tensors for arm in made.arms} == {94}
    selected = next(arm for arm in made.arms if arm.name == "selected")
    assert selected.parameters > 0
    assert math.isclose(made.memory(made.largest.parameters).weights, 4 * 134_515_008, rel_tol=0.05)


def test_a_local_folder_needs_no_entry_here(tmp_path):
    small(2).save_pretrained(tmp_path / "mine")
    profile = paper(model=str(tmp_path / "mine"), share=0.4)
    made = Plan(profile)
    assert made.arms[0].tensors == round(0.4 * 14)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("smoke", 0.0), "0.0 GiB"),
        (("smoke", None, -1.0), r"-1.0 TFLOP/s"),
        (("no such",), "no profile"),
    ],
)
def test_impossible_numbers_are_refused(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        plan_text.main_text(*arguments)


def test_unknown_models_are_refused_rather_than_downloaded():
    with pytest.raises(InputError, match="someone/else"):
        Plan(paper(model="someone/else"))
    with pytest.raises(InputError, match="openai/whisper-huge"):
        Plan(paper(encoder="openai/whisper-huge"))


def test_main_text_is_the_same_twice():
    shown = [plan_text.main_text("laptop", 8.0, 0.1) for _ in range(2)]
    hashes = {hashlib.sha256(json.dumps(text).encode()).hexdigest() for text in shown}
    assert len(hashes) == 1
    assert models.DEFAULT in shown[0]


def test_the_command_prints_the_plan(capsys):
    assert cli.main(["plan", "--profile", "smoke", "--memory", "16", "--tflops", "0.1"]) == 0
    assert capsys.readouterr().out == plan_text.main_text("smoke", 16.0, 0.1)
