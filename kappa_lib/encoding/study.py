"""Every tensor of a model: predictors, information on real input, damage, κ surgery, stability.

``python -m kappa_lib.encoding.study --out results/encoding`` computes all of it; killed, the same
command goes on. It leaves a table per part, ``tensors.csv`` and ``stability.csv`` (per tensor),
``damage.csv`` (tensor × change × window), ``surgery.csv`` (scope × change × window), and
``facts.json``.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kappa_lib import provenance
from kappa_lib.encoding import cases, damage, information, predictors
from kappa_lib.encoding.cases import Batch, Settings
from kappa_lib.encoding.damage import CHANGES, SURGERIES, Factors, Reference, noise_cost
from kappa_lib.encoding.information import Moments, input_moments
from kappa_lib.encoding.predictors import gradients, invariant_kappa
from kappa_lib.files import fingerprint, read_json, replacing, write_json
from kappa_lib.progress import track
from kappa_lib.spectra import gauge
from kappa_lib.spectra.scan import scan
from kappa_lib.text import text_metadata
from kappa_lib.training.evaluation import KINDS
from kappa_lib.weights import models

# Raise when a change here or in the measures alters any number.
NUMERICS = 4
FLOATS = "%.6g"
# The controls of single surgeries are measured last.
DAMAGE_PARTS = (tuple(name for name in CHANGES if name not in SURGERIES[1:]), SURGERIES[1:])


class Study:
    """A model's tensors, the windows they are measured on, and the rows that are finished.

    ``out`` is the folder of the results and of ``rows``, from which a killed run goes on.
    """

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.llm, tokenizer = models.load(settings.model)
        self.cases = cases.of_texts(tokenizer, settings)
        self.weights = dict(self.llm.named_parameters())
        self.table = predictors.table_of(self.llm)
        kappas = dict(zip(self.table["tensor"], self.table["kappa"], strict=True))
        self.goal = damage.reversed_kappas(kappas)
        self._reference: Reference | None = None
        self._common = [NUMERICS, list(kappas.values()), settings.seed]

    def key(self, *parts: Any) -> str:
        """Of a finished row: all that decides it; the windows come last."""
        return fingerprint([*self._common, *parts[:-1], [batch.key for batch in parts[-1]]])

    def path(self, key: str) -> Path:
        """The file of the rows of a key."""
        return self.out / "rows" / f"{key}.json"

    def kept(self, key: str, compute: Callable[[], list[dict]]) -> list[dict]:
        """The rows of a key, computed and kept where there are none."""
        if not self.path(key).is_file():
            write_json(self.path(key), compute())
        return read_json(self.path(key))

    def reference(self, windows: list[Batch]) -> Reference:
        """The unchanged model on some windows; the last one asked for is kept."""
        if self._reference is None or self._reference.batches is not windows:
            self._reference = None  # before the next is made: two would not fit everywhere
            self._reference = Reference(self.llm, windows)
        return self._reference

    def changed(self, tensor: str, change: str, factors: Factors | None = None) -> Tensor:
        """A tensor after a change, (m, n) float64."""
        number = int(fingerprint([self.settings.seed, tensor, change])[:12], 16)
        generator = torch.Generator().manual_seed(number)
        factors = factors or Factors.of(self.weights[tensor])
        return CHANGES[change](factors, generator, self.goal[tensor])

    def run(self, parts: Sequence[str] = ()) -> None:
        """Measure and write the named parts, all by default; each table as soon as it is whole."""
        for name in parts or PARTS:
            for table in PARTS[name](self):
                with replacing(self.out / f"{name}.csv") as temporary:
                    table.to_csv(temporary, index=False, float_format=FLOATS)
        facts = {
            "settings": asdict(self.settings),
            "model": models.identity(self.settings.model),
            "texts": {kind: text_metadata()[kind]["sha256"] for kind in KINDS},
            "provenance": provenance.describe(),
        }
        write_json(self.out / "facts.json", facts)


def tensors(study: Study) -> Iterator[pd.DataFrame]:
    """Predictors and information of every tensor."""
    read = study.cases.inputs
    layers = sorted(int(number) for number in study.table["layer"].unique())
    keys = {n: study.key("tensors", n, read) for n in layers}
    missing = [n for n in layers if not study.path(keys[n]).is_file()]
    walk = input_moments(study.llm, [batch.inputs for batch in read], missing) if missing else ()
    for number, moments in track(walk, "information", len(missing)):
        study.kept(keys[number], partial(_layer, study, number, moments))
    found = [row for n in layers for row in study.kept(keys[n], list)]
    table = study.table.merge(pd.DataFrame(found), on="tensor", validate="one_to_one")

    def after_surgery() -> list[dict]:
        """κ of every tensor as stored after surgery on all of them; measured, not presumed."""
        names = study.table["tensor"]
        changed = {study.weights[name]: study.changed(name, "surgery").float() for name in names}
        with damage.replaced(changed):
            after = scan(study.llm)
        return [dict(zip(after["tensor"], after["kappa"], strict=True))]

    (after,) = study.kept(study.key("reversed", []), after_surgery)
    goal, reached = table["tensor"].map(study.goal), table["tensor"].map(after)
    if study.llm.config.model_type in gauge.MODELS:
        table["invariant_kappa"] = table["tensor"].map(invariant_kappa(study.llm))
    slopes = _gradients(study)[["tensor", "gradient"]]
    yield table.assign(kappa_goal=goal, kappa_reversed=reached).merge(slopes, on="tensor")


def _layer(study: Study, number: int, moments: dict[str, Moments]) -> list[dict]:
    found, config = [], study.llm.config
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Tensors with the same input share one object of moments, and its root.
    root = cache(lambda given: information.root_of_covariance(given.covariance))
    for row in study.table[study.table["layer"] == number].itertuples():
        weight = study.weights[row.tensor]
        given = moments[row.tensor.partition(f"layers.{number}.")[2].removesuffix(".weight")]
        factors = Factors.of(weight)
        sigma = factors.sigma.numpy()
        alpha, start = predictors.power_law_tail(sigma)
        found.append(
            {
                "tensor": row.tensor,
                **information.of_tensor(weight, factors.sigma, root(given), given, row.Index),
                "alpha": alpha,
                "trace_log_gap": predictors.trace_log_gap(sigma, start),
                "head_kappa": predictors.head_kappa(weight, row.type, heads),
                **predictors.input_predictors(factors, given),
            }
        )
    return found


def surgeries(study: Study) -> Iterator[pd.DataFrame]:
    """κ surgery and its two controls on whole types and on everything, a row per window."""
    scopes = {kind: rows["tensor"] for kind, rows in study.table.groupby("type", sort=False)}
    scopes["all"] = study.table["tensor"]
    windows = study.cases.surgery
    order, found = [(scope, change) for scope in scopes for change in SURGERIES], []

    @cache
    def after(tensor: str) -> dict[str, Tensor]:
        factors = Factors.of(study.weights[tensor])
        return {change: study.changed(tensor, change, factors).float() for change in SURGERIES}

    def measure(scope: str, change: str) -> list[dict]:
        reference = study.reference(windows)
        with damage.replaced({study.weights[n]: after(n)[change] for n in scopes[scope]}):
            rows = reference.rows()
        bases = enumerate(reference.loss.tolist())
        return [row | {"window": n, "base": b} for row, (n, b) in zip(rows, bases, strict=True)]

    for scope, change in track(order, "surgery"):
        key = study.key("surgery", list(scopes[scope]), change, windows)
        rows = study.kept(key, partial(measure, scope, change))
        found += [{"scope": scope, "change": change, **row} for row in rows]
    yield pd.DataFrame(found)


def damages(study: Study) -> Iterator[pd.DataFrame]:
    """Loss and KL of every change of every tensor, a row per window; a table per block more."""
    # Layers in strides, so that a run that was stopped has seen all depths and types.
    chosen = sorted(study.table.itertuples(), key=lambda row: (row.layer % 6, row.layer))
    order = [(row, part) for part in DAMAGE_PARTS for row in chosen]
    found: list[dict] = []

    def measure(row: Any, part: Sequence[str], windows: list[Batch]) -> list[dict]:
        reference, weight, rows = study.reference(windows), study.weights[row.tensor], []
        factors = Factors.of(weight)
        for change in part:
            changed = study.changed(row.tensor, change, factors)
            about = {"change": change, "size": damage.relative_size(weight, changed)}
            with damage.replaced({weight: changed}):
                rows += [about | each for each in reference.rows()]
        return rows

    for number, windows in enumerate(study.cases.blocks):
        for row, part in track(order, f"damage, block {number}"):
            key = study.key("damage", row.tensor, part, windows)
            rows = study.kept(key, partial(measure, row, part, windows))
            found += [{"tensor": row.tensor, "block": number, **each} for each in rows]
        yield pd.DataFrame(found)


def stabilities(study: Study) -> Iterator[pd.DataFrame]:
    """What relative noise on every tensor costs, and its gradient's size and noise."""
    windows, found = study.cases.two_blocks, []
    draws, seed = study.settings.draws, study.settings.seed

    def measure(name: str) -> list[dict]:
        cost = noise_cost(study.reference(windows), name, draws=draws, seed=seed)
        return [{"tensor": name, **cost}]

    for name in track(study.table["tensor"], "noise on a tensor"):
        key = study.key("noise", name, draws, windows)
        found += study.kept(key, partial(measure, name))
    yield pd.DataFrame(found).merge(_gradients(study), on="tensor", validate="one_to_one")


def _gradients(study: Study) -> pd.DataFrame:
    windows, names = study.cases.two_blocks, list(study.table["tensor"])
    key = study.key("gradients", names, windows)
    return pd.DataFrame(study.kept(key, lambda: gradients(study.llm, names, windows)))


PARTS: dict[str, Callable[[Study], Iterator[pd.DataFrame]]] = {
    "tensors": tensors,
    "surgery": surgeries,
    "stability": stabilities,
    "damage": damages,
}


def main() -> None:
    """The command line: the model, and which parts to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default=Settings.model, help="as in a profile")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=(), help="default: all parts")
    options = parser.parse_args()
    Study(Settings(model=options.model), options.out).run(options.only)


if __name__ == "__main__":
    main()
