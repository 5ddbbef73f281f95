"""`sgdphases theory`: commands and figures."""
