"""The κ table: a row a matrix, its ranks, its two files, and the same under the null of shape."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

import kappa_lib
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint, parse, replacing
from kappa_lib.spectra import measures, solvers, spectrum
from kappa_lib.weights.checkpoint import TensorInfo

COLUMNS = [
    "tensor",
    "type",
    "layer",
    "rows",
    "cols",
    "dtype",
    "method",
    "sigma_max",
    "sigma_min",
    "kappa",
    "kappa_error",
    "rank_deficiency",
    "log_volume",
    "frobenius",
    "effective_rank",
    "stable_rank",
    "kappa_mp",
    "kappa_excess",
    "rank",
    "rank_in_type",
]
# What a column holds; all others floats.
_TEXTS = ("tensor", "type", "dtype", "method")
_WHOLE = ("rows", "cols", "rank_deficiency", "rank", "rank_in_type")
KINDS = dict.fromkeys(COLUMNS, float) | dict.fromkeys(_TEXTS, str) | dict.fromkeys(_WHOLE, int)
KINDS["layer"] = int | None
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|blk)\.(\d+)\.")
_USUAL_ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_METADATA = b"kappa_lib"
# Beside the table, what the encoding study measures of the same tensors on their real inputs.
INPUTS = Path("encoding") / "tensors.csv"
WITH_INPUTS = (
    "measure it with `python -m kappa_lib.encoding.study --only tensors --model MODEL"
    " --out FOLDER/encoding`, FOLDER being the one of kappa.parquet"
)


def type_of(name: str) -> str:
    """Module type in a tensor's name: ``model.layers.3.self_attn.q_proj.weight`` → ``q_proj``."""
    parts = re.sub(r"\[\d+\]$", "", name).split(".")
    named = [part for part in parts if not part.isdigit() and part != "weight"]
    return named[-1] if named else name


def types(table: pd.DataFrame) -> list[str]:
    """Module types inside decoder layers: attention before MLP where the names are known."""
    found = table.loc[table["layer"].notna(), "type"].unique()
    known = [kind for kind in _USUAL_ORDER if kind in found]
    return known + [kind for kind in found if kind not in known]


def layer_of(name: str) -> int | None:
    """Index of the decoder layer a tensor belongs to, None outside of layers."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = {name: version(name) for name in ("numpy", "scipy", "torch", "gguf")}
    return {"kappa_lib": kappa_lib.__version__, **packages}


def matrix_names(info: TensorInfo) -> list[str]:
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
    weight: torch.Tensor, name: str = "weight", *, method: str = "auto", device: str = "cpu"
) -> dict[str, Any]:
    """One row of the table from one matrix (rows, cols), without its ranks.

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
        "type": type_of(name),
        "layer": layer_of(name),
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


def build(rows: list[dict[str, Any]], metadata: dict[str, Any]) -> pd.DataFrame:
    """A table with ``attrs`` from rows that lack only the two ranks, by ascending κ from 1."""
    extra = [key for key in (rows[0] if rows else {}) if key not in COLUMNS]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    table["layer"] = table["layer"].astype("Int64")
    # Equal κ (expert copies) are ordered by name, so that a table never depends on the order.
    order = table.sort_values(["kappa", "tensor"]).index
    table.loc[order, "rank"] = range(1, len(table) + 1)
    table["rank"] = table["rank"].astype("int64")
    table["rank_in_type"] = table.groupby("type")["rank"].rank().astype("int64")
    table.attrs = metadata
    return table


def digest(table: pd.DataFrame) -> str:
    """Fingerprint of what a selection depends on: tensors, shapes and κ."""
    facts = table[["tensor", "rows", "cols", "kappa"]].values.tolist()
    return fingerprint(facts)


def write(table: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write ``kappa.parquet`` (with metadata) and ``kappa.csv`` into ``folder``, atomically."""
    parquet, csv = folder / "kappa.parquet", folder / "kappa.csv"
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    text = json.dumps(table.attrs, sort_keys=True)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _METADATA: text})
    with replacing(parquet) as temporary:
        pq.write_table(arrow, temporary)
    with replacing(csv) as temporary:
        table.to_csv(temporary, index=False)
    return parquet, csv


def read(path: Path) -> pd.DataFrame:
    """Read ``kappa.parquet`` (or the folder that holds it); metadata in ``attrs``.

    Where ``INPUTS`` lies beside it, the table has its column ``input_kappa`` too: κ of WΣ_X^½.

    Raises:
        InputError: no such file, or not a κ table; or what lies beside it is of another model.
    """
    path = path / "kappa.parquet" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: there is no κ table here", "run `kappa scan` first")
    try:
        arrow = pq.ParquetFile(path).read()
        arrow.validate(full=True)
        text = (arrow.schema.metadata or {}).get(_METADATA, b"")
        metadata = parse(text, "its metadata", dict[str, object])
        _check(arrow)
        table = arrow.to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a κ table: {reason}", "run `kappa scan` again") from error
    table["layer"] = table["layer"].astype("Int64")
    if (inputs := path.parent / INPUTS).is_file():
        found = pd.read_csv(inputs, index_col="tensor").reindex(table["tensor"])
        inside = table["layer"].notna().to_numpy()
        if not np.isclose(found["kappa"][inside], table["kappa"][inside], rtol=1e-4).all():
            raise InputError(f"{inputs}: not of the tensors of {path}", WITH_INPUTS)
        table["input_kappa"] = found["input_kappa"].to_numpy()
    table.attrs = metadata
    return table


def _check(arrow: pa.Table) -> None:
    """Refuse columns that are missing or hold what no scan writes."""
    kinds = {str: pa.types.is_large_string, int: pa.types.is_integer, float: pa.types.is_floating}
    kinds |= {int | None: pa.types.is_integer}
    for name, kind in KINDS.items():
        if arrow.column_names.count(name) != 1:
            raise InputError(f"it has no column {name!r}, or several")
        column = arrow.column(name)
        text = kind is str and pa.types.is_string(column.type)
        if not (text or kinds[kind](column.type)) or (column.null_count and kind != int | None):
            raise InputError(f"its column {name!r} holds other values than a scan's")
    for name, least in {"kappa": 1, "rows": 1, "cols": 1}.items():
        column = arrow.column(name)
        if not pc.all(pc.and_(pc.greater_equal(column, least), pc.less(column, 2.0**62))).as_py():
            raise InputError(f"its column {name!r} holds impossible values")


def null_table(shapes: Mapping[str, tuple[int, int]], layers: int) -> pd.DataFrame:
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
    table["type"] = table["tensor"].map(type_of)
    sizes = zip(table["rows"], table["cols"], strict=True)
    null = [spectrum.marchenko_pastur_kappa(m, n) for m, n in sizes]
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
    return counted.loc[types(table)]


def against_median(table: pd.DataFrame) -> pd.DataFrame:
    """How many tensors of each type have a κ above the median of untrained ones of their shape.

    Indexed by ``type``: ``tensors``, and ``above``, half of them if training left no trace.
    """
    shapes = zip(table["rows"], table["cols"], strict=True)
    medians = [spectrum.null_kappa_quantile(m, n, 0.5) for m, n in shapes]
    grouped = (table["kappa"] > medians).groupby(table["type"], sort=False)
    return grouped.agg(tensors="size", above="sum")
