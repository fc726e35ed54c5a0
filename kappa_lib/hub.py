"""The Hugging Face Hub's many ways to fail, as one error that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.exceptions import DatasetsError
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kappa_lib.errors import AssetError, SpaceError

_LOCAL = "or name a local folder that holds it"
# First match wins: a gated repository is also a repository that was not found.
_REMEDIES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "its owner lets in only who has accepted the licence",
        "accept it on the model's page, then `hf auth login` with that account's token, " + _LOCAL,
    ),
    (
        RepositoryNotFoundError,
        "no such repository, or a private one",
        "check the spelling, `hf auth login` if it is private, " + _LOCAL,
    ),
    (RevisionNotFoundError, "no such revision", "check the revision, " + _LOCAL),
    (OfflineModeIsEnabled, "offline mode is on", "unset HF_HUB_OFFLINE, " + _LOCAL),
    (LocalEntryNotFoundError, "not in the cache and not reachable", "go online, " + _LOCAL),
    (HfHubHTTPError, "the hub refused", "read the reason above and try again later, " + _LOCAL),
    (ConnectionError, "no connection", "go online, " + _LOCAL),
    (DatasetsError, "not readable as a data set", "check its files, " + _LOCAL),
    (OSError, "cannot be loaded", "read the reason above: spelling, network, token, " + _LOCAL),
    (ValueError, "not readable", "check its files, " + _LOCAL),
    (RuntimeError, "cannot be loaded", "read the reason above, " + _LOCAL),
)


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turn whatever loading ``name`` from the hub (or a folder) raises into one clear error.

    Args:
        name: hub id or folder, as the profile has it.

    Raises:
        AssetError: what could not be had, the hub's own reason, and the next step.
    """
    try:
        yield
    except (AssetError, SpaceError):
        raise
    except tuple(kind for kind, _, _ in _REMEDIES) as error:
        why, remedy = next(
            (why, remedy)
            for kind, why, remedy in _REMEDIES
            if any(isinstance(cause, kind) for cause in _causes(error))
        )
        raise AssetError(f"{name}: {why}\n  {_first_line(error)}", remedy) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it: transformers wraps the hub's errors in an ``OSError``."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
