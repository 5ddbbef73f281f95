"""Measure: one model at one point in weight space, or one trajectory."""
