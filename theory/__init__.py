"""Predict: closed forms on plain numbers and arrays. Imports nothing of the project."""
