"""Errors a user can act on: what is wrong, and what to do about it."""

import errno
import os
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)


class KappaError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: the thing that is wrong, named (file, tensor, key, value).
        remedy: the next step for the person reading it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}\n  What to do: {remedy}" if remedy else what)


class InputError(KappaError, ValueError):
    """A value, tensor or setting that cannot be used."""


class AssetError(KappaError):
    """Weights or recordings that are missing, incomplete or not the pinned ones."""


class UnreachableError(AssetError):
    """What this machine cannot have or use now; a run may go on without it, and says so."""


class CheckpointError(KappaError):
    """A weight file that is truncated, inconsistent or has a missing shard."""


class SpaceError(KappaError, OSError):
    """Not enough room on the disk for what is about to be written."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it: other libraries wrap each other's errors and the system's."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refuse_full_disk(error: BaseException, what: object) -> None:
    """Stop where an error of getting ``what`` comes from a full disk or quota, however wrapped.

    Raises:
        SpaceError: it does.
    """
    if isinstance(error, SpaceError):
        raise error
    # Of another process, or of a library in another language, its words may be all that is left.
    words = [os.strerror(number) for number in _FULL]
    for cause in causes(error):
        if getattr(cause, "errno", None) in _FULL or any(word in str(cause) for word in words):
            remedy = "free some space, or point the cache (KAPPA_HOME, HF_HOME) at a larger disk"
            raise SpaceError(f"{what}: the disk is full", remedy) from error


def first_line(error: BaseException) -> str:
    """Kind and first line of another library's error, whose text may fill a screen."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def from_system(error: KappaError | OSError) -> KappaError:
    """What the operating system refuses (a path, a permission, room on the disk) as one of ours,
    which stay as they are."""
    if isinstance(error, KappaError):
        return error
    reason = error.strerror or str(error) or type(error).__name__
    what = f"{error.filename}: {reason}" if error.filename else reason
    if error.errno in _FULL:
        return SpaceError(what, "free some space, or choose another disk, and run again")
    return InputError(what, "check the path and its permissions, or choose another")
