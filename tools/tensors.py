"""Every tensor of a model: what can be read off it, and its information on real input.

``python -m tools.tensors --model MODEL --out FOLDER`` writes ``tensors.csv`` beside ``facts.json``;
killed, the same command goes on from the rows it has left. What damage, surgery and noise cost
every tensor is in the committed results alone, whose ``facts.json`` names the commits that measured
it.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kappa_lib import provenance
from kappa_lib.encoding import damage, information
from kappa_lib.encoding.damage import Batch, Factors, log_probabilities, loss_of
from kappa_lib.encoding.information import Moments, input_moments
from kappa_lib.encoding.study import Settings, Study
from kappa_lib.files import fingerprint, read_json, write_json, write_text
from kappa_lib.progress import Progress
from kappa_lib.spectra import gauge
from kappa_lib.spectra.invariant import invariant_kappa
from kappa_lib.spectra.kappa_table import with_volume
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.spectrum import condition_number, power_law_tail
from kappa_lib.text import text_metadata
from kappa_lib.training.evaluation import KINDS
from kappa_lib.weights import models

# Raise when a change here or in the measures alters any number.
NUMERICS = 4


def trace_log_gap(s: NDArray[np.float64], start: float) -> float:
    """SETOL's trace-log condition as a distance: 0 where it is met (Martin & Hinrichs, 2507.17912).

    With the eigenvalues λ = s² scaled to mean one, Σ log λ over the largest ones is first positive
    and falls to zero as more are taken in. The condition asks that the tail which the fitted power
    law starts is the one over which the sum vanishes; the gap is log λ of the first start less
    that of the second.

    Args:
        s: spectrum (k,), descending and positive.
        start: eigenvalue at which :func:`power_law_tail` starts.
    """
    eigenvalues = np.square(s) / np.square(s).mean()
    sums = np.cumsum(np.log(eigenvalues))
    inside = np.flatnonzero(sums >= 0)
    last = int(inside[-1]) if len(inside) else 0
    return math.log(start / np.square(s).mean() / eigenvalues[last])


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
    ``dominant_share`` is the share in the input's power.
    """
    second = moments.second
    powers = ((factors.right @ second) * factors.right).sum(1)
    values, vectors = torch.linalg.eigh(second)
    return {
        "bottom_power": float(powers[-1] / powers.median()),
        "bottom_overlap": float((factors.right[-1] @ vectors[:, -1]).square()),
        "dominant_share": float(values[-1] / values.sum()),
    }


def gradients(llm: PreTrainedModel, names: Sequence[str], batches: Sequence[Batch]) -> list[dict]:
    """How large a tensor's gradient is; the model is frozen, also afterwards.

    Returns:
        A row a tensor, with ``gradient``: ‖G‖‖W‖ with G the mean over the windows, the loss' change
        for a relative change along it.
    """
    count = sum(len(batch.targets) for batch in batches)
    parameters = dict(llm.named_parameters())
    chosen = [parameters[name] for name in names]
    sums = [torch.zeros(p.shape, dtype=torch.float64) for p in chosen]
    try:
        for parameter in chosen:
            parameter.requires_grad_(True)
        for batch in batches:
            losses = loss_of(log_probabilities(llm, batch), batch.targets)
            for number, loss in enumerate(losses):
                found = torch.autograd.grad(loss, chosen, retain_graph=number + 1 < len(losses))
                for total, gradient in zip(sums, found, strict=True):
                    total += gradient
    finally:
        for parameter in chosen:
            parameter.requires_grad_(False)
    rows = []
    for name, weight, total in zip(names, chosen, sums, strict=True):
        mean = math.sqrt(float((total / count).square().sum()))
        rows.append({"tensor": name, "gradient": mean * float(weight.detach().double().norm())})
    return rows


