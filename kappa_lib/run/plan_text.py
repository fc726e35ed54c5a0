"""A plan as text, and the rate of arithmetic that turns it into hours."""

import math
from typing import Any

import pandas as pd
import torch

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.run.plan import NOT_HERE, Plan
from kappa_lib.spectra.selection import PAPER_SHARE
from kappa_lib.text import clock, counted

GIB = 2**30
DEVICES = (8, 16, 24, 40, 48, 80, 141)  # GiB of memory that common accelerators have
ASSUMED = 100.0  # TFLOP/s in terms of which hours are shown when no rate is known
BANDWIDTH = 1e12  # bytes a second in terms of which generation is shown
_BASIS = {
    "selection": "made from the measured κ",
    "shapes": "exact: module types and their numbers decide",
    "null": "the selection of an untrained model; the exact one comes after the scan",
}


def measured_rate(profile: Profile) -> tuple[float, str] | None:
    """Operations a second in the mean of a profile's finished runs, and what these were.

    The arithmetic of a step (``Plan.step``) over the seconds a step in ``provenance.json``, for
    one of a run's processes; None where nothing has run, or nothing that can be planned.
    """
    found, device = [], ""
    for path in sorted((profile.folder / "runs").glob("*/provenance.json")):
        record = read_json(path)
        config = read_json(path.with_name("config.json"))
        if not record.get("seconds_per_step"):
            continue
        try:
            ran = Plan(profile.model_copy(update={key: config[key] for key in ("batch", "steps")}))
        except InputError:
            return None  # of text, of LoRA, or of a model whose sizes nobody knows
        pace = ran.step(config["parameters"]) / record["seconds_per_step"]
        found.append(pace / record.get("processes", 1))
        device = record["device"] if record["device"] != "cpu" else record["processor"]
    if not found:
        return None
    runs = counted(len(found), "run")
    return sum(found) / len(found), f"measured by {runs} of {profile.profile} on {device}"


def known_rate(profile: Profile, tflops: float | None) -> tuple[float, str] | None:
    """Operations a second, and where they are known from.

    That is the rate given, else the profile's own, else that of any profile that has run here.

    Raises:
        InputError: a rate that is not positive.
    """
    if tflops is not None:
        if not 0 < tflops < math.inf:
            raise InputError(f"{tflops} TFLOP/s is no rate", "give a positive number")
        return tflops * 1e12, "given"
    others = [profiles.load(name) for name in profiles.names() if name != profile.profile]
    return next(filter(None, map(measured_rate, [profile, *others])), None)


def device_memory(profile: Profile, gib: float | None) -> tuple[float, str] | None:
    """Bytes of the device to judge by and what it is: the one given, else a CUDA device here.

    Raises:
        InputError: a size that is not positive.
    """
    if gib is not None:
        if not 0 < gib < math.inf:
            raise InputError(f"{gib} GiB is no memory", "give a positive number")
        return gib * GIB, f"{gib:g} GiB"
    if profile.device != "cpu" and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return float(found.total_memory), f"{found.name}, {found.total_memory / GIB:.0f} GiB"
    return None


def text(
    made: Plan, device: tuple[float, str] | None = None, rate: tuple[float, str] | None = None
) -> str:
    """A plan for reading: arms, memory and whether it fits, disk, time."""
    profile, load, ways, disk = made.profile, made.load, made.ways(), made.disk()
    tokens = profile.steps * profile.batch * load.mean
    arms, seeds = counted(len(profile.arms), "arm"), counted(len(profile.seeds), "seed")
    amounts = {**disk, "altogether": sum(disk.values())}
    listed = ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in amounts.items())
    head = f"""\
Plan of profile {profile.profile}; nothing has been downloaded
  language model  {profile.model}, {profile.dtype}, {made.llm.parameters:,} parameters
  encoder         {profile.encoder}, {made.encoder.parameters:,} parameters, frozen
  training        {arms} × {seeds}, each\
 {profile.steps:,} steps of {profile.batch} utterances: about {tokens / 1e6:,.1f}\
 million positions a run
  speech          {load.seconds / 3600:,.1f} hours, {load.tests:,} test utterances"""
    parts = [head, _arms(made), _memory(made, ways), _verdict(ways, device)]
    parts += [f"Disk in GB, an estimate: {listed}", _time(made, rate)]
    return "\n\n".join(parts) + "\n"


