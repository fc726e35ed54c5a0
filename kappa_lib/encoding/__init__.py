"""What a real network's tensors encode: their inputs, what they pass on, what losing it costs."""
