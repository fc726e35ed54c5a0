"""Companion library to "The Condition Number as a Scale-Invariant Proxy for Information
Encoding in Neural Units" (arXiv 2506.16289)."""

__version__ = "0.1.0"
