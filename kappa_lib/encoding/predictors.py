"""What a tensor's spectrum, heads, inputs and gradient say before anything is changed."""

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kappa_lib.encoding.covariance import Moments
from kappa_lib.encoding.damage import Factors
from kappa_lib.spectra.kappa_table import volume_loss
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.spectrum import condition_number, power_law_tail

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

    ``effective_rank_share`` is the effective rank over k; ``volume_loss`` the AM-GM gap. Weights
    of attention to an encoder have types of their own, ``cross_q_proj`` and so on.
    """
    table = scan(llm).dropna(subset=["layer"]).reset_index(drop=True)
    cross, k = table["tensor"].str.contains("encoder_attn"), table[["rows", "cols"]].min(axis=1)
    return table.assign(
        type=table["type"].where(~cross, "cross_" + table["type"]),
        effective_rank_share=table["effective_rank"] / k,
        volume_loss=volume_loss(table),
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


def head_kappa(weight: Tensor, kind: str, width: int) -> float:
    """Geometric mean of κ over the heads of an attention tensor; κ of the tensor elsewhere.

    Heads of a ``width`` are rows of queries, keys and values, and columns of the output.
    """
    parts = (weight,)
    if kind.endswith(("q_proj", "k_proj", "v_proj")):
        parts = weight.split(width, dim=0)
    elif kind.endswith(("o_proj", "out_proj")):
        parts = weight.split(width, dim=1)
    return float(np.exp(np.mean([np.log(condition_number(part)) for part in parts])))


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
