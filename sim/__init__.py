"""Make dynamics: data, label noise, training, and the record of a run on disk."""
