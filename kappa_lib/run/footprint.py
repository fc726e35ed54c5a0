"""Memory of one device while an arm trains, and other ways to hold the same arm."""

from dataclasses import dataclass, replace

from transformers import LlamaConfig

from kappa_lib.profiles import Profile
from kappa_lib.run import sizes
from kappa_lib.run.workload import Workload, workload
from kappa_lib.training.evaluation import EVAL_BATCH

RESERVE = 2 * 2**30  # CUDA context, workspaces and fragmentation


@dataclass(frozen=True)
class Recipe:
    """How the trained tensors are held and updated, as far as memory is concerned.

    Attributes:
        name: in words.
        optimiser: the profile's key.
        extra: bytes a trained parameter takes beside its place among the frozen ones.
        gradient: bytes of its gradient.
        states: bytes of the optimiser's states for it.
        temporaries: bytes of its share of an update's temporaries.
        checkpointing: whether only the layers' inputs are kept for the backward pass.
        shards: devices over which weights, gradients and states are spread.
        offload: whether the optimiser's states live in the host's memory.
    """

    name: str
    optimiser: str
    extra: float
    gradient: float
    states: float
    temporaries: float = 0.0
    checkpointing: bool = False
    shards: int = 1
    offload: bool = False


AS_IT_IS, NOT_HERE = "as it is", "not in this code"
_ADAMW = {
    # An update that is not fused has temporaries as large as the gradients.
    "float32": Recipe("fp32, AdamW", "adamw", 0, 4, 8, 4),
    # fp32 for what trains: 2 bytes more for the weight.
    "bfloat16": Recipe(
        "fp32 for what trains, AdamW, layers recomputed", "adamw", 2, 4, 8, checkpointing=True
    ),
}


def _adafactor(recipe: Recipe) -> Recipe:
    """Row and column averages are thousandths of a byte a parameter; tensors update in turn."""
    name = recipe.name.replace("AdamW", "Adafactor")
    return replace(recipe, name=name, optimiser="adafactor", states=0.01, temporaries=0.0)


def _sharded(recipe: Recipe, devices: int) -> Recipe:
    return replace(recipe, name=f"{recipe.name}, sharded over {devices} devices", shards=devices)


def current(profile: Profile, processes: int = 1) -> Recipe:
    """What ``kappa train --processes N`` does for a profile."""
    recipe = _ADAMW[profile.dtype]
    if profile.optimiser == "adafactor":
        recipe = _adafactor(recipe)
    if profile.parallel == "fsdp2" and processes > 1:
        recipe = _sharded(recipe, processes)
    return recipe


def recipes(profile: Profile, processes: int = 1) -> tuple[Recipe, ...]:
    """What is done, and other ways to hold the same arms."""
    adamw = _ADAMW[profile.dtype]
    first = current(profile, processes)
    others = (
        adamw,
        _adafactor(adamw),
        *(_sharded(adamw, devices) for devices in (2, 4, 8)),
        replace(adamw, name=f"{adamw.name}, states on the host", offload=True),
    )
    return (first, *(recipe for recipe in others if recipe.name != first.name))


