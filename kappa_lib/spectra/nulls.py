"""What a selection by κ would be before training: the shapes of a model under the null."""

import pandas as pd

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
