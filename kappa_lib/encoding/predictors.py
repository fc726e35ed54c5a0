"""What is read off a tensor beside κ: its spectrum's tail, and κ of what no gauge changes."""

import copy
import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kappa_lib.spectra import gauge
from kappa_lib.spectra.scan import scan

# Fewer eigenvalues than this do not make a tail.
_SHORTEST = 20
# Tails fitted together: few enough for their numbers to stay in the cache.
_TAILS_AT_ONCE = 32


def power_law_tail(s: NDArray[np.float64]) -> tuple[float, float]:
    """Power law p(λ) ∝ λ^-α fitted to the tail of the eigenvalues λ = σ².

    The estimator of Clauset, Shalizi & Newman (SIAM Review 51, 2009): maximum likelihood for
    every possible start of the tail, and of these the one with the smallest Kolmogorov-Smirnov
    distance. It is the one behind WeightWatcher's α (its own fitter since 0.7).

    Returns:
        α and the eigenvalue at which the tail starts; NaN for fewer than 20 non-zero eigenvalues
        or a flat spectrum.
    """
    logs = 2.0 * np.log(np.sort(s[s > 0]))
    n = len(logs)
    if n < _SHORTEST or logs[0] == logs[-1]:
        return math.nan, math.nan
    sizes = n - np.arange(n - 1)
    excess = np.cumsum(logs[::-1])[::-1][:-1] - sizes * logs[:-1]
    # The last few starts can coincide with the maximum, which leaves no tail to fit.
    starts = np.flatnonzero(excess > 0)
    alphas = 1.0 + sizes[starts] / excess[starts]
    distances: list[float] = []
    for i in np.array_split(np.arange(len(starts)), math.ceil(len(starts) / _TAILS_AT_ONCE)):
        first, alpha = starts[i, None], alphas[i, None]  # a row per tail
        seen = (np.arange(n) - first) / (n - first)
        fitted = -np.expm1((1.0 - alpha) * np.maximum(logs - logs[first], 0.0))
        # What lies before a tail's start is no part of it.
        distances += np.where(seen >= 0, np.abs(fitted - seen), 0.0).max(axis=1).tolist()
    best = int(np.argmin(distances))
    return float(alphas[best]), float(np.exp(logs[starts[best]]))


@torch.no_grad()
def invariant_kappa(llm: nn.Module) -> pd.Series:
    """κ of what no change of gauge touches and a matrix takes part in, by the matrix's name.

    Of value and output that is the product O_q V_h of a query head with its value head, of query
    and key Q_qᵀ K_h (Elhage et al. 2021), each with the norm's gain in what reads the norm: the
    geometric mean over the query heads, the same for both partners; κ of a product of rank d_h is
    that of its d_h singular values. Of the gate it is the matrix with the gain; ``up`` and
    ``down`` are as they are in the balanced gauge.

    Raises:
        InputError: see :func:`kappa_lib.spectra.gauge.symmetries`.
    """
    gauge.of_model(llm)  # refuses what has other symmetries
    found: dict[str, float] = {}
    for number, layer in enumerate(llm.get_decoder().layers):
        at = f"model.layers.{number}."
        gain, attention = layer.input_layernorm.weight.double(), layer.self_attn
        q, k, v = (getattr(attention, f"{x}_proj").weight.double() * gain for x in "qkv")
        pairs = llm.config.num_key_value_heads
        for names, first, second in (("qk", q, k), ("ov", attention.o_proj.weight.double().T, v)):
            product = _of_products(first, second, llm.config.num_attention_heads, pairs)
            found |= {f"{at}self_attn.{x}_proj.weight": product for x in names}
        gate = layer.mlp.gate_proj.weight.double() * layer.post_attention_layernorm.weight.double()
        singular = torch.linalg.svdvals(gate)
        found[f"{at}mlp.gate_proj.weight"] = (singular[0] / singular[-1]).item()
    balanced = copy.deepcopy(llm)
    gauge.balance(balanced)
    table = scan(balanced, include=["*.up_proj.*", "*.down_proj.*"])
    found |= table.set_index("tensor")["kappa"].to_dict()
    return pd.Series(found, name="invariant_kappa").rename_axis("tensor")


def _of_products(first: Tensor, second: Tensor, heads: int, pairs: int) -> float:
    """Geometric mean over query heads of κ(F_qᵀ S_h), from (heads · d, n) and (pairs · d, n)."""
    f, s = first.unflatten(0, (heads, -1)), second.unflatten(0, (pairs, -1))
    # F = (Q R)ᵀ and S likewise: the product has the singular values of R_F R_Sᵀ, d × d.
    f, s = (torch.linalg.qr(x.mT)[1] for x in (f, s))
    singular = torch.linalg.svdvals(f @ s.repeat_interleave(heads // pairs, dim=0).mT)
    return (singular[:, 0] / singular[:, -1]).log().mean().exp().item()
