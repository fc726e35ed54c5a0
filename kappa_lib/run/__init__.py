"""A profile → executed notebooks, and the command line."""
