"""The κ table: a row per matrix; its files, module types, and what a selection consists of."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import kappa_lib
from kappa_lib.errors import InputError
from kappa_lib.files import replacing, write_text
from kappa_lib.spectra import solvers, spectrum
from kappa_lib.weights.kinds import layer_of

_TEXT, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()
# Columns in their order, and what they hold.
COLUMNS = {
    "tensor": _TEXT,
    "type": _TEXT,
    "layer": _WHOLE,
    "rows": _WHOLE,
    "cols": _WHOLE,
    "dtype": _TEXT,
    "method": _TEXT,
    "sigma_max": _NUMBER,
    "sigma_min": _NUMBER,
    "kappa": _NUMBER,
    "kappa_error": _NUMBER,
    "rank_deficiency": _WHOLE,
    "log_volume": _NUMBER,
    "frobenius": _NUMBER,
    "effective_rank": _NUMBER,
    "stable_rank": _NUMBER,
    "kappa_mp": _NUMBER,
    "kappa_excess": _NUMBER,
    "rank": _WHOLE,
    "rank_in_type": _WHOLE,
}
# A matrix outside of layers has no layer; some methods have no effective rank.
_SCHEMA = pa.schema(
    pa.field(name, kind, nullable=name in ("layer", "effective_rank"))
    for name, kind in COLUMNS.items()
)
_METADATA = b"kappa_lib"
# Inside a layer, where names are those of Llama.
_USUAL_ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Beside the table, what is measured of the same tensors on their real inputs.
INPUTS = Path("encoding") / "tensors.csv"
WITH_INPUTS = "run `python -m tools.tensors --model MODEL --out FOLDER_OF_THE_TABLE/encoding` first"


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = {name: version(name) for name in ("numpy", "scipy", "torch", "gguf")}
    return {"kappa_lib": kappa_lib.__version__, **packages}


def measure(
    weight: torch.Tensor, name: str = "weight", *, method: str = "auto", device: str = "cpu"
) -> dict[str, Any]:
    """One row of the table from one matrix (rows, cols), without its ranks; errors of
    ``checks.as_matrix``. The effective rank, which needs the whole spectrum, may be NaN."""
    found = solvers.decompose(weight, method, device=device, name=name)
    rows, cols = found.shape
    null = spectrum.marchenko_pastur_kappa(rows, cols)
    ends_alone = found.values is None
    measured = {key: value for key, value in vars(found).items() if key in COLUMNS}
    return {
        "tensor": name,
        "layer": layer_of(name),
        "rows": rows,
        "cols": cols,
        "dtype": str(weight.dtype).removeprefix("torch."),
        **measured,
        "kappa": found.kappa,
        "effective_rank": math.nan if ends_alone else spectrum.effective_rank(found.values),
        # Rudelson & Vershynin, J. ACM 54, 2007
        "stable_rank": (found.frobenius / found.sigma_max) ** 2,
        "kappa_mp": null,
        "kappa_excess": found.kappa / null,
    }


def build(rows: list[dict[str, Any]], metadata: dict[str, Any]) -> pd.DataFrame:
    """A table with ``attrs`` from rows that lack only the two ranks, by ascending κ from 1."""
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    table["layer"] = table["layer"].astype("Int64")
    table["type"] = table["tensor"].map(types_of(table["tensor"]))
    # Equal κ (expert copies) are ordered by name, so that a table never depends on the order.
    ordered = table.sort_values(["kappa", "tensor"])
    table["rank"] = pd.Series(np.arange(1, len(table) + 1), index=ordered.index)
    table["rank_in_type"] = ordered.groupby("type").cumcount() + 1
    table.attrs = metadata
    return table


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write ``kappa.parquet`` (with metadata) and ``kappa.csv`` into ``folder``, atomically."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    text = json.dumps(table.attrs, sort_keys=True)
    arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _METADATA: text})
    with replacing(folder / "kappa.parquet") as temporary:
        pq.write_table(arrow, temporary)
    write_text(folder / "kappa.csv", table.to_csv(index=False))


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
        metadata = json.loads((arrow.schema.metadata or {}).get(_METADATA, b""))
        table = arrow.select([*COLUMNS]).cast(_SCHEMA).to_pandas(ignore_metadata=True)
        if not isinstance(metadata, dict) or not isinstance(metadata.get("not_adapted", {}), dict):
            raise InputError("its metadata are none of a scan's")
        sizes = table[["kappa", "rows", "cols"]]
        if not ((sizes >= 1) & (sizes < 2.0**62)).all(axis=None):
            raise InputError("it holds an impossible κ or size")
    except (pa.ArrowException, KeyError, OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        remedy = "give a scan's kappa.parquet, or run `kappa scan` again"
        raise InputError(f"{path}: not a κ table: {reason}", remedy) from error
    table["layer"] = table["layer"].astype("Int64")
    if (inputs := path.parent / INPUTS).is_file():
        found = pd.read_csv(inputs, index_col="tensor").reindex(table["tensor"])
        inside = table["layer"].notna().to_numpy()
        if not np.isclose(found["kappa"][inside], table["kappa"][inside], rtol=1e-4).all():
            raise InputError(f"{inputs}: not of the tensors of {path}", WITH_INPUTS)
        table["input_kappa"] = found["input_kappa"].to_numpy()
    table.attrs = metadata
    return table


def _modules(name: str) -> tuple[str, ...]:
    """Modules in a tensor's name, outermost first, without numbers."""
    parts = re.sub(r"\[\d+\]$", "", name).split(".")
    return tuple(p for p in parts if p and not p.isdigit() and p != "weight") or (name,)


