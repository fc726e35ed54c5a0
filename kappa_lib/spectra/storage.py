"""What storing a matrix in a coarser format does to its κ."""

from collections.abc import Iterable, Mapping

import gguf
import numpy as np
import pandas as pd
import torch

from kappa_lib.errors import InputError
from kappa_lib.spectra.solvers import decompose

_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GGUF = {
    "8-bit (Q8_0)": gguf.GGMLQuantizationType.Q8_0,
    "4-bit (Q4_1)": gguf.GGMLQuantizationType.Q4_1,
    "4-bit (Q4_0)": gguf.GGMLQuantizationType.Q4_0,
}
FORMATS = (*_TORCH, *_GGUF)
# GGUF quantises runs of this many weights of a row together.
_RUN = 32


def stored(weight: torch.Tensor, form: str) -> torch.Tensor:
    """``weight`` (rows, cols) after storing it in a format and reading it back, float32 or wider.

    Args:
        weight: floating-point matrix; for the GGUF formats cols is a multiple of 32.
        form: one of ``FORMATS``. GGUF's ``Q8_0`` and ``Q4_0`` keep a scale for each run of 32
            weights, ``Q4_1`` a scale and an offset, all in fp16.

    Raises:
        InputError: unknown format, or a row that does not divide into runs.
    """
    if form in _TORCH:
        return weight.to(_TORCH[form]).float()
    if form not in _GGUF:
        raise InputError(f"storage format {form!r} is unknown", f"use one of {', '.join(FORMATS)}")
    if weight.shape[1] % _RUN:
        raise InputError(
            f"rows of {weight.shape[1]} weights do not divide into runs of {_RUN}",
            "use a matrix whose number of columns is a multiple of 32",
        )
    codes = gguf.quantize(weight.float().numpy(), _GGUF[form])
    return torch.from_numpy(np.asarray(gguf.dequantize(codes, _GGUF[form])))


def study(
    weights: Iterable[tuple[str, torch.Tensor]], formats: Iterable[str] = FORMATS
) -> pd.DataFrame:
    """κ of each matrix after storage in each format.

    Args:
        weights: (name, matrix) pairs, used one at a time.
        formats: of ``FORMATS``.

    Returns:
        Indexed by tensor name, a column a format.
    """
    formats = list(formats)
    rows = {
        name: [decompose(stored(weight, form), "extremes", name=name).kappa for form in formats]
        for name, weight in weights
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=formats)


def survival(kappas: pd.DataFrame, types: Mapping[str, str], share: float) -> pd.DataFrame:
    """Whether rankings survive storage, against the first column of ``kappas``.

    Args:
        kappas: what :func:`study` returns.
        types: tensor name → module type.
        share: share of the tensors that a selection takes.

    Returns:
        A row a format: ``change`` (median |κ/κ₀ - 1|), ``spearman`` (over all tensors),
        ``within_type`` (mean over types) and ``kept`` (share of the smallest-κ selection that
        stays selected).
    """
    reference = kappas.iloc[:, 0]
    kind = pd.Series(types).reindex(kappas.index)
    count = round(share * len(kappas))
    selected = set(reference.nsmallest(count).index)
    rows = {}
    for form in kappas.columns:
        column = kappas[form]
        groups = [reference[kind == t].corr(column[kind == t], "spearman") for t in kind.unique()]
        rows[form] = {
            "change": float((column / reference - 1).abs().median()),
            "spearman": float(reference.corr(column, "spearman")),
            "within_type": float(np.mean(groups)),
            "kept": len(selected & set(column.nsmallest(count).index)) / count,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def before_rounding(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """A draw of what a matrix may have been before it was stored as Q4_1.

    Q4_1 puts a run of 32 weights on 16 evenly spaced levels, of which the lowest and the highest
    occur. Knowing nothing else, the original lay anywhere within half a step of its level.

    Args:
        weight: dequantised matrix (rows, cols), cols a multiple of 32.
        seed: of the draw.
    """
    runs = weight.reshape(-1, _RUN)
    steps = (runs.amax(1, keepdim=True) - runs.amin(1, keepdim=True)) / 15
    generator = torch.Generator().manual_seed(seed)
    shift = torch.rand(runs.shape, generator=generator, dtype=weight.dtype) - 0.5
    return (runs + shift * steps).reshape(weight.shape)
