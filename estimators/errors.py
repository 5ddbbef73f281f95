"""Errors caused by user input; each message names the thing, its value and the remedy."""


class InputError(ValueError):
    """Bad data, labels or weights."""


class UsageError(InputError):
    """A setting that is invalid whatever the data. The command line exits with code 2."""


class TrainingDiverged(RuntimeError):
    """The weights or the loss are no longer finite."""


class DataWarning(UserWarning):
    """Data that can be used, though not all of them or not as they are; the command line shows it as one line."""
