"""Simulations of models that theory solves."""
