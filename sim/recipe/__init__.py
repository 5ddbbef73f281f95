"""The recipe by which cleansings learn images: augmentation, a small network with BatchNorm, one cycle of rates."""
