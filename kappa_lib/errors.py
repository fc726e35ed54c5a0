"""Errors a user can act on: what is wrong, and what to do about it."""

import errno


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


def first_line(error: BaseException) -> str:
    """Kind and first line of another library's error, whose text may fill a screen."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def from_system(error: KappaError | OSError) -> KappaError:
    """What the operating system refuses (a path, a permission, room on the disk) as one of ours,
    which stay as they are."""
    if isinstance(error, KappaError):
        return error
    reason = error.strerror or str(error) or type(error).__name__
    what = f"{error.filename}: {reason}" if error.filename else reason
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(what, "free some space, or choose another disk, and run again")
    return InputError(what, "check the path and its permissions, or choose another")
