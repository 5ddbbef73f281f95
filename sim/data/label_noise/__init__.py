"""Label noise of every kind."""
