"""One arm with one seed: the speech LLM, its training, its checkpoints and its evaluation."""
