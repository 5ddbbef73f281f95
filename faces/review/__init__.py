"""Suspect labels reviewed by eye: the page, and `sgdphases apply`."""
