"""Order parameters along any PyTorch training loop."""