def types_of(names: Iterable[str]) -> dict[str, str]:
    """Tensor → module type, of all matrices of a model: the name of its own module.

    Where modules share it, as many of their parents go before it as tell them apart: GPT-2's
    ``h.3.mlp.c_proj.weight`` is a ``mlp.c_proj``, for there is ``attn.c_proj``, too. So encoder and
    decoder, or what sees and what speaks, have types of their own.
    """
    paths = {name: _modules(name) for name in names}
    endings = Counter(path[i:] for path in set(paths.values()) for i in range(len(path)))

    def shortest(path: tuple[str, ...]) -> str:
        tails = (path[i:] for i in reversed(range(len(path))))
        return ".".join(next((tail for tail in tails if endings[tail] == 1), path))

    return {name: shortest(path) for name, path in paths.items()}


def types(table: pd.DataFrame, outside: bool = False) -> list[str]:
    """Module types inside layers, attention before MLP where the names are known; then, with
    ``outside``, those of the other matrices."""
    inside = table.loc[table["layer"].notna(), "type"].unique()
    order = {kind: place for place, kind in enumerate(_USUAL_ORDER)}
    found = sorted(inside, key=lambda kind: order.get(kind.rpartition(".")[2], len(order)))
    return found + [kind for kind in table["type"].unique() if outside and kind not in found]


# Llama-3-8B's linear layers: module path inside a layer → (out, in); it has 32 such layers.
LLAMA_8B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def null_table(shapes: Mapping[str, tuple[int, int]], layers: int) -> pd.DataFrame:
    """κ table of an untrained model: each κ is what its shape alone makes typical.

    From module path inside a layer → (rows, cols), and the number of such layers. The table has
    what :func:`kappa_lib.spectra.selection.select` needs, and ``kappa_excess``, 1 throughout.
    """
    rows = [
        {"tensor": f"model.layers.{layer}.{module}.weight", "layer": layer, "rows": m, "cols": n}
        for layer in range(layers)
        for module, (m, n) in shapes.items()
    ]
    table = pd.DataFrame(rows).astype({"layer": "Int64"})
    table["type"] = table["tensor"].map(types_of(table["tensor"]))
    null = [spectrum.marchenko_pastur_kappa(*shape) for shape in shapes.values()] * layers
    return table.assign(kappa=null, kappa_mp=null, kappa_excess=1.0)


def composition(table: pd.DataFrame, tensors: list[str]) -> pd.DataFrame:
    """What a selection consists of: by ``type``, in the model's order, the numbers of ``tensors``
    (chosen), ``of`` (available) and ``parameters``."""
    inside = table[table["layer"].notna()]
    chosen = inside["tensor"].isin(set(tensors))
    facts = inside.assign(chosen=chosen, parameters=inside["rows"] * inside["cols"] * chosen)
    parts = facts.groupby("type").agg(
        tensors=("chosen", "sum"), of=("chosen", "size"), parameters=("parameters", "sum")
    )
    return parts.loc[types(table)]


def explained_by_type(table: pd.DataFrame) -> float:
    """Share of the variance of log κ that lies between module types, in [0, 1]."""
    logs = np.log(table["kappa"])
    between = logs.groupby(table["type"]).transform("mean")
    return float(((between - logs.mean()) ** 2).sum() / ((logs - logs.mean()) ** 2).sum())


def volume_loss(table: pd.DataFrame) -> pd.Series:
    """AM–GM gap of each tensor per singular value: what its spectrum lacks of Theorem 1, in nats.

    1/2 log(C/k) - V/k with C = ‖W‖_F², V of eq. (8) and k the rank: free of scale and of size,
    and zero only at κ = 1.
    """
    k = np.minimum(table["rows"], table["cols"]) - table["rank_deficiency"]
    return 0.5 * np.log(table["frobenius"] ** 2 / k) - table["log_volume"] / k


def with_volume(table: pd.DataFrame) -> pd.DataFrame:
    """A κ table's tensors inside layers, with the ``volume_lost`` (Theorem 1, per direction) that
    each lacks at its norm, and ``effective_rank_share``, of its rank."""
    share = table["effective_rank"] / np.minimum(table["rows"], table["cols"])
    found = table.assign(volume_lost=volume_loss(table), effective_rank_share=share)
    return found[found["layer"].notna()]
