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


def stored(weight: torch.Tensor | np.ndarray, form: str) -> torch.Tensor:
    """``weight`` (rows, cols) after storing it in one of ``FORMATS``, read back as float32.

    GGUF's ``Q8_0`` and ``Q4_0`` keep a scale for each run of 32 weights of a row, ``Q4_1`` a
    scale and an offset, all in fp16.

    Raises:
        InputError: unknown format, a row that does not divide into runs, or a weight that the
            format can't hold.
    """
    weight = torch.as_tensor(weight)
    if form in _TORCH:
        read = weight.to(_TORCH[form]).float()
    elif form not in _GGUF:
        raise InputError(f"storage format {form!r} is unknown", f"use one of {', '.join(FORMATS)}")
    elif weight.shape[1] % _RUN:
        what = f"rows of {weight.shape[1]} weights do not divide into runs of {_RUN}"
        raise InputError(what, f"use a matrix whose number of columns is a multiple of {_RUN}")
    else:
        codes = gguf.quantize(weight.float().numpy(), _GGUF[form])
        read = torch.from_numpy(np.asarray(gguf.dequantize(codes, _GGUF[form])))
    if not read.isfinite().all():
        what = f"the matrix as {form} holds NaN or infinite values"
        raise InputError(what, "use a format of wider range")
    return read


def study(weights: Iterable[tuple[str, torch.Tensor]]) -> pd.DataFrame:
    """κ of named matrices, read one at a time, after storage: by name and format."""
    rows = {
        name: [decompose(stored(weight, form), "extremes", name=name).kappa for form in FORMATS]
        for name, weight in weights
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=FORMATS)


def survival(kappas: pd.DataFrame, types: Mapping[str, str], share: float) -> pd.DataFrame:
    """Whether rankings survive storage, against the first column of ``kappas``.

    Args:
        kappas: what :func:`study` returns.
        types: tensor name → module type.
        share: share of the tensors that a selection takes.

    Returns:
        A row per format: ``change`` (median |κ/κ₀ - 1|), ``spearman`` (over all tensors),
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
    """A draw of what a dequantised matrix (rows, cols) may have been before it became Q4_1.

    Q4_1 puts a run of 32 weights on 16 evenly spaced levels, of which the lowest and the highest
    occur. Knowing nothing else, the original lay anywhere within half a step of its level.
    """
    runs = weight.reshape(-1, _RUN)
    steps = (runs.amax(1, keepdim=True) - runs.amin(1, keepdim=True)) / 15
    generator = torch.Generator().manual_seed(seed)
    shift = torch.rand(runs.shape, generator=generator, dtype=weight.dtype) - 0.5
    return (runs + shift * steps).reshape(weight.shape)
