"""κ table → named tensors to train, kept in files, also in the formats of other training tools.

Candidates are the matrices inside of layers that can be adapted. The paper trains 100 of 224; an
arm here takes the same share of whatever the model has.
"""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kappa_lib.errors import InputError, first_line
from kappa_lib.files import fingerprint, write_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.spectra import adapters, arms, gauge
from kappa_lib.spectra.scan import scan
from kappa_lib.weights import models

PAPER_SHARE = 100 / 224


@dataclass(frozen=True)
class Selection:
    """The tensors that one arm trains."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    arm: str  #: short name
    rule: str  #: what was done, in words
    seed: int  #: of the random draw; ignored by the rules that draw nothing
    tensors: list[str]  #: names in the κ table, sorted
    parameters: int  #: numbers in these tensors
    table_hash: str  #: fingerprint of the κ table's tensors, shapes and κ

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Selection":
        """Read what :meth:`save` wrote; InputError where there is nothing or something else."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except (OSError, ValidationError) as error:
            what = f"{path}: not a selection: {first_line(error)}"
            raise InputError(what, "run notebook 03, `kappa train` or `kappa select`") from error

    def check(self, available: set[str]) -> None:
        """Refuse, with an InputError, to train a tensor which the model does not have."""
        if unknown := sorted(set(self.tensors) - available):
            what = f"selection {self.arm!r}: the model has no {unknown[0]}"
            raise InputError(what, "scan and select on the model that is trained")

    def peft_targets(self) -> dict[str, list[str]]:
        """Keyword arguments for ``LoraConfig``, see :func:`kappa_lib.spectra.adapters.targets`.

        Raises:
            InputError: the selection holds no tensor, or one that is no whole parameter.
        """
        if not self.tensors:
            raise InputError(f"{self.arm}: no tensor to name", "it is an arm for `kappa train`")
        for name in self.tensors:
            if re.match(r"(?:\w+\.)?blk\.", name) or name.endswith("]"):
                what = f"{name}: no name that PEFT and Axolotl know, but of GGUF or in a stack"
                raise InputError(what, "use the JSON, or scan the model's safetensors")
        return adapters.targets(self.tensors)

    def export(self, folder: Path) -> list[Path]:
        """Write ``<arm>.peft.json`` and ``<arm>.axolotl.yaml``, or nothing if it fails.

        The second is what Spectrum writes and Axolotl reads: regular expressions, each of which
        matches one tensor. Errors are those of :meth:`peft_targets`.
        """
        targets = self.peft_targets()
        patterns = {"unfrozen_parameters": [f"^{re.escape(name)}$" for name in self.tensors]}
        paths = [folder / f"{self.arm}.{end}" for end in ("peft.json", "axolotl.yaml")]
        write_json(paths[0], targets)
        write_text(paths[1], yaml.safe_dump(patterns, width=1000))
        return paths


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows to choose from: inside of layers and, where the scan could try it, adapted by PEFT."""
    refused = table["tensor"].isin(table.attrs.get("not_adapted", {}))
    return table[table["layer"].notna() & ~refused]


def count_for(table: pd.DataFrame, share: float = PAPER_SHARE) -> int:
    """How many tensors a share of the candidates is, rounded; InputError outside of (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(f"{share} is no share of the matrices", "give one in (0, 1]")
    return round(share * len(candidates(table)))


def select(
    table: pd.DataFrame,
    arm: str = "selected",
    count: int | None = None,
    seed: int = 0,
    *,
    share: float = PAPER_SHARE,
) -> Selection:
    """Choose the tensors of one arm.

    Args:
        table: κ table.
        arm: one of ``arms.ARMS``.
        count: how many tensors, by default the ``share`` of all candidates; ignored by the arms
            that name modules, ``…_of_neighbours`` and ``adaptor_only``; ``random_`` and
            ``inverse_matched_size`` use it for the size of ``selected``.
        seed: of a random draw.
        share: in (0, 1].

    Raises:
        InputError: unknown arm, impossible count, or no match in size.
    """
    if arm not in arms.ARMS:
        raise InputError(f"there is no arm {arm!r}", f"use one of {', '.join(arms.ARMS)}")
    if not {"tensor", "kappa"} <= set(getattr(table, "columns", ())):
        raise InputError(f"{type(table).__name__} is no κ table", "give what scan returns")
    pool = candidates(table)
    if pool.empty:
        refused = table.attrs.get("not_adapted", {}).items()
        why = next((f"; {name}: {why}" for name, why in refused), "")
        what = f"none of {len(table)} matrices is inside of a layer and can be adapted{why}"
        raise InputError(what, "scan the folder of a whole model, whose layers have numbers")
    count = count_for(table, share) if count is None else count
    if not 0 < count <= len(pool) or count % 1:
        what = f"{count} tensors can't be selected from {len(pool)}"
        raise InputError(what, f"give a whole count from 1 to {len(pool)}, or a share of them")
    words, rule = arms.ARMS[arm]
    chosen = rule(pool, count, np.random.default_rng(seed))
    if chosen.empty and arm != "adaptor_only":
        raise InputError(f"arm {arm!r}: no tensor of this model fits", "choose another arm")
    origin = fingerprint(table[["tensor", "rows", "cols", "kappa"]].values.tolist())
    tensors, size = sorted(chosen["tensor"]), arms.parameters(chosen)
    return Selection(arm, words, seed, tensors, size, origin)


def as_lora(
    table: pd.DataFrame, chosen: Selection, rank: int, everywhere: bool = True
) -> Selection:
    """A selection as LoRA trains it, with as many parameters as ``rank`` has on every candidate.

    Arms of a few matrices get a higher rank; the nearest whole one, so sizes differ a little. With
    ``everywhere`` false ``rank`` is that of LoRA on the selection itself. LoRA on a matrix of m × n
    has rank · (m + n) parameters (Hu et al. 2022, section 4.1).
    """
    lengths = candidates(table).set_index("tensor")[["rows", "cols"]].sum(axis=1)
    own = int(lengths[chosen.tensors].sum())
    found = max(1, round(rank * int(lengths.sum()) / own)) if everywhere else rank
    return replace(chosen, rule=f"{chosen.rule}; LoRA of rank {found}", parameters=found * own)


def picked_by_shape(table: pd.DataFrame, chosen: Selection) -> float:
    """How many tensors of ``selected`` or ``inverse`` the null of the shape alone would pick too:
    the expected number, for tensors of one shape are tied, and a tie is drawn at random."""
    pool = candidates(table).assign(chosen=lambda t: t["tensor"].isin(set(chosen.tensors)))
    groups = pool.groupby("kappa_mp", sort=True)["chosen"].agg(["sum", "size"])
    ordered = groups if chosen.arm == "selected" else groups[::-1]
    before = ordered["size"].cumsum() - ordered["size"]
    taken = (len(chosen.tensors) - before).clip(0, ordered["size"])
    return float((ordered["sum"] * taken / ordered["size"]).sum())


def path_of(profile: Profile, arm: str, seed: int | None = None) -> Path:
    """File of what a run trains; of an arm in ``DRAWN`` one for each seed, by default the first."""
    drawn = profile.rule(arm) in arms.DRAWN
    name = f"{arm}-seed{profile.seeds[0] if seed is None else seed}" if drawn else arm
    return profile.folder / "selections" / f"{name}.json"


def of_run(profile: Profile, arm: str, seed: int | None = None) -> Selection:
    """What a run of an arm trains, see :func:`path_of`; InputError if it has not been made yet."""
    return Selection.load(path_of(profile, arm, seed))


def select_stage(profile: Profile, table: pd.DataFrame) -> dict[str, Selection]:
    """Arm → selection, of a drawn arm that of the profile's first seed; each is written to its file
    of :func:`path_of`.

    An arm that is drawn is drawn anew for each seed of a run, so that its spread over the seeds
    holds that of the draw. An arm that flips the model's gauge is selected by κ of the flipped
    model.
    """
    count = count_for(table, profile.share)
    for arm in profile.arms:
        ranked = table
        if arm in profile.gauge and profile.gauge[arm].flip:
            llm, _ = models.load(profile.model)
            gauge.flip(llm)
            ranked = scan(llm)
        for seed in profile.seeds if profile.rule(arm) in arms.DRAWN else [0]:
            chosen = select(ranked, profile.rule(arm), count, profile.seed + seed)
            if arm in profile.lora:
                chosen = as_lora(table, chosen, profile.lora[arm].rank, everywhere=False)
            elif profile.lora_rank:
                chosen = as_lora(table, chosen, profile.lora_rank)
            replace(chosen, arm=arm).save(path_of(profile, arm, seed))
    return {arm: of_run(profile, arm) for arm in profile.arms}
