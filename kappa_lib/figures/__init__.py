"""Every figure under one name: ``from kappa_lib import figures``, then ``figures.heat_map(…)``."""

from importlib import import_module
from typing import Any

# Which module draws what; a module is imported, and matplotlib with it, when a figure is asked for.
_MODULES = {
    "style": "COLOURS new_figure logarithmic signed_root intervals strips save show",
    "theory": "covariance_ellipses simplex",
    "kappa": "heat_map change_maps against_null compositions selection_map correlations two_gauges"
    " rank_correlations costs type_colours WORDS",
    "training": "wer_over_training forgetting_over_training forgetting_by_text"
    " learning_and_forgetting paired verdicts",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"kappa_lib.figures has no figure {name!r}: {', '.join(_HOME)}")
    return getattr(import_module(f"kappa_lib.figures.{_HOME[name]}"), name)
