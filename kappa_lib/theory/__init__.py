"""The paper's equations, where they bend, and an independent estimate of each."""
