"""κ table → named tensors to train, kept in files, also in the formats of other training tools.

Candidates are the matrices inside decoder layers. The paper trains 100 of 224; an arm here
takes the same share of whatever the model has.
"""

import re
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from kappa_lib import distributed
from kappa_lib.errors import InputError
from kappa_lib.files import Stage, fits, read_json, write_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.spectra import arms, kappa_table
from kappa_lib.text import counted
from kappa_lib.weights.renaming import loaded_names

PAPER_SHARE = 100 / 224


@dataclass(frozen=True)
class Selection:
    """The tensors that one arm trains.

    Attributes:
        arm: short name.
        rule: what was done, in words.
        seed: of the random draw; ignored by the rules that draw nothing.
        tensors: names in the κ table, sorted; those that are stored where files were scanned.
        parameters: numbers in these tensors.
        table_hash: :func:`kappa_lib.spectra.kappa_table.digest` of the table.
    """

    arm: str
    rule: str
    seed: int
    tensors: list[str]
    parameters: int
    table_hash: str

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Selection":
        """Read what :meth:`save` wrote; InputError where there is nothing or something else."""
        kinds = {item.name: item.type for item in fields(cls)}
        try:
            found = read_json(path, dict[str, object])
        except (OSError, InputError) as error:
            raise InputError(f"{path}: not a selection", "run `kappa select` again") from error
        wrong = [name for name in kinds if not fits(found.get(name), kinds[name])]
        if wrong or set(found) != set(kinds):
            why = ", ".join(wrong) or "additional keys"
            raise InputError(f"{path}: not a selection, for its {why}", "run `kappa select` again")
        return cls(**found)

    def check(self, available: set[str]) -> None:
        """Refuse, with an InputError, to train a tensor which the model does not have."""
        unknown = sorted(set(self.tensors) - available)
        if unknown:
            raise InputError(
                f"selection {self.arm!r}: {len(unknown)} of {counted(len(self.tensors), 'tensor')}"
                f" not in the model, {unknown[0]} among them",
                "scan and select on the model that is trained",
            )

    def peft_targets(self) -> dict[str, list[str]]:
        """Keyword arguments for a PEFT configuration such as ``LoraConfig(**targets)``.

        Whole module names in ``target_modules``; parameters that are no module's ``weight``
        (fused experts) in ``target_parameters``, which PEFT has since 0.17.

        Raises:
            InputError: the selection holds no tensor, names of GGUF's, or single experts.
        """
        tensors = self._whole_tensors()
        modules = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
        parameters = [name for name in tensors if not name.endswith(".weight")]
        targets = {"target_modules": modules}
        return {**targets, "target_parameters": parameters} if parameters else targets

    def unfrozen_parameters(self) -> str:
        """YAML with ``unfrozen_parameters``, as Spectrum writes it and Axolotl reads it.

        Axolotl takes the entries as regular expressions; each is anchored and escaped, so that it
        matches its one tensor. Errors as for PEFT.
        """
        patterns = [f"^{re.escape(name)}$" for name in self._whole_tensors()]
        return yaml.safe_dump({"unfrozen_parameters": patterns}, width=1000)

    def as_loaded(self, table: pd.DataFrame) -> "Selection":
        """The same tensors under the names that they have in the model that transformers loads.

        Args:
            table: κ table from which they were selected; its ``attrs`` hold the configuration.

        Raises:
            InputError: see :meth:`peft_targets` and
                :func:`kappa_lib.weights.renaming.loaded_names`, which says when nothing is checked.
        """
        names = loaded_names(self._whole_tensors(), str(table.attrs.get("config", "")))
        return replace(self, tensors=sorted(names))

    def _whole_tensors(self) -> list[str]:
        if not self.tensors:
            raise InputError(f"{self.arm}: no tensor to name", "it is an arm for `kappa train`")
        for name in self.tensors:
            if name.startswith("blk."):
                raise InputError(
                    f"{name}: a name that only GGUF has, by which PEFT and Axolotl find nothing",
                    "use the selection's JSON, which is there, or scan the model's safetensors",
                )
            # Stored one by one, experts are fused by transformers as it loads them.
            if re.search(r"\[\d+\]$|\.experts\.\d+\.", name):
                every = re.sub(r"\.\d+\.", ".*.", name.partition("[")[0])
                every = "*.experts.*" if ".experts." in name else every
                raise InputError(
                    f"{name}: one of the experts that transformers holds as one tensor, which PEFT"
                    " and Axolotl can't name",
                    "use the selection's JSON, which is there, or leave the experts out of the"
                    f" scan with --exclude '{every}'",
                )
        return self.tensors

    def export(self, folder: Path, table: pd.DataFrame) -> list[Path]:
        """Write ``<arm>.peft.json`` and ``<arm>.axolotl.yaml``; return their paths.

        Arguments, names and errors are those of :meth:`as_loaded`; nothing is written if it fails.
        """
        loaded = self.as_loaded(table)
        paths = [folder / f"{self.arm}{end}" for end in (".peft.json", ".axolotl.yaml")]
        write_json(paths[0], loaded.peft_targets())
        write_text(paths[1], loaded.unfrozen_parameters())
        return paths


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows inside decoder layers, in the table's order: what a selection may choose from."""
    return table[table["layer"].notna()]


