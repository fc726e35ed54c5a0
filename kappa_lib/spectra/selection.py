"""κ table → named tensors to train: the paper's two arms and the controls that break it open.

Candidates are the matrices inside decoder layers. The paper trains 100 of 224; an arm here
takes the same share of whatever the model has.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from kappa_lib import distributed
from kappa_lib.errors import InputError
from kappa_lib.files import Stage, fits, read_json, write_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra import kappa_table

PAPER_SHARE = 100 / 224
# Sizes are called equal where they differ by less than this.
SIZE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Selection:
    """The tensors that one arm trains.

    Attributes:
        arm: short name.
        rule: what was done, in words.
        seed: of the random draw; ignored by the rules that draw nothing.
        tensors: parameter names in the torch module, sorted by name.
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
        """Read what :meth:`save` wrote.

        Raises:
            InputError: missing file, or one that is not a selection.
        """
        kinds = {item.name: item.type for item in fields(cls)}
        try:
            found = read_json(path, dict[str, object])
        except (OSError, InputError) as error:
            raise InputError(f"{path}: not a selection", "run `kappa select` again") from error
        wrong = [name for name in kinds if not fits(found.get(name), kinds[name])]
        if wrong or set(found) != set(kinds):
            raise InputError(
                f"{path}: not a selection, for its {', '.join(wrong) or 'additional keys'}",
                "run `kappa select` again",
            )
        return cls(**found)

    def check(self, available: set[str]) -> None:
        """Refuse a selection that names a tensor which the model does not have.

        Raises:
            InputError: naming the first unknown tensor and how many there are.
        """
        unknown = sorted(set(self.tensors) - available)
        if unknown:
            raise InputError(
                f"selection {self.arm!r}: {unknown[0]} and {len(unknown) - 1} others"
                " are not in the model",
                "scan and select on the model that is trained",
            )


Rule = Callable[[pd.DataFrame, int, np.random.Generator], pd.DataFrame]