def _arms(made: Plan) -> str:
    rows = [
        {
            "arm": arm.name,
            "tensors": arm.tensors,
            "trained parameters": f"{arm.parameters:,}",
            "of the model": f"{arm.parameters / made.llm.parameters:.1%}",
            **{kind.removesuffix("_proj"): n for kind, n in arm.kinds.items()},
        }
        for arm in made.arms
    ]
    lines = [pd.DataFrame(rows).to_string(index=False)]
    for basis in dict.fromkeys(arm.basis for arm in made.arms):
        names = ", ".join(arm.name for arm in made.arms if arm.basis == basis)
        lines.append(f"  {names}: {_BASIS[basis]}")
    trained = {arm.name: arm.parameters for arm in made.arms}
    if {"selected", "inverse"} <= trained.keys():
        ratio = trained["inverse"] / trained["selected"]
        lines.append(f"  the inverse arm trains {ratio:.2f} × the parameters of the selected arm")
    if made.profile.share != PAPER_SHARE:
        lines.append(f"  share {made.profile.share:g} of the matrices; the paper's is 100/224")
    return "\n".join(["Trained tensors of the language model", *lines])


def _memory(made: Plan, ways: list[tuple[str, str, float]]) -> str:
    rows = {}
    for arm in made.arms:
        needed = made.memory(arm.parameters)
        rows[arm.name] = {**vars(needed), "total": needed.total}
    in_gib = pd.DataFrame(rows).T.rename_axis("arm") / GIB

    def smallest(total: float) -> str:
        return next((f"{n} GB" for n in DEVICES if total <= n * GIB), "none of one device")

    listed = pd.DataFrame(
        [(recipe, f"{total / GIB:.1f}", smallest(total), how) for recipe, how, total in ways],
        columns=["", "GiB", "smallest device", "options"],
    )
    return f"""\
Memory of one device in GiB, an estimate: {made.recipe.name}
{in_gib.map("{:.2f}".format).to_string()}
  and {made.host_memory(made.largest.parameters) / GIB:.1f} GiB of the host's

Ways to hold the largest arm, {made.largest.name}, and what to add to the command for them
{listed.to_string(index=False)}"""


def _verdict(ways: list[tuple[str, str, float]], device: tuple[float, str] | None) -> str:
    """Whether the largest arm fits, and so the others."""
    if device is None:
        return "No memory was given and there is no CUDA device here: no verdict on whether it fits"
    room, name = device
    *_, as_it_is = ways[0]
    if as_it_is <= room:
        return f"Every arm fits {name} as it is"
    fitting = [
        f"  {how}  ({recipe})" for recipe, how, total in ways if total <= room and how != NOT_HERE
    ]
    if not fitting:
        return (
            f"No way listed here fits {name}: take a smaller model, a smaller batch or a larger GPU"
        )
    return "\n".join([f"Not every arm fits {name} as it is; with these it does:", *fitting])


def _time(made: Plan, rate: tuple[float, str] | None) -> str:
    one, source = rate or (ASSUMED * 1e12, "no measurement here and none given; only a unit")
    each, everything, reads = made.work()
    devices = f"{made.processes} devices, each" if made.processes > 1 else "one device"
    pace = one * made.processes
    lines = [
        f"  {name}: {operations:.2e} operations, {clock(operations / pace)}"
        for name, operations in {**each, "altogether": everything}.items()
    ]
    head = f"Time on {devices} at {one / 1e12:.3g} TFLOP/s sustained ({source})"
    note = (
        f"  and the generation of transcripts, which memory bounds: {reads:.1e} bytes of weights"
        f" read, {clock(reads / BANDWIDTH / made.processes)} more at {BANDWIDTH / 1e12:g} TB/s"
        " (only a unit)"
    )
    return "\n".join([head, *lines, note])


def main_text(
    profile_name: str,
    memory_gib: float | None = None,
    tflops: float | None = None,
    processes: int = 1,
    **overrides: Any,
) -> str:
    """What ``kappa plan`` prints, see :func:`device_memory` and :func:`known_rate`.

    Raises:
        InputError: unknown profile, a model of unknown sizes, or a number that is not positive.
    """
    if not 0 < processes < 1_000_000:
        raise InputError(f"{processes} processes can't work", "give a number from 1 to 999999")
    profile = profiles.load(profile_name, **overrides)
    device = device_memory(profile, memory_gib)
    return text(Plan(profile, processes), device, known_rate(profile, tflops))
