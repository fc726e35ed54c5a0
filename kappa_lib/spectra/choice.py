"""Which tensors of a model are measured, which are left out, and which are missing."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from kappa_lib.errors import InputError
from kappa_lib.weights import kinds, models
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.loaded import as_used


def opened(source: nn.Module | str | Path | Checkpoint) -> Checkpoint:
    """A model's tensors as it uses them, none of which is read yet.

    Errors are those of :func:`kappa_lib.weights.models.open_checkpoint`.
    """
    return as_used(source if isinstance(source, Checkpoint) else models.open_checkpoint(source))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def to_measure(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[TensorInfo]:
    """The tensors that a scan with these patterns measures; InputError where there is none."""
    chosen = [
        info
        for info in checkpoint.tensors
        if len(info.shape) > 1
        and (_matches(info.name, include) if include else not info.why)
        and not _matches(info.name, exclude)
    ]
    if chosen or absent(checkpoint, include, exclude):
        return chosen
    some = checkpoint.tensors[0]
    what = f"{checkpoint.model_id}: no matrix left to measure"
    if include or exclude:
        what += f" (include {list(include)}, exclude {list(exclude)})"
        raise InputError(what, f"patterns are matched to whole names such as {some.name}")
    reasons = "".join(f"\n  {', '.join(n)}: {why}" for why, n in left_out(checkpoint).items())
    remedy = "scan the whole model's folder, or name what to measure with --include"
    raise InputError(what + reasons, remedy)


def absent(
    checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """What the checkpoint lacks of what is asked for: name or pattern → what is wrong, and do."""
    reasons: dict[str, list[str]] = {}
    for name, why in checkpoint.absent.items():
        if (not include or _matches(name, include)) and not _matches(name, exclude):
            reasons.setdefault(why, []).append(name)
    remedy = "fetch or save the whole model; --exclude these names to do without"
    return {
        name: (f"{name}: {why}", remedy)
        for why, names in reasons.items()
        for name in kinds.patterns(names)
    }


def left_out(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Reason → tensors of two or more dimensions that are no weights; ``*`` for their numbers."""
    reasons: dict[str, list[str]] = {}
    for name, why in checkpoint.left_out.items():
        reasons.setdefault(why, []).append(name)
    for info in checkpoint.tensors:
        if info.why and info.why != kinds.VECTOR:
            reasons.setdefault(info.why, []).append(info.name)
    return {why: kinds.patterns(names) for why, names in reasons.items()}
