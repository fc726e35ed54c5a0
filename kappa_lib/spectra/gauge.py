"""Same function, another κ: the symmetries of a Llama-like network, and what they do to weights.

A change of gauge changes weights and not the network's function. Along four families of axes a
factor s can be put into one tensor and taken out of its partner:

- ``norm``: a residual coordinate of an RMSNorm's gain, and that column of what reads the norm;
- ``up/down``: a hidden unit's row of ``up`` and column of ``down`` (SwiGLU is linear in ``up``);
- ``value/output``: a coordinate of a value head, and that column of ``o`` in every query head
  that shares it;
- ``query/key``: the two coordinates of a rotary frequency in a key head, and in the query heads
  that share it. One factor for both commutes with the rotation.

Factors that are powers of two keep the bits of the logits, in fp32 and bf16. κ of a tensor is
invariant under none of them. The argument is that of Dinh et al. (2017, arXiv 1703.04933) against
sharpness; neighbours are Neyshabur et al. (2015, path-SGD), Stock et al. (2019,
equi-normalisation) and Du et al. (2018, balanced layers).
"""

import math
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kappa_lib.errors import InputError
from kappa_lib.files import making, write_json
from kappa_lib.weights import models

MODELS = ("llama", "mistral", "qwen2")
DOSE = 6  # moves κ of most matrices by more than a hundred
FLIP = 16  # exponent that outweighs any κ of a trained matrix
SWEEPS = 4  # of balancing, after which factors move by less than a thousandth

# A parameter, one of its axes, and for each position along it the number of a factor.
Place = tuple[str, int, Tensor]
# Parameter → the factors of its rows and of its columns; of its entries and 1, for a vector.
Gauge = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Symmetry:
    """One family of factors in one place of the network."""

    kind: str  # ``norm``, ``up/down``, ``value/output`` or ``query/key``
    size: int  # number of independent factors
    times: list[Place]  # where position p along the axis is multiplied by s[index[p]]
    over: list[Place]  # where it is divided


