"""What goes wrong through the user's input, told so that it can be mended."""


class InputError(ValueError):
    """Bad data, labels or weights. The message names the thing, its value and the remedy."""


class UsageError(InputError):
    """A setting that makes no sense, whatever the data: the command line answers it with exit code 2."""


class TrainingDiverged(RuntimeError):
    """The weights or the loss are no longer finite."""
