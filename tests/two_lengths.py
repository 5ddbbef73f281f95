"""Tests in two lengths: short ones in `make test`, the whole of them in the slow runs of `make test-all`."""

import pytest
from hypothesis import given, settings


def slow(*values):
    """Values of a parameter for the slow runs only."""
    return pytest.param(*values, marks=pytest.mark.slow)


def examples(few, many, *strategies, **named):
    """Like hypothesis's `given`, with ``few`` examples in `make test` and ``many`` in the slow runs."""

    def decorate(test):
        @pytest.mark.parametrize("n_examples", [few, slow(many)])
        def of_each_length(n_examples):
            settings(max_examples=n_examples)(given(*strategies, **named)(test))()

        of_each_length.__name__, of_each_length.__doc__ = test.__name__, test.__doc__
        return of_each_length

    return decorate
