"""Same function, another κ: the symmetries of a Llama-like network, and what they do to weights.

A change of weights that leaves the network's function as it is is called a change of gauge. Along
four families of axes a factor s can be put into one tensor and taken out of its partner:

- ``norm``: a residual coordinate of an RMSNorm's gain, and that column of what reads the norm;
- ``up/down``: a hidden unit's row of ``up`` and column of ``down`` (SwiGLU is linear in ``up``);
- ``value/output``: a coordinate of a value head, and that column of ``o`` in every query head
  that shares it;
- ``query/key``: the two coordinates of a rotary frequency in a key head, and in the query heads
  that share it. One factor for both commutes with the rotation.

Where the factors are powers of two every product and every sum keeps its bits, in fp32 and bf16, so
the logits are equal bit for bit. κ of a tensor is invariant under none of them. The argument is
that of Dinh et al. (2017, arXiv 1703.04933) against sharpness; neighbours are Neyshabur et al.
(2015, path-SGD), Stock et al. (2019, equi-normalisation) and Du et al. (2018, balanced layers).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kappa_lib.errors import InputError

MODELS = ("llama", "mistral", "qwen2")
FLIP = 16  # exponent that outweighs any κ of a trained matrix
SWEEPS = 4  # of balancing, after which factors move by less than a thousandth


@dataclass(frozen=True)
class Symmetry:
    """One family of factors in one place of the network.

    Attributes:
        kind: ``norm``, ``up/down``, ``value/output`` or ``query/key``.
        size: number of independent factors.
        times: (parameter, axis, index): position p along the axis is multiplied by s[index[p]].
        over: the same, divided.
    """

    kind: str
    size: int
    times: list[tuple[str, int, Tensor]]
    over: list[tuple[str, int, Tensor]]


# Parameter → the factors of its rows and columns (of its entries, for a vector).
Gauge = dict[str, list[Tensor]]


def symmetries(model: nn.Module) -> list[Symmetry]:
    """All symmetries of a model, layer by layer.

    Raises:
        InputError: the architecture has others, or its weights are in fp16, whose exponents end
            too early for powers of two to be exact.
    """
    config = model.config
    partial = getattr(config, "partial_rotary_factor", None) or 1.0
    if config.model_type not in MODELS or partial != 1.0:
        raise InputError(
            f"{config.model_type}: its symmetries are not known here",
            f"use a model of type {', '.join(MODELS)}",
        )
    if any(p.dtype == torch.float16 for p in model.parameters()):
        raise InputError("fp16 weights: small factors are lost in them", "load the model in bf16")
    heads, pairs = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    residual, hidden = torch.arange(config.hidden_size), torch.arange(config.intermediate_size)
    value = torch.arange(pairs * width)
    rotary = (torch.arange(pairs)[:, None] * width // 2 + torch.arange(width) % (width // 2)).ravel()
    known = {name for name, _ in model.named_parameters()}

    def shared(index: Tensor) -> Tensor:  # of a key-value head's rows → of its query heads'
        return index.view(pairs, width).repeat_interleave(heads // pairs, dim=0).ravel()

    def rows(name: str, index: Tensor) -> list[tuple[str, int, Tensor]]:
        return [(full, 0, index) for end in ("weight", "bias") if (full := f"{name}.{end}") in known]

    found = []
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        readers = {
            "input_layernorm": [f"self_attn.{x}_proj" for x in "qkv"],
            "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        }
        for norm, names in readers.items():
            columns = [(f"{at}{name}.weight", 1, residual) for name in names]
            gain = [(f"{at}{norm}.weight", 0, residual)]
            found.append(Symmetry("norm", len(residual), columns, gain))
        attention, mlp = f"{at}self_attn.", f"{at}mlp."
        down = [(f"{mlp}down_proj.weight", 1, hidden)]
        found.append(Symmetry("up/down", len(hidden), rows(f"{mlp}up_proj", hidden), down))
        output = [(f"{attention}o_proj.weight", 1, shared(value))]
        values = rows(f"{attention}v_proj", value)
        found.append(Symmetry("value/output", len(value), values, output))
        keys, queries = rows(f"{attention}k_proj", rotary), rows(f"{attention}q_proj", shared(rotary))
        found.append(Symmetry("query/key", len(value) // 2, keys, queries))
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


def drawn(model: nn.Module, seed: int, dose: int) -> Gauge:
    """Powers of two 2^k for all symmetries, k drawn uniformly from −dose … dose."""
    rng = torch.Generator().manual_seed(seed)

    def powers(size: int) -> Tensor:
        return torch.exp2(torch.randint(-dose, dose + 1, (size,), generator=rng).double())

    return combined((symmetry, powers(symmetry.size)) for symmetry in symmetries(model))


def flipped(model: nn.Module, seed: int) -> Gauge:
    """One coordinate of every MLP matrix × 2^16: κ of gate, up and down is the largest of all.

    A norm's coordinate for ``gate`` and ``up``, a hidden unit for ``down``; attention stays.
    """
    rng = torch.Generator().manual_seed(seed)

    def single(symmetry: Symmetry) -> Tensor:
        s = torch.ones(symmetry.size, dtype=torch.float64)
        exponent = -FLIP if symmetry.kind == "up/down" else FLIP
        s[torch.randint(symmetry.size, (1,), generator=rng)] = 2.0**exponent
        return s

    mlp = [s for s in symmetries(model) if any(".mlp." in name for name, _, _ in s.times)]
    return combined((symmetry, single(symmetry)) for symmetry in mlp)


@torch.no_grad()
def apply(model: nn.Module, gauge: Gauge) -> None:
    """Multiply the model's parameters by a gauge's factors, in place.

    Raises:
        InputError: a weight would leave the range of its type; nothing has been changed then.
    """
    parameters = dict(model.named_parameters())
    changed = {name: scaled(parameters[name], axes) for name, axes in gauge.items()}
    for name, value in changed.items():
        if not torch.isfinite(value).all() or ((value == 0) != (parameters[name] == 0)).any():
            raise InputError(f"{name}: factors leave the range of its type", "use a smaller dose")
    for name, value in changed.items():
        parameters[name].copy_(value)


def scaled(tensor: Tensor, axes: list[Tensor]) -> Tensor:
    """A parameter, or an update of it, carried into a gauge: rows and columns times their factors."""
    row, column = (factors.to(tensor.device) for factors in axes)
    wide = tensor.double() * (row if tensor.ndim == 1 else row[:, None] * column)
    return wide.to(tensor.dtype)


def rms_inverse(axes: list[Tensor]) -> float:
    """Root mean square over a matrix of its factors' inverse: what the gauge does to a step's size."""
    return math.prod((1 / factors.square()).mean().item() for factors in axes) ** 0.5


def regauge(model: nn.Module, seed: int, dose: int) -> Gauge:
    """Change a model's weights and not its function, in place; see :func:`drawn`."""
    gauge = drawn(model, seed, dose)
    apply(model, gauge)
    return gauge


