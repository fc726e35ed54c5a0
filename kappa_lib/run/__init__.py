"""A profile → executed notebooks; the command line; what a run will need."""
