"""Companion library to "The Condition Number as a Scale-Invariant Proxy for Information
Encoding in Neural Units" (arXiv 2506.16289)."""

import sys
import warnings

if "ipykernel" in sys.modules:
    # tqdm asks for a widget package that nothing here uses, once, by whichever package imports it
    # first; in a notebook the request would be stored with the path of this installation.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401

__version__ = "0.1.0"
