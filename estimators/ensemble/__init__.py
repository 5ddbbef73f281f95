"""Order parameters of the minibatch ensemble at one point in weight space."""
