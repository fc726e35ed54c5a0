"""What a profile would cost: parameters, memory, disk, arithmetic; nothing is downloaded.

Every figure follows from the profile and the published sizes of its models. Estimates are named
as such, with the formula in the function that makes them.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from transformers import LlamaConfig

from kappa_lib.profiles import Profile
from kappa_lib.run import sizes
from kappa_lib.run.footprint import current, memory, options, recipes
from kappa_lib.run.workload import FRAMES, workload
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.selection import Selection
from kappa_lib.training.evaluation import EVAL_BATCH

FLAC_BYTES = 18_500  # a second of read speech: LibriSpeech's train-clean-100 is 6.6 GB


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
    (``kappa_table.null_table``), so that "smallest" and "largest" can be counted before
    a weight is read. Which tensors of one shape are taken is then arbitrary.
    """
    config = sizes.llama_config(profile.model)
    table = kappa_table.null_table(sizes.matrix_shapes(config), config.num_hidden_layers)
    count = selection.count_for(table, profile.share)
    found = []
    for name in profile.arms:
        path = profile.folder / "selections" / f"{name}.json"
        if path.is_file():
            chosen, basis = Selection.load(path), "selection"
        else:
            chosen = selection.select(table, name, count, profile.seed)
            basis = "shapes" if name in _BY_SHAPE else "null"
        composed = kappa_table.composition(table, chosen.tensors)["tensors"]
        kinds = {kind: int(n) for kind, n in composed.items()}
        found.append(Arm(name, len(chosen.tensors), chosen.parameters, basis, kinds))
    return found


def disk(profile: Profile, trained: list[int]) -> dict[str, float]:
    """Bytes on the disk by kind: downloads, speech, encoder features, runs. An estimate.

    Features are ``FRAMES`` a second of the encoder's width in fp16. A run leaves its trained
    tensors in fp32; the one under way also has its checkpoint with the optimiser's two moments.
    """
    config = sizes.llama_config(profile.model)
    size = 2 if profile.dtype == "bfloat16" else 4
    encoder = sizes.encoder_size(profile.encoder)
    adaptor = sizes.adaptor_parameters(encoder.width, config.hidden_size)
    seconds = workload(profile).seconds
    finished = 4.0 * sum(n + adaptor for n in trained) * len(profile.seeds)
    return {
        "model": float(size * sizes.parameters(config)),
        "encoder": float(encoder.download),
        "speech": seconds * FLAC_BYTES,
        "features": seconds * FRAMES * encoder.width * 2,
        "runs": finished + 12.0 * (max(trained) + adaptor),
    }


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one arm of one seed, and of what all share.

    ``reads`` are the bytes that generating the transcripts of an arm's evaluations reads: the
    weights once for each token of a batch's longest answer. Memory bounds it, not arithmetic.
    """

    step: float
    training: float
    evaluations: float
    shared: float
    reads: float


def work(profile: Profile, trained: int) -> Work:
    """Arithmetic, counting a multiplication and an addition as two. An estimate.

    A position costs 2 operations a matrix parameter forwards and 2 backwards, since gradients
    pass every layer on their way to the adaptor; 2 more a trained parameter; attention
    4·layers·width·length forwards and twice that backwards; the output layer 6 a parameter at
    each label. Layers computed again add a forward pass. Shared by all arms: encoding every
    utterance once, and the adaptor's warm start (6 operations a parameter and position).
    """
    config = sizes.llama_config(profile.model)
    encoder = sizes.encoder_size(profile.encoder)
    load = workload(profile)
    forward = _forward(config, load.mean)
    head = 2.0 * config.vocab_size * config.hidden_size
    passes = 3 if current(profile).checkpointing else 2
    utterance = load.mean * (passes * forward + 2 * trained) + load.labels * 3 * head
    step = profile.batch * utterance
    evaluations = -(-profile.steps // profile.eval_every)
    heard = load.test_positions * _forward(config, load.test_positions)
    scored = profile.text_tokens * (_forward(config, 256.0) + head)
    adaptor = sizes.adaptor_parameters(encoder.width, config.hidden_size)
    warm = 6.0 * adaptor * load.mean * profile.warm_batch * profile.warm_steps
    size = 2 if profile.dtype == "bfloat16" else 4
    answers = evaluations * -(-load.tests // EVAL_BATCH) * load.labels
    encoding = load.seconds * FRAMES * 2.0 * encoder.parameters
    return Work(
        step=step,
        training=profile.steps * step,
        evaluations=evaluations * (load.tests * heard + scored),
        shared=encoding + warm * len(profile.seeds),
        reads=answers * size * sizes.parameters(config),
    )


def _forward(config: LlamaConfig, length: float) -> float:
    """Operations a position of the decoder layers forwards."""
    queries = sizes.matrix_shapes(config)["self_attn.q_proj"][0]
    attention = 4.0 * config.num_hidden_layers * queries * length / 2  # causal: half the square
    return 2.0 * sizes.layer_matrices(config) + attention


@dataclass(frozen=True)
class Plan:
    """What a profile would cost; see the functions of this module for each figure."""

    profile: Profile
    arms: list[Arm]
    memory: pd.DataFrame
    disk: dict[str, float]
    work: dict[str, Work]
    processes: int = 1


def plan(profile: Profile, processes: int = 1) -> Plan:
    """Count and estimate everything about a profile.

    Args:
        profile: the settings.
        processes: a device each.

    Returns:
        A plan whose ``memory`` has a row an arm and recipe: ``arm``, ``recipe``, ``how``, the
        parts of :class:`kappa_lib.run.footprint.Memory` and ``total``, in bytes of one device.

    Raises:
        InputError: the sizes of the profile's model or encoder are not known.
    """
    found = arms(profile)
    rows: list[dict[str, Any]] = []
    for arm in found:
        for recipe in recipes(profile, processes):
            needed = memory(profile, arm.parameters, recipe, processes)
            parts = {
                "arm": arm.name,
                "recipe": recipe.name,
                "how": options(recipe, profile, processes),
            }
            parts |= vars(needed)
            rows.append({**parts, "total": needed.total})
    trained = [arm.parameters for arm in found]
    return Plan(
        profile,
        found,
        pd.DataFrame(rows),
        disk(profile, trained),
        {arm.name: work(profile, arm.parameters) for arm in found},
        processes,
    )
