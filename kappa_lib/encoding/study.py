"""Every tensor of a model: predictors, information on real text, damage, κ surgery.

``python -m kappa_lib.encoding.study --out results/encoding`` computes all of it; killed, the same
command goes on. It leaves ``tensors.csv`` (a row a tensor), ``damage.csv`` (tensor × change ×
text), ``surgery.csv`` (scope × change × window) and ``facts.json``.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kappa_lib import provenance
from kappa_lib.encoding import damage, information, predictors
from kappa_lib.encoding.covariance import Moments, input_moments
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint, replacing, whole_lines, write_json
from kappa_lib.progress import Stages
from kappa_lib.spectra.scan import scan
from kappa_lib.text import about, carried
from kappa_lib.training import texts
from kappa_lib.weights import models

# Raise when a change here or in the measures alters any number.
NUMERICS = 1
FLOATS = "%.6g"
PARTS = ("tensors", "surgery", "damage")
_CONTROLS = damage.SURGERIES[1:]
DAMAGE_PARTS = (tuple(name for name in damage.CHANGES if name not in _CONTROLS), _CONTROLS)
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """How much is measured; the defaults are those of the committed results.

    Args:
        model: a profile's ``model``.
        input_windows, input_length: windows a text for the input covariance, and their tokens.
        blocks: how often the damage of every tensor is measured, each time on another window of
            every text; two blocks say how far the ranks can be relied on.
        length: predicted tokens of such a window; short, since 1,890 changes are measured on it.
        surgery_windows, surgery_length: windows a text for surgery on whole types.
        layers: which layers; all if None.
        types: which module types; all if None.
        seed: of everything drawn.
    """

    model: str = models.DEFAULT
    input_windows: int = 11
    input_length: int = 256
    blocks: int = 2
    length: int = 48
    surgery_windows: int = 6
    surgery_length: int = 128
    layers: tuple[int, ...] | None = None
    types: tuple[str, ...] | None = None
    seed: int = 0


class Rows:
    """Finished rows by key, appended to a file as they come, so that a killed run goes on."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in whole_lines(path, mend=True):
            key, rows = json.loads(line)
            self._found[key] = rows

    def get(self, key: str, compute: Callable[[], list[dict]]) -> list[dict]:
        """The rows kept under ``key``, computed and appended where there are none."""
        if key not in self._found:
            self._found[key] = compute()
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, self._found[key]]) + "\n")
        return self._found[key]

    def __contains__(self, key: str) -> bool:
        return key in self._found


