"""What a profile would cost: parameters, memory, disk, arithmetic; nothing is downloaded.

Every figure follows from the profile and the published sizes of its models. Estimates are named
as such, with the formula in the function that makes them.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from transformers import LlamaConfig

from kappa_lib import architectures, nulls, selection
from kappa_lib.evaluation import EVAL_BATCH
from kappa_lib.profiles import Profile
from kappa_lib.selection import Selection
from kappa_lib.speech_llm import STACK

FRAMES = 50  # a second, of every Whisper encoder
PROMPT = 40  # positions of the chat template around the audio, rounded up
TOKENS_PER_SECOND = 4.0  # of transcript, rounded up; three words a second
FLAC_BYTES = 18_500  # a second of read speech: LibriSpeech's train-clean-100 is 6.6 GB
RESERVE = 2 * 2**30  # CUDA context, workspaces and fragmentation


@dataclass(frozen=True)
class CorpusSize:
    """Mean and greatest length of a corpus' utterances in seconds."""

    mean: float
    longest: float


# Real corpora: hours over utterances of their training parts (100.6 h / 28,539 and
# 1,966.5 h / 469,942), cut at the encoder's window. Synthetic ones: what was synthesised.
SECONDS = {
    "librispeech": CorpusSize(12.7, 30.0),
    "mls_german": CorpusSize(15.1, 30.0),
    "de": CorpusSize(3.0, 6.0),
    "en": CorpusSize(3.0, 6.0),
    "en_human": CorpusSize(2.0, 16.0),
}


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
class Workload:
    """Lengths in positions of the language model, from a profile's mix of corpora.

    Attributes:
        mean, longest: positions of a training utterance, prompt and transcript included.
        labels: mean transcript tokens of a training utterance.
        seconds: of all training and test audio.
        tests: test utterances; ``test_positions`` their mean length.
    """

    mean: float
    longest: float
    labels: float
    seconds: float
    tests: int
    test_positions: float


def positions(seconds: float) -> float:
    """Positions an utterance takes: audio, chat template, transcript."""
    return seconds * FRAMES / STACK + PROMPT + seconds * TOKENS_PER_SECOND


def workload(profile: Profile) -> Workload:
    """What the profile's corpora mean for the language model."""
    train, test = profile.train_utterances, profile.test_utterances
    spoken = _mean_seconds(train)
    heard = _mean_seconds(test)
    present = [SECONDS[c].longest for c, n in train.items() if n]
    return Workload(
        mean=positions(spoken),
        longest=positions(max(present, default=0.0)),
        labels=spoken * TOKENS_PER_SECOND,
        seconds=spoken * sum(train.values()) + heard * sum(test.values()),
        tests=sum(test.values()),
        test_positions=positions(heard),
    )


def _mean_seconds(counts: dict[str, int]) -> float:
    total = sum(counts.values())
    return sum(SECONDS[c].mean * n for c, n in counts.items()) / total if total else 0.0


@dataclass(frozen=True)
class Arm:
    """One arm's trained tensors.

    Attributes:
        name: of the arm.
        tensors, parameters: how many, in the language model.
        basis: ``selection`` (made from measured κ), ``shapes`` (exact without any κ) or
            ``null`` (the selection that an untrained model of these shapes would give).
        kinds: module type → tensors.
    """

    name: str
    tensors: int
    parameters: int
    basis: str
    kinds: dict[str, int]


# Fixed by the shapes: types and their quotas decide, whichever tensors of a type are taken.
_BY_SHAPE = ("lowest_in_type", "highest_in_type", "random_in_type", "mlp", "attention", "all")


def arms(profile: Profile) -> list[Arm]:
    """Trained tensors of each arm: from the profile's selections, else from the null of shapes.

    Under the null every κ is what the tensor's shape makes typical
    (:func:`kappa_lib.nulls.null_table`), so that "smallest" and "largest" can be counted before
    a weight is read. Which tensors of one shape are taken is then arbitrary.
    """
    config = architectures.llama_config(profile.model)
    table = nulls.null_table(architectures.matrix_shapes(config), config.num_hidden_layers)
    count = selection.count_for(table, profile.share)
    found = []
    for name in profile.arms:
        path = profile.folder / "selections" / f"{name}.json"
        if path.is_file():
            chosen, basis = Selection.load(path), "selection"
        else:
            chosen = selection.select(table, name, count, profile.seed)
            basis = "shapes" if name in _BY_SHAPE else "null"
        composed = nulls.composition(table, chosen.tensors)["tensors"]
        kinds = {kind: int(n) for kind, n in composed.items()}
        found.append(Arm(name, len(chosen.tensors), chosen.parameters, basis, kinds))
    return found


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


