"""A matrix → its singular values and κ → the table of a model → the tensors that an arm trains."""
