"""Training that finds wrong labels, and training without them."""