def flip(model: nn.Module, seed: int = 0) -> Gauge:
    """Make the MLP's κ the largest, in place and without another function: :func:`flipped`."""
    gauge = flipped(model, seed)
    apply(model, gauge)
    return gauge


@torch.no_grad()
def balance(model: nn.Module, exact: bool = False) -> None:
    """Change to the balanced gauge, in place: partners of equal norm, values white in each head.

    Of a norm's coordinates the columns that read them get equal norms; of every other symmetry the
    two partners do (which gradient flow conserves: Du et al. 2018). Value heads are whitened by an
    invertible matrix, which the output matrix takes back.

    Args:
        model: changed in place; equal in function up to rounding.
        exact: round factors to powers of two and leave value heads as they are, so that the
            function keeps its bits.
    """
    parameters = dict(model.named_parameters())
    for _ in range(SWEEPS):
        for symmetry in symmetries(model):
            s = _balancing(symmetry, parameters)
            apply(model, combined([(symmetry, torch.exp2(s.log2().round()) if exact else s)]))
    if not exact:
        for layer in range(model.config.num_hidden_layers):
            _whiten(model, f"model.layers.{layer}.self_attn.")


def _balancing(symmetry: Symmetry, parameters: dict[str, Tensor]) -> Tensor:
    """The factors, (size,), that make partners' norms equal; of geometric mean 1 for a norm."""

    def norms(places: list[tuple[str, int, Tensor]]) -> Tensor:
        total = torch.zeros(symmetry.size, dtype=torch.float64)
        for name, axis, index in places:
            square = parameters[name].double().square().cpu()
            total.index_add_(0, index, square if square.ndim == 1 else square.sum(1 - axis))
        return total.clamp(min=torch.finfo(torch.float32).tiny).sqrt()

    if symmetry.kind == "norm":
        s = 1 / norms(symmetry.times)
        return s / s.log().mean().exp()
    return (norms(symmetry.over) / norms(symmetry.times)).sqrt()


def _whiten(model: nn.Module, at: str) -> None:
    """V_h → A V_h with A V_h V_hᵀ Aᵀ a multiple of the identity, and O_q → O_q A⁻¹."""
    parameters = dict(model.named_parameters())
    value, output = (parameters[f"{at}{x}_proj.weight"] for x in "vo")
    bias = parameters.get(f"{at}v_proj.bias")
    heads = model.config.num_attention_heads
    pairs = model.config.num_key_value_heads
    v = value.double().view(pairs, -1, value.shape[1])
    vectors, squares = torch.linalg.eigh(v @ v.mT)[::-1]
    roots = squares.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    roots = roots / roots.log().mean(-1, keepdim=True).exp()
    into, back = ((vectors * r[:, None]) @ vectors.mT for r in (1 / roots, roots))
    value.copy_((into @ v).reshape(value.shape))
    if bias is not None:
        bias.copy_((into @ bias.double().view(pairs, -1, 1)).reshape(bias.shape))
    o = output.double().view(len(output), heads, -1)
    output.copy_(torch.einsum("mhi,hij->mhj", o, back.repeat_interleave(heads // pairs, 0)).reshape(output.shape))
