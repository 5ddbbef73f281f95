"""Errors caused by user input; each message names the thing, its value and the remedy."""


class InputError(ValueError):
    """Bad data, labels or weights."""


class UsageError(InputError):
    """A setting that is invalid whatever the data. The command line exits with code 2."""


class TrainingDiverged(RuntimeError):
    """The weights or the loss are no longer finite."""
