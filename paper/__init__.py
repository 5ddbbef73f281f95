"""Feng & Tu 2021 reproduced: experiments, claims, figures.

Uses all floors; only the command line uses it.
"""
