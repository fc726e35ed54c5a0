"""What a tensor's spectrum, heads, inputs and gradient say before anything is changed."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from kappa_lib.encoding.covariance import Moments
from kappa_lib.encoding.damage import Factors
from kappa_lib.spectra.measures import power_law_tail, volume_loss
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.spectrum import condition_number

# Columns that are held against encoding and damage, in the order in which they are shown.
PREDICTORS = [
    "kappa",
    "kappa_excess",
    "input_kappa",
    "head_kappa",
    "effective_rank_share",
    "stable_rank",
    "alpha",
    "trace_log_gap",
    "volume_loss",
    "frobenius",
    "gradient",
    "bottom_power",
    "layer",
]


def table_of(llm: PreTrainedModel) -> pd.DataFrame:
    """κ table of a model's decoder layers, with the predictors that its columns give.

    ``effective_rank_share`` is the effective rank over k; ``volume_loss`` the AM-GM gap.
    """
    table = scan(llm).dropna(subset=["layer"]).reset_index(drop=True)
    k = table[["rows", "cols"]].min(axis=1)
    return table.assign(
        effective_rank_share=table["effective_rank"] / k, volume_loss=volume_loss(table)
    )


def trace_log_gap(s: NDArray[np.float64]) -> float:
    """SETOL's trace-log condition as a distance: 0 where it is met (Martin & Hinrichs, 2507.17912).

    With the eigenvalues λ = s² scaled to mean one, Σ log λ over the largest ones is first positive
    and falls to zero as more are taken in. The condition asks that the tail which the fitted power
    law starts is the one over which the sum vanishes; the gap is log λ of the first start less
    that of the second.

    Args:
        s: spectrum (k,), descending, positive.
    """
    eigenvalues = np.square(s) / np.square(s).mean()
    sums = np.cumsum(np.log(eigenvalues))
    inside = np.flatnonzero(sums >= 0)
    last = int(inside[-1]) if len(inside) else 0
    start = power_law_tail(s)[1] / np.square(s).mean()
    return math.log(start / eigenvalues[last])


def head_kappas(weight: Tensor, kind: str, width: int) -> list[float]:
    """κ of each head's part of an attention tensor; of the tensor itself elsewhere.

    Args:
        weight: (m, n).
        kind: module type; rows are split for queries, keys and values, columns for the output.
        width: of a head.
    """
    if kind in ("q_proj", "k_proj", "v_proj"):
        parts = weight.split(width, dim=0)
    elif kind in ("o_proj", "out_proj"):
        parts = weight.split(width, dim=1)
    else:
        parts = (weight,)
    return [condition_number(part) for part in parts]


def spectral_predictors(
    factors: Factors, weight: Tensor, kind: str, width: int
) -> dict[str, float]:
    """``trace_log_gap`` and ``head_kappa``, the geometric mean over the heads."""
    heads = np.log(head_kappas(weight, kind, width))
    return {
        "trace_log_gap": trace_log_gap(factors.sigma.numpy()),
        "head_kappa": float(np.exp(heads.mean())),
    }


def input_predictors(factors: Factors, moments: Moments) -> dict[str, float]:
    """Where the smallest singular direction lies in the input, whose mean is left in.

    ``bottom_power``: power of the input along v_k, over the median of all right singular
    directions. ``bottom_overlap``: cos² of v_k with the input's dominant direction, of which
    ``dominant_share`` is the share in the input's power. ``bottom_output``: share of the output's
    power that passes through σ_k.
    """
    second = moments.second
    powers = ((factors.right @ second) * factors.right).sum(1)
    values, vectors = torch.linalg.eigh(second)
    outputs = factors.sigma.square() * powers
    return {
        "bottom_power": float(powers[-1] / powers.median()),
        "bottom_overlap": float((factors.right[-1] @ vectors[:, -1]).square()),
        "dominant_share": float(values[-1] / values.sum()),
        "bottom_output": float(outputs[-1] / outputs.sum()),
    }


def gradient_norms(
    llm: PreTrainedModel, tensors: Mapping[str, nn.Parameter], windows: Tensor
) -> dict[str, float]:
    """‖∂L/∂W‖_F ‖W‖_F of each tensor: change of the loss for a relative change along the gradient.

    Args:
        llm: the model.
        tensors: name → parameter.
        windows: (windows, tokens + 1) ids; L is the mean cross-entropy over all of them.

    Returns:
        Name → nats.
    """
    for parameter in tensors.values():
        parameter.requires_grad_(True)
    try:
        logits = llm(input_ids=windows[:, :-1], use_cache=False).logits.flatten(0, 1)
        loss = functional.cross_entropy(logits.float(), windows[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(tensors.values()))
    finally:
        for parameter in tensors.values():
            parameter.requires_grad_(False)
    return {
        name: float(gradient.norm() * parameter.detach().norm())
        for (name, parameter), gradient in zip(tensors.items(), gradients, strict=True)
    }
