"""Every tensor of a model: what can be read off it, and its information on real input.

``python -m kappa_lib.encoding.study --only tensors --model MODEL --out FOLDER`` writes it as
``tensors.csv`` beside ``facts.json``; killed, the same command goes on. What damage, surgery and
noise cost every tensor is in the committed results alone, whose ``facts.json`` names the commits
that measured it; notebook 7 measures it again of single tensors.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kappa_lib import provenance
from kappa_lib.encoding import damage, information, predictors
from kappa_lib.encoding.damage import CHANGES, Batch, Factors
from kappa_lib.encoding.information import Moments, input_moments
from kappa_lib.encoding.predictors import gradients, invariant_kappa
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint, read_json, write_json, write_text
from kappa_lib.progress import track
from kappa_lib.spectra import gauge
from kappa_lib.spectra.kappa_table import volume_loss
from kappa_lib.spectra.scan import scan
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.training.evaluation import KINDS
from kappa_lib.weights import models

# Raise when a change here or in the measures alters any number.
NUMERICS = 4


@dataclass(frozen=True)
class Settings:
    """What a study measures, and on how many windows of every text.

    The defaults are those of the committed results.
    """

    input_windows: int = 11
    input_length: int = 256
    blocks: int = 2  # of windows for changes of single tensors
    length: int = 48
    model: str = models.DEFAULT  # as in a profile
    seed: int = 0


@dataclass(frozen=True)
class Cases:
    """The windows of a study, none of them in two places."""

    inputs: list[Batch]  # for moments
    blocks: list[list[Batch]]  # for changes of single tensors, each with a window of every text

    @property
    def two_blocks(self) -> list[Batch]:
        """The windows of the first two blocks, for noise and gradients."""
        return [batch for block in self.blocks[:2] for batch in block]


def of_texts(tokenizer: PreTrainedTokenizerBase, sizes: Settings) -> Cases:
    """Cases from the pinned texts: moments from the beginnings, then the blocks.

    Every window starts with the token that the tokenizer begins texts with, if it has one.
    InputError where a text is too short.
    """
    begin, width = tokenizer("")["input_ids"], sizes.length + 1
    head = sizes.input_windows * sizes.input_length
    end = head + sizes.blocks * width
    read, middle = [], []
    for kind in KINDS:
        ids = torch.tensor(tokenizer(bundled_text(kind), add_special_tokens=False)["input_ids"])
        if len(ids) < end:
            raise InputError(f"the text {kind} has {len(ids)} tokens", "ask for fewer windows")
        read.append(ids[:head].reshape(-1, sizes.input_length))
        middle.append(ids[head:end].reshape(-1, width))

    def batches(windows: list[Tensor], given: int | None = -1) -> list[Batch]:
        labels = [k for k, part in zip(KINDS, windows, strict=True) for _ in part]
        every = torch.cat(windows)
        inputs = torch.cat([torch.tensor(begin).long().expand(len(every), -1), every], dim=1)
        return [
            Batch({"input_ids": inputs[i : i + 8, :given]}, every[i : i + 8, 1:], labels[i : i + 8])
            for i in range(0, len(every), 8)
        ]

    blocks = [batches([part[n : n + 1] for part in middle]) for n in range(sizes.blocks)]
    return Cases(batches(read, None), blocks)


class Study:
    """A model's tensors, the windows they are measured on, and the rows that are finished.

    ``out`` is the folder of the results and of ``rows``, from which a killed run goes on.
    """

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.llm, tokenizer = models.load(settings.model)
        self.cases = of_texts(tokenizer, settings)
        self.weights = dict(self.llm.named_parameters())
        table = scan(self.llm).dropna(subset=["layer"]).reset_index(drop=True)
        self.table = table.assign(
            effective_rank_share=table["effective_rank"] / table[["rows", "cols"]].min(axis=1),
            volume_loss=volume_loss(table),
        )
        kappas = dict(zip(table["tensor"], table["kappa"], strict=True))
        self.goal = damage.reversed_kappas(kappas)
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

    def changed(self, tensor: str, change: str) -> Tensor:
        """A tensor after a change, (m, n) float64."""
        number = int(fingerprint([self.settings.seed, tensor, change])[:12], 16)
        generator = torch.Generator().manual_seed(number)
        return CHANGES[change](Factors.of(self.weights[tensor]), generator, self.goal[tensor])

    def run(self) -> None:
        """Measure every tensor, and write ``tensors.csv`` and ``facts.json``."""
        found = self.tensors().to_csv(index=False, float_format="%.6g")
        write_text(self.out / "tensors.csv", found)
        facts = {
            "settings": asdict(self.settings),
            "model": models.identity(self.settings.model),
            "texts": {kind: text_metadata()[kind]["sha256"] for kind in KINDS},
            "provenance": provenance.describe(),
        }
        write_json(self.out / "facts.json", facts)

    def tensors(self) -> pd.DataFrame:
        """Predictors and information of every tensor, and its κ after surgery on all of them."""
        read, two_blocks = self.cases.inputs, self.cases.two_blocks
        names = list(self.table["tensor"])
        layers = sorted(int(number) for number in self.table["layer"].unique())
        keys = {n: self.key("tensors", n, read) for n in layers}
        missing = [n for n in layers if not self.path(keys[n]).is_file()]
        walk = input_moments(self.llm, [batch.inputs for batch in read], missing) if missing else ()
        for number, moments in track(walk, "information", len(missing)):
            self.kept(keys[number], partial(self._layer, number, moments))
        found = pd.DataFrame([row for n in layers for row in self.kept(keys[n], list)])
        table = self.table.merge(found, on="tensor", validate="one_to_one")
        if self.llm.config.model_type in gauge.MODELS:
            table["invariant_kappa"] = table["tensor"].map(invariant_kappa(self.llm))
        table["kappa_goal"] = table["tensor"].map(self.goal)
        (after,) = self.kept(self.key("reversed", []), self._after_surgery)
        table["kappa_reversed"] = table["tensor"].map(after)
        key = self.key("gradients", names, two_blocks)
        slopes = pd.DataFrame(self.kept(key, lambda: gradients(self.llm, names, two_blocks)))
        return table.merge(slopes[["tensor", "gradient"]], on="tensor")

    def _after_surgery(self) -> list[dict]:
        """κ of every tensor as stored after surgery on all of them; measured, not presumed."""
        names = self.table["tensor"]
        changed = {self.weights[name]: self.changed(name, "surgery").float() for name in names}
        with damage.replaced(changed):
            after = scan(self.llm)
        return [dict(zip(after["tensor"], after["kappa"], strict=True))]

    def _layer(self, number: int, moments: dict[str, Moments]) -> list[dict]:
        """The rows of a layer's tensors, whose inputs have these moments."""
        found, config = [], self.llm.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        # Tensors with the same input share one object of moments, and its root.
        root = cache(lambda given: information.root_of_covariance(given.covariance))
        for row in self.table[self.table["layer"] == number].itertuples():
            weight = self.weights[row.tensor]
            given = moments[row.tensor.partition(f"layers.{number}.")[2].removesuffix(".weight")]
            factors = Factors.of(weight)
            sigma = factors.sigma.numpy()
            real = information.output_spectrum(weight, root(given))
            points = information.principal_samples(weight, given.sample, seed=row.Index)
            alpha, start = predictors.power_law_tail(sigma)
            found.append(
                {
                    "tensor": row.tensor,
                    "input_kappa": information.input_kappa(real),
                    "deficit": information.information_deficit(real),
                    "deficit_isotropic": information.information_deficit(sigma),
                    **information.sample_entropies(points),
                    "alpha": alpha,
                    "trace_log_gap": predictors.trace_log_gap(sigma, start),
                    "head_kappa": predictors.head_kappa(weight, row.type, width),
                    **predictors.input_predictors(factors, given),
                }
            )
        return found


def main() -> None:
    """The command line: the model, and where its table goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default=Settings.model, help="as in a profile")
    parser.add_argument("--only", choices=["tensors"], help="the one part that there is")
    options = parser.parse_args()
    Study(Settings(model=options.model), options.out).run()


if __name__ == "__main__":
    main()
