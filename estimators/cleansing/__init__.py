"""Wrong labels from the losses along a run."""
