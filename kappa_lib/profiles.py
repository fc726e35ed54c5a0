"""A profile: one checked dataclass that says how large a run is. Same code, other values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from kappa_lib import paths
from kappa_lib.errors import InputError

OPTIMISERS = ("adamw", "adafactor")
WAYS = ("ddp", "fsdp2")
CORPORA = ("de", "en", "en_human", "librispeech", "mls_german")


@dataclass(frozen=True)
class Profile:
    """Every setting of a run; the YAML files in ``notebooks/profiles`` hold one value for each.

    Args:
        profile: its name, and the name of its folder under ``results/``.
        model: ``smollm2-135m`` (a pinned asset), a local folder, or a model hub id.
        encoder: ``whisper-base`` (a pinned asset), a local folder, or a model hub id.
        dtype: of the language model's weights, ``float32`` or ``bfloat16``.
        device: ``auto`` (CUDA where there is one, else CPU), ``cpu`` or ``cuda``.
        share: share of the decoder's matrices that an arm trains; the paper's is 100/224.
        arms: selections to compare, see ``kappa_lib.spectra.selection``.
        seed: of everything that is drawn once: speech, split, random selections.
        seeds: one training run an arm for each.
        train_utterances: corpus → number of training items.
        test_utterances: corpus → number of test items.
        warm_steps, warm_batch, warm_lr: the adaptor's CTC warm start.
        steps, batch, lr: fine-tuning; utterances a step, of all processes together, and peak
            learning rate.
        optimiser: ``adamw``, or ``adafactor`` with small states, see ``training/optim``.
        parallel: what several processes do, ``ddp`` or ``fsdp2``, see ``training/parallel``.
        eval_every: steps between two evaluations, each of which is also a checkpoint.
        max_new_tokens: cap on a generated transcript.
        text_tokens: general-text positions on which forgetting is measured.
        spectra: whether κ and singular vectors of the trained tensors are compared before and
            after each run.
    """

    profile: str
    model: str
    encoder: str
    dtype: str
    device: str
    share: float
    arms: list[str]
    seed: int
    seeds: list[int]
    train_utterances: dict[str, int]
    test_utterances: dict[str, int]
    warm_steps: int
    warm_batch: int
    warm_lr: float
    steps: int
    batch: int
    lr: float
    optimiser: str
    parallel: str
    eval_every: int
    max_new_tokens: int
    text_tokens: int
    spectra: bool

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("warm_batch", "steps", "batch", "eval_every", "max_new_tokens", "text_tokens"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        for name in ("warm_lr", "lr"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        _require(0 < self.share <= 0.5, "share", self.share, "in (0, 0.5], so that arms can differ")
        _require(self.dtype in ("float32", "bfloat16"), "dtype", self.dtype, "float32 or bfloat16")
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")
        _require(self.optimiser in OPTIMISERS, "optimiser", self.optimiser, " or ".join(OPTIMISERS))
        _require(self.parallel in WAYS, "parallel", self.parallel, " or ".join(WAYS))
        _require(
            self.optimiser == "adamw" or self.parallel == "ddp",
            "optimiser",
            self.optimiser,
            "adamw with parallel: fsdp2, which shards AdamW's states anyway",
        )
        _require(self.arms, "arms", self.arms, "at least one selection")
        _require(self.seeds, "seeds", self.seeds, "at least one seed")
        for name in ("train_utterances", "test_utterances"):
            value = getattr(self, name)
            known = set(value) <= set(CORPORA) and all(n >= 0 for n in value.values())
            _require(known, name, value, f"counts for some of {', '.join(CORPORA)}")

    @property
    def folder(self) -> Path:
        """Where this profile's results go."""
        return paths.results(self.profile)

    def values(self, *names: str) -> dict[str, Any]:
        """The named settings (all, without names) as a plain dictionary, for a stage's inputs."""
        everything = asdict(self)
        return {name: everything[name] for name in names} if names else everything


def _require(condition: Any, key: str, value: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"profile key {key!r} is {value!r}", f"it has to be {wanted}")


def _check_types(profile: Profile) -> None:
    kinds = {"float": (float, int), "list[str]": list, "list[int]": list, "dict[str, int]": dict}
    for item in fields(profile):
        kind = str(getattr(item.type, "__name__", item.type))
        kind = kind if "[" not in str(item.type) else str(item.type)
        allowed = kinds.get(kind, {"str": str, "int": int, "bool": bool}.get(kind))
        value = getattr(profile, item.name)
        fits = isinstance(value, allowed) and isinstance(value, bool) == (allowed is bool)
        _require(fits, item.name, value, f"of type {kind}")


def names() -> list[str]:
    """Names of the profiles that have a YAML file."""
    return sorted(p.stem for p in paths.PROFILES.glob("*.yaml"))


def load(name: str, **overrides: Any) -> Profile:
    """Read ``notebooks/profiles/<name>.yaml`` and replace some of its values.

    Raises:
        InputError: unknown profile, unknown or missing key, value of a wrong type or range.
    """
    path = paths.PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"there is no profile {name!r}", f"use one of {', '.join(names())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _build(values, path.name, overrides)


def _build(values: Mapping[str, Any], source: str, overrides: Mapping[str, Any]) -> Profile:
    known = {item.name for item in fields(Profile)}
    unknown = sorted((set(values) | set(overrides)) - known)
    if unknown:
        raise InputError(
            f"{source}: unknown profile key {', '.join(map(repr, unknown))}",
            f"the keys are {', '.join(sorted(known))}",
        )
    missing = sorted(known - set(values))
    if missing:
        raise InputError(f"{source}: missing profile key {', '.join(missing)}", "add it")
    return replace(Profile(**values), **overrides)


def from_notebook(namespace: Mapping[str, Any]) -> Profile:
    """The profile that a notebook's parameters cell describes.

    The cell names a profile and any of its keys; its values win over the profile's file, so
    that editing the cell in JupyterLab has the effect that the reader expects.

    Args:
        namespace: the notebook's ``globals()``.
    """
    known = {item.name for item in fields(Profile)} - {"profile"}
    overrides = {name: namespace[name] for name in known if name in namespace}
    return load(namespace["profile"], **overrides)