def disk(profile: Profile, trained: list[int]) -> dict[str, float]:
    """Bytes on the disk by kind: downloads, speech, encoder features, runs. An estimate.

    Features are ``FRAMES`` a second of the encoder's width in fp16. A run leaves its trained
    tensors; the one under way also has its checkpoint with the optimiser's two moments.
    """
    config = architectures.llama_config(profile.model)
    size = 2 if profile.dtype == "bfloat16" else 4
    encoder = architectures.encoder_size(profile.encoder)
    adaptor = architectures.adaptor_parameters(encoder.width, config.hidden_size)
    seconds = workload(profile).seconds
    finished = sum(size * n + 4 * adaptor for n in trained) * len(profile.seeds)
    return {
        "model": float(size * architectures.parameters(config)),
        "encoder": float(encoder.download),
        "speech": seconds * FLAC_BYTES,
        "features": seconds * FRAMES * encoder.width * 2,
        "runs": float(finished + 3 * (size * max(trained) + 4 * adaptor)),
    }


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one arm of one seed, and of what all share."""

    step: float
    training: float
    evaluations: float
    shared: float


def work(profile: Profile, trained: int, checkpointing: bool = False) -> Work:
    """Arithmetic, counting a multiplication and an addition as two. An estimate.

    A position costs 2 operations a matrix parameter forwards and 2 backwards, since gradients
    pass every layer on their way to the adaptor; 2 more a trained parameter; attention
    4·layers·width·length forwards and twice that backwards; the output layer 6 a parameter at
    each label. Checkpointing adds a forward pass. Shared by all arms: encoding every utterance
    once, and the adaptor's warm start (6 operations a parameter and position).
    """
    config = architectures.llama_config(profile.model)
    encoder = architectures.encoder_size(profile.encoder)
    load = workload(profile)
    forward = _forward(config, load.mean)
    head = 2.0 * config.vocab_size * config.hidden_size
    passes = 3 if checkpointing else 2
    utterance = load.mean * (passes * forward + 2 * trained) + load.labels * 3 * head
    step = profile.batch * utterance
    evaluations = -(-profile.steps // profile.eval_every)
    heard = load.test_positions * _forward(config, load.test_positions)
    scored = profile.text_tokens * (_forward(config, 256.0) + head)
    adaptor = architectures.adaptor_parameters(encoder.width, config.hidden_size)
    warm = 6.0 * adaptor * load.mean * profile.warm_batch * profile.warm_steps
    encoding = load.seconds * FRAMES * 2.0 * encoder.parameters
    return Work(
        step=step,
        training=profile.steps * step,
        evaluations=evaluations * (load.tests * heard + scored),
        shared=encoding + warm * len(profile.seeds),
    )


def _forward(config: LlamaConfig, length: float) -> float:
    """Operations a position of the decoder layers forwards."""
    queries = architectures.matrix_shapes(config)["self_attn.q_proj"][0]
    attention = 4.0 * config.num_hidden_layers * queries * length / 2  # causal: half the square
    return 2.0 * architectures.layer_matrices(config) + attention


@dataclass(frozen=True)
class Plan:
    """What a profile would cost; see the functions of this module for each figure."""

    profile: Profile
    arms: list[Arm]
    memory: pd.DataFrame
    disk: dict[str, float]
    work: dict[str, Work]


def plan(profile: Profile) -> Plan:
    """Count and estimate everything about a profile.

    Returns:
        A plan whose ``memory`` has a row an arm and recipe: ``arm``, ``recipe``, the parts of
        :class:`Memory` and ``total``, in bytes.

    Raises:
        InputError: the sizes of the profile's model or encoder are not known.
    """
    found = arms(profile)
    rows: list[dict[str, Any]] = []
    for arm in found:
        for recipe in RECIPES:
            needed = memory(profile, arm.parameters, recipe)
            parts = {"arm": arm.name, "recipe": recipe.name, **vars(needed)}
            rows.append({**parts, "total": needed.total})
    trained = [arm.parameters for arm in found]
    return Plan(
        profile,
        found,
        pd.DataFrame(rows),
        disk(profile, trained),
        {arm.name: work(profile, arm.parameters) for arm in found},
    )
