"""What needs second derivatives, or the shape of the loss around the weights."""
