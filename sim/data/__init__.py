"""Labelled data sets, and label noise added to them."""
