"""Per-sample gradients of any PyTorch module."""
