"""Companion library to "The Condition Number as a Scale-Invariant Proxy for Information
Encoding in Neural Units" (arXiv 2506.16289)."""

import warnings

# tqdm asks for a widget package that nothing here uses; in a notebook the request would be
# stored with the path of this installation.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
