"""The linear model: gradient flow and SGD mode by mode, and the limit of many samples and dimensions."""