class Study:
    """The measurements of one model, tensor by tensor.

    Args:
        settings: what to measure.
        out: folder of the results and of ``rows.jsonl``, from which a killed run goes on.
        llm: the model, where it is not to be loaded by its name.
        tokenizer: its tokenizer.
        progress: told (stage, done, total).
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        llm: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        progress: Report | None = None,
    ) -> None:
        self.settings, self.out, self.say = settings, out, progress or (lambda *_: None)
        if llm is None or tokenizer is None:
            llm, tokenizer = models.load(settings.model)
        self.llm = llm
        self.ids = {
            kind: torch.tensor(tokenizer(carried(kind), add_special_tokens=False)["input_ids"])
            for kind in texts.KINDS
        }
        self.weights = dict(llm.named_parameters())
        self.table = predictors.table_of(llm)
        self.chosen = self._chosen()
        self.kappas = dict(zip(self.table["tensor"], self.table["kappa"], strict=True))
        self.goal = damage.reversed_kappas(self.kappas)
        self.rows = Rows(out / "rows.jsonl")
        self._common = [NUMERICS, self.table["kappa"].tolist(), settings.seed]

    def _chosen(self) -> pd.DataFrame:
        layers, types = self.settings.layers, self.settings.types
        rows = self.table
        rows = rows[rows["layer"].isin(rows["layer"] if layers is None else layers)]
        rows = rows[rows["type"].isin(rows["type"] if types is None else types)]
        if rows.empty:
            raise InputError(f"no tensor of layers {layers} and types {types}", "name others")
        return rows

    def _key(self, *parts: Any) -> str:
        return fingerprint([*self._common, *parts])

    def windows(self, start: int, count: int, length: int) -> Tensor:
        """(texts × count, length) ids: of each text ``count`` windows from token ``start`` on.

        Raises:
            InputError: a text that is too short.
        """
        parts = []
        for name, ids in self.ids.items():
            part = ids[start : start + count * length]
            if len(part) < count * length:
                raise InputError(f"the text {name} has {len(ids)} tokens", "ask for fewer windows")
            parts.append(part.reshape(count, length))
        return torch.cat(parts)

    def input_text(self) -> Tensor:
        """Windows for the input covariance: the beginning of every text."""
        return self.windows(0, self.settings.input_windows, self.settings.input_length)

    def block(self, number: int) -> Tensor:
        """One window of every text for damage; behind those of the covariance."""
        start = self.settings.input_windows * self.settings.input_length
        length = self.settings.length + 1
        return self.windows(start + number * length, 1, length)

    def surgery_text(self) -> Tensor:
        """Windows for surgery; behind those of damage."""
        start = self.settings.input_windows * self.settings.input_length
        start += self.settings.blocks * (self.settings.length + 1)
        return self.windows(start, self.settings.surgery_windows, self.settings.surgery_length + 1)

    # ── a row a tensor ───────────────────────────────────────────────────────

    def tensors(self) -> pd.DataFrame:
        """Predictors and information of every chosen tensor."""
        text = self.input_text()
        layers = sorted(int(number) for number in self.chosen["layer"].unique())
        keys = {n: self._key("tensors", n, text.tolist(), self.settings.types) for n in layers}
        missing = [n for n in layers if keys[n] not in self.rows]
        self.say("information", len(layers) - len(missing), len(layers))
        walk = input_moments(self.llm, text, missing) if missing else iter(())
        for done, (number, moments) in enumerate(walk, len(layers) - len(missing) + 1):
            self.rows.get(keys[number], lambda n=number, m=moments: self._layer_rows(n, m))
            self.say("information", done, len(layers))
        found = [row for n in layers for row in self.rows.get(keys[n], list)]
        gradients = predictors.gradient_norms(
            self.llm, {name: self.weights[name] for name in self.chosen["tensor"]}, self.block(0)
        )
        table = self.chosen.merge(pd.DataFrame(found), on="tensor", validate="one_to_one")
        return table.assign(
            gradient=table["tensor"].map(gradients),
            kappa_goal=table["tensor"].map(self.goal),
            kappa_reversed=table["tensor"].map(self._kappas_after_surgery()),
        )

    def _layer_rows(self, number: int, moments: dict[str, Moments]) -> list[dict]:
        roots: dict[int, Tensor] = {}
        found = []
        for row in self.chosen[self.chosen["layer"] == number].itertuples():
            weight = self.weights[row.tensor]
            path = row.tensor.partition(f"layers.{number}.")[2].removesuffix(".weight")
            given = moments[path]
            if id(given) not in roots:
                roots[id(given)] = information.root_of_covariance(given.covariance)
            factors = damage.Factors.of(weight)
            heads = getattr(self.llm.config, "head_dim", None)
            found.append(
                {
                    "tensor": row.tensor,
                    **tensor_information(weight, factors, roots[id(given)], given, row.Index),
                    **predictors.spectral_predictors(factors, weight, row.type, heads),
                    **predictors.input_predictors(factors, given),
                }
            )
        return found

    def _kappas_after_surgery(self) -> dict[str, float]:
        """κ of every tensor as stored after surgery on all of them; measured, not presumed."""

        def compute() -> list[dict]:
            with damage.replaced(self._changed("surgery", self.table["tensor"])):
                after = scan(self.llm)
            return [dict(zip(after["tensor"], after["kappa"], strict=True))]

        return self.rows.get(self._key("reversed"), compute)[0]

    # ── a tensor at a time ───────────────────────────────────────────────────

    def damages(self, blocks: int) -> pd.DataFrame:
        """Loss and KL of every change of every chosen tensor, a row a text and block."""
        # Layers in strides, so that a run that was stopped has seen all depths and types; the
        # controls of single surgeries last.
        tensors = sorted(self.chosen.itertuples(), key=lambda row: (row.layer % 6, row.layer))
        order = [(row, part) for part in DAMAGE_PARTS for row in tensors]
        found: list[dict] = []
        for number in range(blocks):
            text = self.block(number)
            reference: damage.Reference | None = None
            for done, (row, part) in enumerate(order):
                key = self._key("damage", row.tensor, part, text.tolist())
                if key not in self.rows and reference is None:
                    reference = damage.Reference(self.llm, text)
                found += self.rows.get(
                    key,
                    lambda r=row, p=part, ref=reference, n=number: self._damage_rows(r, p, ref, n),
                )
                self.say(f"damage, block {number}", done + 1, len(order))
        return pd.DataFrame(found)

    def _damage_rows(
        self, row: Any, changes: Sequence[str], reference: damage.Reference, block: int
    ) -> list[dict]:
        weight = self.weights[row.tensor]
        factors = damage.Factors.of(weight)
        found = []
        for name in changes:
            change = damage.CHANGES[name]
            changed = change(factors, self.generator(row.tensor, name), self.goal[row.tensor])
            with damage.replaced({weight: changed}):
                losses, divergences = reference.compare(int(row.layer))
            size = damage.relative_size(weight, changed)
            common = {"tensor": row.tensor, "change": name, "block": block, "size": size}
            found += [
                {**common, "text": text, "loss": loss, "kl": kl}
                for text, loss, kl in zip(
                    self.ids, losses.tolist(), divergences.tolist(), strict=True
                )
            ]
        return found

    def generator(self, tensor: str, change: str) -> torch.Generator:
        number = int(fingerprint([self.settings.seed, tensor, change])[:12], 16)
        return torch.Generator().manual_seed(number)

    def _changed(self, change: str, names: pd.Series) -> dict[nn.Parameter, Tensor]:
        """Every named tensor after one change, fp32."""
        changed = {}
        for name in names:
            weight, generator = self.weights[name], self.generator(name, change)
            factors = damage.Factors.of(weight)
            matrix = damage.CHANGES[change](factors, generator, self.goal[name])
            changed[weight] = matrix.to(weight.dtype)
        return changed

    # ── many tensors at a time ───────────────────────────────────────────────

    def surgeries(self) -> pd.DataFrame:
        """κ surgery and its two controls on whole types and on everything, a row a window."""
        text, found = self.surgery_text(), []
        labels = [name for name in self.ids for _ in range(self.settings.surgery_windows)]
        scopes = list(self._scopes())
        total = len(scopes) * len(damage.SURGERIES)
        for part, place in zip(text.split(8), range(0, len(text), 8), strict=True):
            reference: damage.Reference | None = None
            for done, (scope, change, names) in enumerate(
                (scope, change, names) for scope, names in scopes for change in damage.SURGERIES
            ):
                key = self._key("surgery", scope, change, part.tolist())
                if key not in self.rows and reference is None:
                    reference = damage.Reference(self.llm, part)
                rows = self.rows.get(
                    key, lambda c=change, n=names, r=reference: self._surgery_rows(c, n, r)
                )
                common = {"scope": scope, "change": change}
                found += [
                    {**common, "text": labels[place + i], "window": place + i, **row}
                    for i, row in enumerate(rows)
                ]
                self.say(f"surgery, windows from {place}", done + 1, total)
        return pd.DataFrame(found)

    def _scopes(self) -> Iterator[tuple[str, pd.Series]]:
        for kind, rows in self.chosen.groupby("type", sort=False):
            yield kind, rows["tensor"]
        if self.chosen["type"].nunique() > 1:
            yield "all", self.chosen["tensor"]

    def _surgery_rows(
        self, change: str, names: pd.Series, reference: damage.Reference
    ) -> list[dict]:
        first = int(self.chosen["layer"].min())
        with damage.replaced(self._changed(change, names)):
            losses, divergences = reference.compare(first)
        rows = zip(losses.tolist(), divergences.tolist(), reference.loss.tolist(), strict=True)
        return [{"loss": loss, "kl": kl, "base": base} for loss, kl, base in rows]

    def run(self, parts: Sequence[str] = PARTS) -> None:
        """Measure and write the named parts of the results; each table as soon as it is whole."""
        measures = {"tensors": [self.tensors], "surgery": [self.surgeries]}
        blocks = range(1, self.settings.blocks + 1)
        measures["damage"] = [partial(self.damages, count) for count in blocks]
        for name in parts:
            for measure in measures[name]:
                with replacing(self.out / f"{name}.csv") as temporary:
                    measure().to_csv(temporary, index=False, float_format=FLOATS)
        facts = {
            "settings": asdict(self.settings),
            "model": models.identity(self.settings.model),
            "texts": {kind: about()[kind]["sha256"] for kind in texts.KINDS},
            "provenance": provenance.describe(),
        }
        write_json(self.out / "facts.json", facts)


def tensor_information(
    weight: Tensor, factors: damage.Factors, root: Tensor, given: Moments, seed: int
) -> dict[str, float]:
    """Entropies and information of one tensor's output, see :mod:`kappa_lib.encoding.information`.

    Args:
        weight: W, (m, n).
        factors: of W.
        root: Σ_X^½, (n, n).
        given: moments of the tensor's input.
        seed: of the observation noise of the samples.
    """
    real, isotropic = information.output_spectrum(weight, root), factors.sigma.numpy()
    return {
        "input_kappa": information.input_kappa(real),
        "output_entropy": information.gaussian_output_entropy(real, len(weight)),
        "information": information.gaussian_information(real),
        "information_isotropic": information.gaussian_information(isotropic),
        "deficit": information.information_deficit(real),
        "deficit_isotropic": information.information_deficit(isotropic),
        "deficit_10_db": information.information_deficit(real, 0.1),
        "deficit_30_db": information.information_deficit(real, 0.001),
        "participation": information.participation_ratio(real**2),
        "rank_me": information.rank_me(real),
        **information.sample_entropies(information.principal_samples(weight, given.sample, seed)),
    }


def main() -> None:
    """The command line: every setting of :class:`Settings` that a person would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--blocks", type=int, default=Settings.blocks)
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--types", nargs="*")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="default: all")
    options = vars(parser.parse_args())
    out, parts = options.pop("out"), options.pop("only")
    for name in ("layers", "types"):
        options[name] = tuple(options[name]) if options[name] else None
    Study(Settings(**options), out, progress=Stages()).run(parts)


if __name__ == "__main__":
    main()
