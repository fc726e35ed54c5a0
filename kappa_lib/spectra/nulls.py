"""What a selection by κ would be before training: the shapes of a model under the null."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.spectrum import marchenko_pastur_kappa

# (out, in) of the seven matrices of a decoder layer, as in the model's published configuration.
LLAMA_3_8B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
LLAMA_3_8B_LAYERS = 32


def null_table(shapes: dict[str, tuple[int, int]], layers: int) -> pd.DataFrame:
    """κ table of an untrained model: each κ is what its shape alone makes typical.

    Args:
        shapes: module path inside a layer → (rows, cols).
        layers: how many such layers.

    Returns:
        A table with ``tensor``, ``type``, ``layer``, ``rows``, ``cols``, ``kappa``, ``kappa_mp``
        and ``kappa_excess`` (1 throughout): enough for :func:`kappa_lib.spectra.selection.select`.
    """
    rows = [
        {"tensor": f"model.layers.{layer}.{module}.weight", "layer": layer, "rows": m, "cols": n}
        for layer in range(layers)
        for module, (m, n) in shapes.items()
    ]
    table = pd.DataFrame(rows).astype({"layer": "Int64"})
    table["type"] = table["tensor"].map(kappa_table.type_of)
    null = [marchenko_pastur_kappa(m, n) for m, n in zip(table["rows"], table["cols"], strict=True)]
    return table.assign(kappa=null, kappa_mp=null, kappa_excess=1.0)


def nulled(table: pd.DataFrame) -> pd.DataFrame:
    """A measured table with every κ replaced by the null of its shape."""
    return table.assign(kappa=table["kappa_mp"], kappa_excess=1.0)


def composition(table: pd.DataFrame, tensors: list[str]) -> pd.DataFrame:
    """What a selection consists of: tensors and parameters of each type, in the model's order.

    Returns:
        Indexed by ``type``, columns ``tensors`` (chosen), ``of`` (available), ``parameters``.
    """
    inside = table[table["layer"].notna()]
    chosen = inside["tensor"].isin(set(tensors))
    facts = inside.assign(chosen=chosen, parameters=inside["rows"] * inside["cols"] * chosen)
    grouped = facts.groupby("type", sort=False)
    counted = grouped.agg(
        tensors=("chosen", "sum"), of=("chosen", "size"), parameters=("parameters", "sum")
    )
    return counted.loc[kappa_table.types(table)]


# Mean and standard deviation of the Tracy-Widom law of order 1 (Bornemann 2010).
_TRACY_WIDOM = -1.2065335746, 1.2679883


def kappa_quantile(rows: int, cols: int, share: float) -> float:
    """The κ below which a ``share`` of matrices of independent Gaussian entries lie.

    Square: Edelman (1988), P(κ/n < x) = exp(-2/x - 2/x²) for large n. Else both edges fluctuate by
    independent Tracy-Widom laws (Johnstone 2001; Ma 2012), taken together as normal in log κ.

    Args:
        rows: m.
        cols: n.
        share: in (0, 1).
    """
    small, large = sorted((rows, cols))
    if small == large:
        return float(2 * small / (np.sqrt(1 - 2 * np.log(share)) - 1))
    p, n = np.sqrt([small - 0.5, large - 0.5])
    top, bottom = n + p, n - p
    widths = np.array([(1 / n + 1 / p) ** (1 / 3) / top, (1 / p - 1 / n) ** (1 / 3) / bottom])
    mean, deviation = _TRACY_WIDOM
    centre = np.log(top / bottom) + mean * widths.sum() / 2
    return float(np.exp(centre + norm.ppf(share) * deviation * np.sqrt((widths**2).sum()) / 2))


def against_median(table: pd.DataFrame) -> pd.DataFrame:
    """How many tensors of each type have a κ above the median of untrained ones of their shape.

    Args:
        table: κ table with ``type``, ``rows``, ``cols``, ``kappa``.

    Returns:
        Indexed by ``type``: ``tensors``, and ``above``, half of them if training left no trace.
    """
    shapes = zip(table["rows"], table["cols"], strict=True)
    medians = [kappa_quantile(m, n, 0.5) for m, n in shapes]
    grouped = (table["kappa"] > medians).groupby(table["type"], sort=False)
    return grouped.agg(tensors="size", above="sum")