def _ranked(column: str, *, ascending: bool) -> Rule:
    def rule(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
        if column not in table:
            raise InputError(f"the κ table has no column {column!r}", kappa_table.WITH_INPUTS)
        return table.sort_values([column, "tensor"], ascending=[ascending, True]).head(count)

    return rule


def _quotas(table: pd.DataFrame, count: int) -> dict[str, int]:
    """``count`` split over the types in proportion to their numbers, by largest remainder."""
    sizes = table["type"].value_counts().sort_index()
    exact = sizes * count / len(table)
    quotas = exact.astype(int)
    remainder = (exact - quotas).sort_values(ascending=False, kind="stable")
    quotas[remainder.index[: count - int(quotas.sum())]] += 1
    return quotas.to_dict()


def _within_type(column: str, *, ascending: bool) -> Rule:
    ranked = _ranked(column, ascending=ascending)

    def rule(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
        quotas = _quotas(table, count)
        return pd.concat(
            [ranked(group, quotas[kind], rng) for kind, group in table.groupby("type")]
        )

    return rule


def _random(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    return table.iloc[np.sort(rng.permutation(len(table))[:count])]


def _random_like(arm: str) -> Rule:
    def rule(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
        quotas = ARMS[arm][1](table, count, rng)["type"].value_counts()
        groups = table.groupby("type")
        return pd.concat(
            [_random(groups.get_group(t), quotas[t], rng) for t in sorted(quotas.index)]
        )

    return rule


def _of_size(ordered: pd.DataFrame, wanted: int) -> pd.DataFrame:
    """Tensors in the given order until ``wanted`` parameters, passing over those too large."""
    taken, room = [], wanted * (1 + SIZE_TOLERANCE / 2)
    for index, size in (ordered["rows"] * ordered["cols"]).items():
        if size <= room:
            taken.append(index)
            room -= size
    chosen = ordered.loc[taken]
    reached = int((chosen["rows"] * chosen["cols"]).sum())
    if abs(reached - wanted) > SIZE_TOLERANCE * wanted:
        raise InputError(
            f"{reached:,} parameters is the nearest to {wanted:,} that this order of tensors gives",
            "choose another count or seed",
        )
    return chosen


def _matched_size(order: Rule) -> Rule:
    """As many parameters as the ``selected`` arm within 1 %, in the order of another rule."""

    def rule(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
        reference = ARMS["selected"][1](table, count, rng)
        wanted = int((reference["rows"] * reference["cols"]).sum())
        return _of_size(order(table, len(table), rng), wanted)

    return rule


def _shuffled(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    return table.iloc[rng.permutation(len(table))]


def _module(pattern: str) -> Rule:
    def rule(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
        return table[table["tensor"].str.contains(pattern, regex=True)]

    return rule


ARMS: dict[str, tuple[str, Rule]] = {
    "selected": ("smallest κ of all", _ranked("kappa", ascending=True)),
    "inverse": ("largest κ of all", _ranked("kappa", ascending=False)),
    "random": ("drawn uniformly", _random),
    "lowest_in_type": (
        "smallest κ within each module type, the same share of each",
        _within_type("kappa", ascending=True),
    ),
    "highest_in_type": (
        "largest κ within each module type, the same share of each",
        _within_type("kappa", ascending=False),
    ),
    "lowest_excess": ("smallest κ/κ_MP", _ranked("kappa_excess", ascending=True)),
    "highest_excess": ("largest κ/κ_MP", _ranked("kappa_excess", ascending=False)),
    "lowest_input_kappa": (
        "smallest κ of WΣ_X^½, the tensor on its real input",
        _ranked("input_kappa", ascending=True),
    ),
    "highest_input_kappa": (
        "largest κ of WΣ_X^½, the tensor on its real input",
        _ranked("input_kappa", ascending=False),
    ),
    "random_like_selected": (
        "drawn at random with as many of each module type as the selected arm",
        _random_like("selected"),
    ),
    "random_like_inverse": (
        "drawn at random with as many of each module type as the inverse arm",
        _random_like("inverse"),
    ),
    "random_matched_size": (
        "drawn at random to as many parameters as the selected arm, within 1 %",
        _matched_size(_shuffled),
    ),
    "inverse_matched_size": (
        "largest κ to as many parameters as the selected arm, within 1 %",
        _matched_size(_ranked("kappa", ascending=False)),
    ),
    "mlp": ("every MLP matrix", _module(r"\.(?:mlp|block_sparse_moe|feed_forward|ffn)[._]")),
    "attention": ("every attention matrix", _module(r"\.(?:self_attn|attn|attention)[._]")),
    "all": ("every matrix", _module("")),
}


# Arms with a draw of their own for each seed of a run.
DRAWN = frozenset(arm for arm in ARMS if arm.startswith("random"))


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows inside decoder layers, in the table's order: what a selection may choose from."""
    return table[table["layer"].notna()]


def count_for(table: pd.DataFrame, share: float = PAPER_SHARE) -> int:
    """How many tensors a share of the candidates is, rounded; the paper's share is 100/224.

    Raises:
        InputError: a share that is not in (0, 1].
    """
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
        InputError: see :func:`select`, or a budget that not even one tensor fits.
    """
    counts = range(1, len(candidates(table)) + 1)
    fitting = bisect_right(counts, budget, key=lambda n: select(table, arm, n, seed).parameters)
    if fitting == 0:
        raise InputError(f"arm {arm!r}: no tensor has {budget:,} parameters or fewer", "give more")
    return select(table, arm, fitting, seed)


def select(table: pd.DataFrame, arm: str, count: int, seed: int = 0) -> Selection:
    """Choose the tensors of one arm.

    Args:
        table: κ table.
        arm: one of ``ARMS``.
        count: how many tensors; ignored by ``mlp``, ``attention`` and ``all``, and by the
            ``…_matched_size`` arms used for the size of the ``selected`` arm.
        seed: of a random draw.

    Raises:
        InputError: unknown arm, a count that does not fit the table, a negative seed, or no match
            in size.
    """
    if arm not in ARMS:
        raise InputError(f"there is no arm {arm!r}", f"use one of {', '.join(ARMS)}")
    pool = candidates(table)
    if not 0 < count <= len(pool):
        raise InputError(
            f"{count} tensors can't be selected from {len(pool)} inside decoder layers",
            "give a count between 1 and their number",
        )
    if seed < 0:
        raise InputError(f"seed {seed} can't start a draw", "give 0 or more")
    rule, choose = ARMS[arm]
    chosen = choose(pool, count, np.random.default_rng(seed))
    if chosen.empty:
        raise InputError(f"arm {arm!r}: no tensor of this model fits", "choose another arm")
    return Selection(
        arm=arm,
        rule=rule,
        seed=seed,
        tensors=sorted(chosen["tensor"]),
        parameters=int((chosen["rows"] * chosen["cols"]).sum()),
        table_hash=kappa_table.digest(table),
    )


def picked_by_shape(table: pd.DataFrame, chosen: Selection) -> float:
    """How many tensors of a selection by κ a ranking by the null of the shape would pick too.

    Tensors of one shape are tied in that ranking; a tie is drawn at random, and this is the
    expected number.

    Args:
        table: κ table.
        chosen: the ``selected`` or the ``inverse`` arm.
    """
    pool = candidates(table).assign(chosen=lambda t: t["tensor"].isin(set(chosen.tensors)))
    groups = pool.groupby("kappa_mp", sort=True)["chosen"].agg(["sum", "size"])
    ordered = groups if chosen.arm == "selected" else groups[::-1]
    before = ordered["size"].cumsum() - ordered["size"]
    taken = (len(chosen.tensors) - before).clip(0, ordered["size"])
    return float((ordered["sum"] * taken / ordered["size"]).sum())


def path_of(profile: Profile, arm: str, seed: int | None = None) -> Path:
    """File of the selection that a run of an arm trains.

    Args:
        profile: whose folder it is in.
        arm: one of ``ARMS``; those of ``DRAWN`` have a file a seed.
        seed: of the run; by default the profile's first.
    """
    name = f"{arm}-seed{profile.seeds[0] if seed is None else seed}" if arm in DRAWN else arm
    return profile.folder / "selections" / f"{name}.json"


def of_run(profile: Profile, arm: str, seed: int | None = None) -> Selection:
    """The selection that a run of an arm trains, see :func:`path_of`.

    Raises:
        InputError: it has not been made yet.
    """
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
    inputs = {
        **profile.values("share", "arms", "seed", "seeds"),
        "table": kappa_table.digest(table),
    }
    if any("input_kappa" in arm for arm in profile.arms) and "input_kappa" in table:
        inputs["input_kappa"] = table["input_kappa"].tolist()
    stage = Stage("select", profile.folder, inputs, list(runs))
    with distributed.main_process_first():
        if not stage.done():
            for path, (arm, seed) in runs.items():
                drawn = profile.seed + (seed if arm in DRAWN else 0)
                select(table, arm, count, drawn).save(path)
            stage.finish()
    return {arm: of_run(profile, arm) for arm in profile.arms}
