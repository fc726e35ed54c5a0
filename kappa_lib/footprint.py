"""Memory of one device while an arm trains, and other ways to hold the same arm."""

from dataclasses import dataclass

from transformers import LlamaConfig

from kappa_lib import architectures
from kappa_lib.evaluation import EVAL_BATCH
from kappa_lib.profiles import Profile
from kappa_lib.workload import Workload, workload

RESERVE = 2 * 2**30  # CUDA context, workspaces and fragmentation


@dataclass(frozen=True)
class Recipe:
    """How the trained tensors are optimised, as far as memory is concerned.

    Attributes:
        name: in words.
        states: bytes a trained parameter takes beside weight and gradient; None for AdamW in
            the weights' own type, which is what ``kappa train`` runs.
        checkpointing: whether only the layers' inputs are kept for the backward pass.
        shards: devices over which weights, gradients and states are spread.
        offload: whether the optimiser's states live in the host's memory.
    """

    name: str
    states: float | None = None
    checkpointing: bool = False
    shards: int = 1
    offload: bool = False


# Adafactor's row and column averages are thousandths of a byte a parameter; bitsandbytes' 8-bit
# AdamW has two bytes and a scale for each block of 256. Both need the fp32 master copy.
CURRENT = Recipe("AdamW in the weights' type")
RECIPES = (
    CURRENT,
    Recipe("AdamW, fp32 master copies", 12.0),
    Recipe("8-bit AdamW, fp32 master copies", 6.03),
    Recipe("Adafactor, fp32 master copies", 4.01),
    Recipe("AdamW, fp32 master copies, checkpointing", 12.0, True),
    Recipe("Adafactor, fp32 master copies, checkpointing", 4.01, True),
    Recipe("AdamW, fp32 master copies, checkpointing, states on the host", 12.0, True, 1, True),
    Recipe("AdamW, fp32 master copies, checkpointing, sharded over 2", 12.0, True, 2),
    Recipe("AdamW, fp32 master copies, checkpointing, sharded over 8", 12.0, True, 8),
)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while an arm trains."""

    weights: float
    originals: float
    gradients: float
    optimiser: float
    activations: float
    reserve: float = RESERVE

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(profile: Profile, trained: int, recipe: Recipe = CURRENT) -> Memory:
    """Bytes on each device for an arm of ``trained`` language-model parameters. An estimate.

    - weights: every parameter in the profile's dtype, and the adaptor in fp32;
    - originals: a copy of the trained tensors, from which the next arm starts;
    - gradients: of the trained tensors in their dtype, of the adaptor in fp32;
    - optimiser: the recipe's states; two fp32 moments for the adaptor; and the temporaries of
      one fused update, as large as the gradients;
    - activations: :func:`activations` of a batch of the longest utterances, or the evaluation's
      key-value cache where that is larger;
    - reserve: a constant.
    """
    config = architectures.llama_config(profile.model)
    size = 2 if profile.dtype == "bfloat16" else 4
    everything = architectures.parameters(config)
    adaptor = architectures.adaptor_parameters(
        architectures.encoder_size(profile.encoder).width, config.hidden_size
    )
    states = 2 * size if recipe.states is None else recipe.states
    gradients = size * trained + 4 * adaptor
    kept = 0.0 if recipe.offload else states * trained + 8 * adaptor
    load = workload(profile)
    return Memory(
        weights=(size * everything + 4 * adaptor) / recipe.shards,
        originals=size * trained / recipe.shards,
        gradients=gradients / recipe.shards,
        optimiser=(kept + gradients) / recipe.shards,
        activations=max(
            activations(config, size, load, profile.batch, recipe.checkpointing),
            _cache(config, size, profile, load),
        ),
    )


def layer_activations(config: LlamaConfig, size: int) -> float:
    """Bytes that a decoder layer keeps for the backward pass, a position; all its weights trained.

    Eight times the model's width (both norms' inputs and outputs, the query and its rotation,
    the attention's output as computed and as projected), two of these in fp32; the keys and the
    values; four times the MLP's width. Counted off the tensors that autograd saves for Llama with
    fused attention; a layer with fewer trained weights keeps less.
    """
    keys = architectures.matrix_shapes(config)["self_attn.k_proj"][0]
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
    keys = architectures.matrix_shapes(config)["self_attn.k_proj"][0]
    batch = min(EVAL_BATCH, load.tests)
    longest = load.longest + profile.max_new_tokens
    return 2 * config.num_hidden_layers * keys * size * batch * longest
