"""A stored tensor as matrices, and a matrix as a row of the κ table."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from kappa_lib.spectra import kappa_table, measures, solvers, spectrum
from kappa_lib.weights.checkpoint import TensorInfo


def row_names(info: TensorInfo) -> list[str]:
    """Names of the matrices that :func:`matrices` will give, from the header alone."""
    if info.kind != "experts":
        return [info.name]
    return [f"{info.name}[{i}]" for i in range(info.shape[0])]


def matrices(info: TensorInfo, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A stored tensor as named matrices, each (rows, cols).

    Expert tensors (experts, out, in) give one a slice, named ``<tensor>[i]``; convolutions
    (out, in, ...) become (out, rest); matrices, Conv1D's among them, stay as they are.
    """
    if info.kind == "experts":
        yield from ((f"{info.name}[{i}]", tensor[i]) for i in range(len(tensor)))
    else:
        yield info.name, tensor.flatten(1) if tensor.ndim > 2 else tensor


def measure(
    weight: torch.Tensor,
    name: str = "weight",
    *,
    method: str = "auto",
    device: str = "cpu",
) -> dict[str, Any]:
    """One row of the κ table from one matrix (rows, cols), without its ranks.

    The method ``extremes`` leaves NaN in the columns that need the whole spectrum.

    Raises:
        InputError: see ``checks.as_matrix``.
    """
    found = solvers.decompose(weight, method, device=device, name=name)
    rows, cols = found.shape
    s = found.values
    null = spectrum.marchenko_pastur_kappa(rows, cols)
    return {
        "tensor": name,
        "type": kappa_table.type_of(name),
        "layer": kappa_table.layer_of(name),
        "rows": rows,
        "cols": cols,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "method": found.method,
        "sigma_max": found.sigma_max,
        "sigma_min": found.sigma_min,
        "kappa": found.kappa,
        "kappa_error": found.kappa_error,
        "rank_deficiency": found.rank_deficiency,
        "log_volume": found.log_volume,
        "frobenius": found.frobenius,
        "effective_rank": math.nan if s is None else spectrum.effective_rank(s),
        "stable_rank": (found.frobenius / found.sigma_max) ** 2,
        "kappa_mp": null,
        "kappa_excess": found.kappa / null,
        "spectrum_snr": math.nan if s is None else measures.spectrum_snr(s, found.shape),
        "alpha": math.nan if s is None else measures.tail_exponent(s),
    }
