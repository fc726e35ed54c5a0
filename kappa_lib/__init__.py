"""Companion library to "The Condition Number as a Scale-Invariant Proxy for Information
Encoding in Neural Units" (arXiv 2506.16289).

What a person wants has one door: ``from kappa_lib import kappa, scan, select``. Each name is
imported when it is asked for, so that what measures κ needs neither transformers nor PEFT.
"""

import sys
import warnings
from importlib import import_module
from typing import Any

if "ipykernel" in sys.modules:
    # tqdm asks for a widget package that nothing here uses, once, by whichever package imports it
    # first; in a notebook the request would be stored with the path of this installation.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import_module("tqdm.auto")

__version__ = "0.1.0"

_DOOR = {
    "kappa": "spectra.spectrum:kappa",  # κ of a matrix, with its bound
    "scan": "spectra.scan:scan",  # κ of every matrix of a model
    "select": "spectra.selection:select",  # the tensors to train, of a κ table
    "load_profile": "profiles:load",  # the settings of a run
    "prepare": "run.stages:prepare",  # speech, κ table, selections and model of a profile
    "train_all": "run.stages:train_all",  # every arm of every seed of such a profile
    "runs": "evidence.runs:runs",  # what the finished runs of a profile measured
    "compare": "evidence.compare:compare",  # two arms of such runs
    "claim": "evidence.claims:claim",  # decide a claim from what a notebook's cell measured
    "figures": "figures:",  # every figure
}
__all__ = [*_DOOR]


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"kappa_lib has no {name!r}; it has {', '.join(_DOOR)}")
    module, _, inside = _DOOR[name].partition(":")
    found = import_module(f"kappa_lib.{module}")
    return getattr(found, inside) if inside else found


def __dir__() -> list[str]:
    return [*globals(), *_DOOR]
