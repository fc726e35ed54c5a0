"""A model id, folder or file → its tensors, each file pinned by hash or revision."""