class Table:
    """The rows of a study's tensors; those that are finished lie in ``rows`` of its folder."""

    def __init__(self, study: Study, out: Path) -> None:
        self.study, self.out = study, out
        self._common = [NUMERICS, list(study.table["kappa"]), study.settings.seed]

    def path(self, windows: Sequence[Batch], *what: Any) -> Path:
        """The file of the rows that these decide, measured on these windows."""
        key = fingerprint([*self._common, *what, [batch.key for batch in windows]])
        return self.out / "rows" / f"{key}.json"

    def write(self) -> None:
        """Measure every tensor, and write ``tensors.csv`` and ``facts.json``."""
        found = self.measured().to_csv(index=False, float_format="%.6g")
        write_text(self.out / "tensors.csv", found)
        facts = {
            "settings": asdict(self.study.settings),
            "model": models.identity(self.study.settings.model),
            "texts": {kind: text_metadata()[kind]["sha256"] for kind in KINDS},
            "provenance": provenance.describe(),
        }
        write_json(self.out / "facts.json", facts)

    def measured(self) -> pd.DataFrame:
        """Predictors and information of every tensor, and its κ after surgery on all of them."""
        study, names = self.study, list(self.study.table["tensor"])
        read, windows = study.cases.inputs, study.cases.windows
        layers = sorted(int(number) for number in study.table["layer"].unique())
        paths = {n: self.path(read, "tensors", n) for n in layers}
        missing = [n for n, path in paths.items() if not path.is_file()]
        inputs = [batch.inputs for batch in read]
        walk = input_moments(study.llm, inputs, missing) if missing else ()
        for number, moments in Progress("information", len(missing), items=walk):
            write_json(paths[number], self._layer(number, moments))
        found = pd.DataFrame([row for path in paths.values() for row in read_json(path)])
        table = with_volume(study.table).rename(columns={"volume_lost": "volume_loss"})
        table = table.merge(found, on="tensor", validate="one_to_one")
        if study.llm.config.model_type in gauge.MODELS:
            table["invariant_kappa"] = table["tensor"].map(invariant_kappa(study.llm))
        if not (path := self.path([], "reversed")).is_file():
            write_json(path, self._after_surgery())
        table["kappa_reversed"] = table["tensor"].map(read_json(path))
        if not (path := self.path(windows, "gradients")).is_file():
            write_json(path, gradients(study.llm, names, windows))
        return table.merge(pd.DataFrame(read_json(path)), on="tensor")

    def _after_surgery(self) -> dict[str, float]:
        """κ of every tensor as stored after surgery on all of them; measured, not presumed."""
        study = self.study
        changed = {w: study.changed(name, "surgery").float() for name, w in study.weights.items()}
        with damage.replaced(changed):
            return scan(study.llm).set_index("tensor")["kappa"].to_dict()

    def _layer(self, number: int, moments: dict[str, Moments]) -> list[dict]:
        """The rows of a layer's tensors, whose inputs have these moments."""
        study, found, config = self.study, [], self.study.llm.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        # Tensors with the same input share one object of moments, and its root.
        root = cache(lambda given: information.root_of_covariance(given.covariance))
        for row in study.table[study.table["layer"] == number].itertuples():
            weight = study.weights[row.tensor]
            given = moments[row.tensor.partition(f"layers.{number}.")[2].removesuffix(".weight")]
            factors = Factors.of(weight)
            sigma = factors.sigma.numpy()
            real = information.output_spectrum(weight, root(given))
            points = information.principal_samples(weight, given.sample, seed=row.Index)
            alpha, start = power_law_tail(sigma)
            found.append(
                {
                    "tensor": row.tensor,
                    "input_kappa": information.input_kappa(real),
                    "deficit": information.information_deficit(real),
                    "deficit_isotropic": information.information_deficit(sigma),
                    **information.sample_entropies(points),
                    "alpha": alpha,
                    "trace_log_gap": trace_log_gap(sigma, start),
                    "head_kappa": head_kappa(weight, row.type, width),
                    **input_predictors(factors, given),
                }
            )
        return found


def main() -> None:
    """The command line: the model, and where its table goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default=Settings.model, help="as in a profile")
    options = parser.parse_args()
    Table(Study(Settings(model=options.model)), options.out).write()


if __name__ == "__main__":
    main()
