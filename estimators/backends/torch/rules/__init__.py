"""How parameters get their per-sample gradients: rules of layers in closed form, and the ways for all other modules."""