def options(recipe: Recipe, profile: Profile, processes: int = 1) -> str:
    """What to add to ``--profile P --processes N`` for a recipe."""
    if recipe.offload:
        return NOT_HERE
    way = "fsdp2" if recipe.shards > 1 else "ddp"
    number = recipe.shards if recipe.shards > 1 else processes
    # One process does neither, but Adafactor and sharding exclude each other.
    matters = number > 1 or recipe.optimiser == "adafactor"
    words = [
        f"--processes {number}" if number != processes else "",
        f"--set optimiser={recipe.optimiser}" if recipe.optimiser != profile.optimiser else "",
        f"--set parallel={way}" if matters and way != profile.parallel else "",
    ]
    return " ".join(filter(None, words)) or AS_IT_IS


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while an arm trains."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    reserve: float = RESERVE

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(
    profile: Profile, trained: int, recipe: Recipe | None = None, processes: int = 1
) -> Memory:
    """Bytes on each device for an arm of ``trained`` language-model parameters. An estimate.

    - weights: every parameter in the profile's dtype, the recipe's extra for those that train,
      and the adaptor in fp32;
    - gradients: of the trained tensors, and of the adaptor in fp32;
    - optimiser: the recipe's states and temporaries; two fp32 moments for the adaptor;
    - activations: :func:`activations` of each process' part of a batch of the longest utterances
      and, of sharded weights, a whole layer and all that is in none (:func:`_gathered`); or what an
      evaluation holds where that is larger: the key-value cache and, of sharded weights, a whole
      copy, in the place of the gradients (which several whole copies keep as buffers);
    - reserve: a constant.

    Args:
        profile: the settings.
        trained: parameters of the arm.
        recipe: how they are held; by default as one process does.
        processes: which share a batch; the recipe's shards, where it has them.
    """
    recipe = recipe or current(profile)
    processes = recipe.shards if recipe.shards > 1 else processes
    config = sizes.llama_config(profile.model)
    size = 2 if profile.dtype == "bfloat16" else 4
    everything = sizes.parameters(config)
    adaptor = _adaptor(profile, config)
    kept = 0.0 if recipe.offload else recipe.states * trained + 8 * adaptor
    load = workload(profile)
    weights = size * everything + recipe.extra * trained + 4 * adaptor
    gradients = (recipe.gradient * trained + 4 * adaptor) / recipe.shards
    layer, copy = _gathered(config, size, weights) if recipe.shards > 1 else (0.0, 0.0)
    freed = gradients if processes == 1 or recipe.shards > 1 else 0.0
    batch = -(-profile.batch // processes)
    return Memory(
        weights=weights / recipe.shards,
        gradients=gradients,
        optimiser=(kept + recipe.temporaries * trained) / recipe.shards,
        activations=max(
            activations(config, size, load, batch, recipe.checkpointing) + layer,
            _cache(config, size, profile, load) + copy - freed,
        ),
    )


def _adaptor(profile: Profile, config: LlamaConfig) -> int:
    width = sizes.encoder_size(profile.encoder).width
    return sizes.adaptor_parameters(width, config.hidden_size)


def _gathered(config: LlamaConfig, size: int, weights: float) -> tuple[float, float]:
    """Bytes that FSDP2 gathers on each device: while training, and for an evaluation.

    A layer at a time, beside the tables and the adaptor, which no layer holds and which stay; and
    everything.
    """
    tables = 1 if config.tie_word_embeddings else 2
    outside = size * tables * config.vocab_size * config.hidden_size
    return outside + (weights - outside) / config.num_hidden_layers, weights


def host_memory(profile: Profile, trained: int, processes: int = 1) -> float:
    """Bytes in the memory of a machine that runs ``processes`` of a run. An estimate.

    - of each process: the trained tensors as they were or, with FSDP2, the whole model with fp32
      for what trains, on its way to the devices;
    - the base model's log-probabilities of the general text, which the processes share;
    - the main process' checkpoint: fp32 weights and the optimiser's states.
    """
    config = sizes.llama_config(profile.model)
    recipe, adaptor = current(profile, processes), _adaptor(profile, config)
    size = 2 if profile.dtype == "bfloat16" else 4
    originals = size * trained
    if recipe.shards > 1:
        originals = size * sizes.parameters(config) + recipe.extra * trained
    answers = 4.0 * profile.text_tokens * config.vocab_size
    checkpoint = (4 + recipe.states) * trained + 12 * adaptor
    return processes * originals + answers + checkpoint


def layer_activations(config: LlamaConfig, size: int) -> float:
    """Bytes that a decoder layer keeps for the backward pass, a position; all its weights trained.

    Eight times the model's width (both norms' inputs and outputs, the query and its rotation,
    the attention's output as computed and as projected), two of these in fp32; the keys and the
    values; four times the MLP's width. Counted off the tensors that autograd saves for Llama with
    fused attention; a layer with fewer trained weights keeps less.
    """
    keys = sizes.matrix_shapes(config)["self_attn.k_proj"][0]
    widths = 8 * config.hidden_size + 2 * keys + 4 * config.intermediate_size
    return size * widths + 2 * (4 - size) * config.hidden_size


def activations(
    config: LlamaConfig, size: int, load: Workload, batch: int, checkpointing: bool
) -> float:
    """Bytes of activations at the end of a forward pass over the longest utterances.

    Without checkpointing every layer keeps :func:`layer_activations`; with it each keeps its
    input, and one layer at a time is computed again. The output layer adds, at label positions
    alone, logits in the weights' type and twice in fp32 (softmax and its gradient).
    """
    tokens = batch * load.longest
    layer = tokens * layer_activations(config, size)
    layers = config.num_hidden_layers
    inputs = layers * tokens * config.hidden_size * size
    kept = inputs + layer if checkpointing else layers * layer
    labels = batch * load.longest * load.labels / load.mean
    return kept + labels * config.vocab_size * (size + 8)


def _cache(config: LlamaConfig, size: int, profile: Profile, load: Workload) -> float:
    """Bytes of keys and values of one evaluation batch at its longest."""
    keys = sizes.matrix_shapes(config)["self_attn.k_proj"][0]
    batch = min(EVAL_BATCH, load.tests)
    longest = load.longest + profile.max_new_tokens
    return 2 * config.num_hidden_layers * keys * size * batch * longest