def symmetries(config: Any, names: Collection[str]) -> list[Symmetry]:
    """All symmetries of a model, layer by layer, by its configuration of transformers and the names
    of its parameters, which say where there are biases.

    Raises:
        InputError: the architecture has other symmetries, or a weight is missing.
    """
    if config.model_type not in MODELS or (getattr(config, "partial_rotary_factor", 1) or 1) != 1:
        what = f"{config.model_type}: the symmetries of this architecture are not known here"
        raise InputError(what, f"use a model of type {', '.join(MODELS)}")
    heads, pairs = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    residual, hidden = torch.arange(config.hidden_size), torch.arange(config.intermediate_size)
    value = torch.arange(pairs * width)
    frequency = torch.arange(width) % (width // 2)
    rotary = (torch.arange(pairs)[:, None] * (width // 2) + frequency).ravel()

    def shared(index: Tensor) -> Tensor:  # of a key-value head's rows → of its query heads'
        return index.view(pairs, width).repeat_interleave(heads // pairs, dim=0).ravel()

    def rows(name: str, index: Tensor) -> list[Place]:
        ends = ["weight", "bias"] if f"{name}.bias" in names else ["weight"]
        return [(f"{name}.{end}", 0, index) for end in ends]

    found = []
    for number in range(config.num_hidden_layers):
        at = f"model.layers.{number}."
        attention, mlp = f"{at}self_attn.", f"{at}mlp."
        for norm, readers in (
            ("input", [f"{attention}{x}_proj" for x in "qkv"]),
            ("post_attention", [f"{mlp}gate_proj", f"{mlp}up_proj"]),
        ):
            gain = rows(f"{at}{norm}_layernorm", residual)
            read = [(f"{name}.weight", 1, residual) for name in readers]
            found.append(Symmetry("norm", len(residual), read, gain))
        up, down = rows(f"{mlp}up_proj", hidden), [(f"{mlp}down_proj.weight", 1, hidden)]
        found.append(Symmetry("up/down", len(hidden), up, down))
        values = rows(f"{attention}v_proj", value)
        output = [(f"{attention}o_proj.weight", 1, shared(value))]
        found.append(Symmetry("value/output", len(value), values, output))
        keys = rows(f"{attention}k_proj", rotary)
        queries = rows(f"{attention}q_proj", shared(rotary))
        found.append(Symmetry("query/key", len(value) // 2, keys, queries))
    touched = {name for s in found for name, _, _ in (*s.times, *s.over)}
    if missing := sorted(touched - set(names)):
        raise InputError(f"the model has no {missing[0]}", "give the whole causal language model")
    return found


def combined(factors: Iterable[tuple[Symmetry, Tensor]]) -> Gauge:
    """Factors of each symmetry, (size,) each → the factors of every parameter they touch."""
    gauge: Gauge = {}
    for symmetry, s in factors:
        for places, t in ((symmetry.times, s), (symmetry.over, 1 / s)):
            for name, axis, index in places:
                axes = gauge.setdefault(name, [torch.ones(1, dtype=torch.float64)] * 2)
                axes[axis] = axes[axis] * t[index]
    return gauge


def drawn(found: Sequence[Symmetry], seed: int, dose: int) -> Gauge:
    """Powers of two 2^k for all symmetries, k drawn uniformly from −dose … dose."""
    rng = torch.Generator().manual_seed(seed)
    powers = (torch.randint(-dose, dose + 1, (s.size,), generator=rng) for s in found)
    return combined((s, torch.exp2(k.double())) for s, k in zip(found, powers, strict=True))


def flipped(found: Iterable[Symmetry], seed: int) -> Gauge:
    """One coordinate of every MLP matrix × 2^16, a norm's for ``gate`` and ``up``, a hidden unit of
    ``down``, so that κ of the MLP is the largest of all; attention stays."""
    rng, factors = torch.Generator().manual_seed(seed), []
    for symmetry in found:
        if any(".mlp." in name for name, _, _ in symmetry.times):
            s = torch.ones(symmetry.size, dtype=torch.float64)
            exponent = -FLIP if symmetry.kind == "up/down" else FLIP
            s[torch.randint(symmetry.size, (1,), generator=rng)] = 2.0**exponent
            factors.append((symmetry, s))
    return combined(factors)


def scaled(name: str, tensor: Tensor, gauge: Gauge) -> Tensor:
    """A parameter in a gauge: its rows and columns times their factors.

    Raises:
        InputError: its type can't hold the result exactly (fp16 at once: its exponents end early).
    """
    if name not in gauge:
        return tensor
    if tensor.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise InputError(f"{name}: {tensor.dtype} can't hold every factor", "convert it to bf16")
    row, column = (factors.to(tensor.device) for factors in gauge[name])
    wide = tensor.double() * (row if tensor.ndim == 1 else row[:, None] * column)
    found = wide.to(tensor.dtype)
    if not torch.isfinite(found).all() or ((found == 0) != (tensor == 0)).any():
        raise InputError(f"{name}: a factor leaves the range of its type", "use a smaller dose")
    return found


@torch.no_grad()
def apply(model: nn.Module, gauge: Gauge) -> Gauge:
    """Change a model's parameters to a gauge, in place, and return it; errors of :func:`scaled`,
    before anything is changed."""
    parameters = dict(model.named_parameters())
    changed = {name: scaled(name, parameters[name], gauge) for name in gauge}
    for name, value in changed.items():
        parameters[name].copy_(value)
    return gauge


def of_model(model: nn.Module) -> list[Symmetry]:
    """:func:`symmetries` of a model in memory."""
    return symmetries(model.config, {name for name, _ in model.named_parameters()})


def regauge(model: nn.Module, seed: int = 0, dose: int = DOSE) -> Gauge:
    """Change a model's weights and not its function, in place; see :func:`drawn`."""
    return apply(model, drawn(of_model(model), seed, dose))


def flip(model: nn.Module, seed: int = 0) -> Gauge:
    """Make the MLP's κ the largest, in place and without another function: :func:`flipped`."""
    return apply(model, flipped(of_model(model), seed))


def rms_inverse(factors: list[Tensor]) -> float:
    """Root mean square, over a matrix, of its factors' inverse: how much longer a step of Adam,
    which has one size whatever the gauge, has become as seen from the original gauge."""
    return math.prod((1 / axis.square()).mean().item() for axis in factors) ** 0.5


@torch.no_grad()
def balance(model: nn.Module) -> None:
    """Change to the balanced gauge, in place: partners of equal norm, values white in each head.

    Of a norm's coordinates the columns that read them get equal norms; of every other symmetry the
    two partners do (which gradient flow conserves: Du et al. 2018). Value heads are whitened by an
    invertible matrix, which the output matrix takes back. The function is equal up to rounding.
    """
    parameters = dict(model.named_parameters())
    for _ in range(SWEEPS):
        for symmetry in of_model(model):
            apply(model, combined([(symmetry, _balancing(symmetry, parameters))]))
    for number in range(model.config.num_hidden_layers):
        _whiten(parameters, model.config, f"model.layers.{number}.self_attn.")


def _balancing(symmetry: Symmetry, parameters: dict[str, Tensor]) -> Tensor:
    """The factors, (size,), that make partners' norms equal; of geometric mean 1 for a norm."""

    def norms(places: list[Place]) -> Tensor:
        total = torch.zeros(symmetry.size, dtype=torch.float64)
        for name, axis, index in places:
            square = parameters[name].double().square().cpu()
            total.index_add_(0, index, square if square.ndim == 1 else square.sum(1 - axis))
        return total.clamp(min=torch.finfo(torch.float32).tiny).sqrt()

    if symmetry.kind == "norm":
        s = 1 / norms(symmetry.times)
        return s / s.log().mean().exp()
    return (norms(symmetry.over) / norms(symmetry.times)).sqrt()


def _whiten(parameters: dict[str, Tensor], config: Any, at: str) -> None:
    """V_h → A V_h with A V_h V_hᵀ Aᵀ a multiple of the identity, and O_q → O_q A⁻¹."""
    value, output = (parameters[f"{at}{x}_proj.weight"] for x in "vo")
    heads, pairs = config.num_attention_heads, config.num_key_value_heads
    v = value.double().view(pairs, -1, value.shape[1])
    squares, vectors = torch.linalg.eigh(v @ v.mT)
    roots = squares.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    roots = roots / roots.log().mean(-1, keepdim=True).exp()
    into, back = (vectors * r[:, None] @ vectors.mT for r in (1 / roots, roots))
    value.copy_((into @ v).reshape(value.shape))
    if f"{at}v_proj.bias" in parameters:
        bias = parameters[f"{at}v_proj.bias"]
        bias.copy_((into @ bias.double().view(pairs, -1, 1)).reshape(bias.shape))
    o = output.double().view(len(output), heads, -1).transpose(0, 1)
    o = o @ back.repeat_interleave(heads // pairs, dim=0)
    output.copy_(o.transpose(0, 1).reshape(output.shape))


def write(source: Path, out: Path, change: Callable[[list[Symmetry]], Gauge], note: Any) -> None:
    """Write a checkpoint of the same function, in the layout of the one it comes from.

    Args:
        source: folder of safetensors with ``config.json``.
        out: new folder, which appears when it is whole.
        change: :func:`drawn` or :func:`flipped` with their arguments.
        note: of what was done, for ``regauge.json``.

    Raises:
        InputError: ``out`` is there already, or the weights are quantised; and errors of
            :func:`symmetries` and :func:`scaled`.
    """
    from transformers import AutoConfig  # heavy, and a scan does without

    if out.exists():
        raise InputError(f"{out}: is there already", "name a new folder")
    config = AutoConfig.from_pretrained(source)
    if getattr(config, "quantization_config", None):
        raise InputError(f"{source}: quantised weights can't take factors", "dequantise it first")
    shards = {path: safe_open(path, "pt") for path in sorted(source.glob("*.safetensors"))}
    names = {name for shard in shards.values() for name in shard.offset_keys()}
    gauge = change(symmetries(config, names))
    with making(out) as temporary:
        for path in models.parts(source):
            if path not in shards:
                shutil.copy(path, temporary)
        for path, shard in shards.items():
            tensors = {k: scaled(k, shard.get_tensor(k), gauge) for k in shard.offset_keys()}
            save_file(tensors, temporary / path.name, shard.metadata())
        write_json(temporary / "regauge.json", note)
