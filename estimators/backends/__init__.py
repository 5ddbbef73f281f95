"""How gradients come about: multilayer perceptrons by numpy and numba, any PyTorch module."""
