"""Models of the Hugging Face Hub: pinned, and the hub's many ways to fail as one clear error."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kappa_lib.errors import AssetError, SpaceError, first_line

# Commits of the models that the profiles name; any other is taken as it is today.
REVISIONS = {
    "meta-llama/Llama-3.1-8B-Instruct": "0e9e39f249a16976918f6564b8830bc894c89659",
    "meta-llama/Llama-3.2-3B-Instruct": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
    "meta-llama/Llama-3.2-1B-Instruct": "9213176726f574b556790deb65791e0c5aa438b6",
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
}
# Weights as safetensors, configuration and tokenizer; never pickles.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
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
        SpaceError: the disk filled up on the way.
    """
    try:
        yield
    except (AssetError, SpaceError):
        raise
    except Exception as error:
        if not isinstance(error, (*(kind for kind, _, _ in _REMEDIES), *_datasets_errors())):
            raise
        if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in _causes(error)):
            raise SpaceError(f"{name}: the disk is full", "free some space, and go on") from error
        found = (
            (why, remedy)
            for kind, why, remedy in _REMEDIES
            if any(isinstance(cause, kind) for cause in _causes(error))
        )
        why, remedy = next(found, ("not readable as a data set", "check its files, " + _LOCAL))
        raise AssetError(f"{name}: {why}\n  {first_line(error)}", remedy) from error


@cache
def snapshot(model: str) -> Path:
    """Fetch a model at its pinned revision with the hub's client, or find it in the hub's cache.

    Returns:
        A folder of safetensors, configuration and tokenizer, named after the commit.

    Raises:
        AssetError: gated, unknown or out of reach; says what to do.
        SpaceError: the disk filled up on the way.
    """
    with explained(model):
        return Path(
            snapshot_download(
                model,
                revision=REVISIONS.get(model),
                allow_patterns=_PATTERNS,
                # The same weights again: Meta's own format, Whisper's other precision.
                ignore_patterns=["original/*", "*.fp32*"],
            )
        )


def _datasets_errors() -> tuple[type[Exception], ...]:
    """What ``datasets``, a heavy package, raises; nothing where it was never imported."""
    module = sys.modules.get("datasets.exceptions")
    return (module.DatasetsError,) if module else ()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it: transformers wraps the hub's errors in an ``OSError``."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