def count_for(table: pd.DataFrame, share: float = PAPER_SHARE) -> int:
    """How many tensors a share of the candidates is, rounded; InputError outside of (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(f"{share} is no share of the matrices", "give one in (0, 1]")
    return round(share * len(candidates(table)))


def count_below_gap(table: pd.DataFrame) -> int:
    """How many tensors lie below the widest gap in sorted log κ.

    A threshold set by the model itself, which the paper leaves to future work. Where nothing
    parts the candidates, the widest gap is one of many and says little; look at the table.

    Raises:
        InputError: fewer than two candidates.
    """
    logs = np.sort(np.log(candidates(table)["kappa"]))
    if len(logs) < 2:
        raise InputError(f"{len(logs)} tensors have no gap between them", "give a count")
    return int(np.argmax(np.diff(logs))) + 1


def select_within(table: pd.DataFrame, arm: str, budget: int, seed: int = 0) -> Selection:
    """The selection of most tensors that has no more than ``budget`` parameters.

    Raises:
        InputError: see :func:`select`, or a budget below the arm's least.
    """
    counts = range(1, len(candidates(table)) + 1)
    fitting = bisect_right(counts, budget, key=lambda n: select(table, arm, n, seed).parameters)
    if fitting == 0:
        least = select(table, arm, 1, seed).parameters
        what = f"arm {arm!r}: {budget:,} parameters, and it trains {least:,} or more"
        raise InputError(what, "give more")
    return select(table, arm, fitting, seed)


def select(table: pd.DataFrame, arm: str, count: int, seed: int = 0) -> Selection:
    """Choose the tensors of one arm.

    Args:
        table: κ table.
        arm: one of ``arms.ARMS``.
        count: how many tensors; ignored by the arms that name modules, ``…_of_neighbours`` and
            ``adaptor_only``; ``random_`` and ``inverse_matched_size`` use it for the size of
            ``selected``.
        seed: of a random draw.

    Raises:
        InputError: unknown arm, a count that does not fit the table, a negative seed, or no match
            in size.
    """
    if arm not in arms.ARMS:
        raise InputError(f"there is no arm {arm!r}", f"use one of {', '.join(arms.ARMS)}")
    pool = candidates(table)
    if not 0 < count <= len(pool):
        raise InputError(
            f"{count} tensors can't be selected from {len(pool)} inside decoder layers",
            "give a count between 1 and their number",
        )
    if seed < 0:
        raise InputError(f"seed {seed} can't start a draw", "give 0 or more")
    words, rule = arms.ARMS[arm]
    chosen = rule(pool, count, np.random.default_rng(seed))
    if chosen.empty and arm != arms.ADAPTOR_ONLY:
        raise InputError(f"arm {arm!r}: no tensor of this model fits", "choose another arm")
    size, origin = arms.parameters(chosen), kappa_table.digest(table)
    return Selection(arm, words, seed, sorted(chosen["tensor"]), size, origin)


def as_lora(table: pd.DataFrame, chosen: Selection, rank: int) -> Selection:
    """A selection as LoRA trains it, with as many parameters as ``rank`` has on every candidate.

    Arms of a few matrices get a higher rank; the nearest whole one, so sizes differ a little.
    LoRA on a matrix of m × n has rank · (m + n) parameters (Hu et al. 2022, section 4.1).
    """
    lengths = candidates(table).set_index("tensor")[["rows", "cols"]].sum(axis=1)
    own = int(lengths[chosen.tensors].sum())
    found = max(1, round(rank * int(lengths.sum()) / own))
    return replace(chosen, rule=f"{chosen.rule}; LoRA of rank {found}", parameters=found * own)


def flipped_table(model: str) -> pd.DataFrame:
    """κ of the same function in another gauge, see :func:`kappa_lib.spectra.gauge.flip`."""
    from kappa_lib.spectra import gauge, scan
    from kappa_lib.weights import models

    llm, _ = models.load(model)
    gauge.flip(llm)
    return scan.scan(llm)


def picked_by_shape(table: pd.DataFrame, chosen: Selection) -> float:
    """How many tensors of ``selected`` or ``inverse`` the null of the shape alone would pick too.

    Tensors of one shape are tied in that ranking; a tie is drawn at random, and this is the
    expected number.
    """
    pool = candidates(table).assign(chosen=lambda t: t["tensor"].isin(set(chosen.tensors)))
    groups = pool.groupby("kappa_mp", sort=True)["chosen"].agg(["sum", "size"])
    ordered = groups if chosen.arm == "selected" else groups[::-1]
    before = ordered["size"].cumsum() - ordered["size"]
    taken = (len(chosen.tensors) - before).clip(0, ordered["size"])
    return float((ordered["sum"] * taken / ordered["size"]).sum())


def path_of(profile: Profile, arm: str, seed: int | None = None) -> Path:
    """File of what a run trains; of an arm in ``DRAWN`` one for each seed, by default the first."""
    drawn = arm in arms.DRAWN
    name = f"{arm}-seed{profile.seeds[0] if seed is None else seed}" if drawn else arm
    return profile.folder / "selections" / f"{name}.json"


def of_run(profile: Profile, arm: str, seed: int | None = None) -> Selection:
    """What a run of an arm trains, see :func:`path_of`; InputError if it has not been made yet."""
    path = path_of(profile, arm, seed)
    if not path.is_file():
        raise InputError(f"{path}: no selection yet", "run notebook 03 or `kappa train`")
    return Selection.load(path)


def select_stage(profile: Profile, table: pd.DataFrame) -> dict[str, Selection]:
    """The pipeline's selections, written to the files of :func:`path_of`.

    An arm that is drawn is drawn anew for each seed of a run, so that its spread over the seeds
    holds that of the draw. The run of seed 0 has the draw of the profile's ``seed``.

    Returns:
        Arm → selection; of a drawn arm that of the profile's first seed.
    """
    count = count_for(table, profile.share)
    runs = {path_of(profile, arm, s): (arm, s) for arm in profile.arms for s in profile.seeds}
    inputs = profile.values("share", "arms", "seed", "seeds") | {"table": kappa_table.digest(table)}
    inputs |= profile.added("lora_rank", "gauge")
    if any("input_kappa" in arm for arm in profile.arms) and "input_kappa" in table:
        inputs["input_kappa"] = table["input_kappa"].tolist()
    stage = Stage("select", profile.folder, inputs, list(runs))
    with distributed.main_process_first():
        if not stage.done():
            for path, (arm, seed) in runs.items():
                drawn = profile.seed + (seed if arm in arms.DRAWN else 0)
                gauged = profile.gauge.get(arm, {"of": arm})
                of = flipped_table(profile.model) if gauged.get("flip") else table
                chosen = replace(select(of, gauged["of"], count, drawn), arm=arm)
                if profile.lora_rank:
                    chosen = as_lora(table, chosen, profile.lora_rank)
                chosen.save(path)
            stage.finish()
    return {arm: of_run(profile, arm) for arm in profile.arms}
