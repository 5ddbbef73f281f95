"""When a measurement is due."""

import math

from sgdphases.estimators.errors import UsageError


class Schedule:
    """Log-spaced steps.

    Parameters
    ----------
    per_decade : int
        Measurements for every tenfold growth of the number of steps.

    Raises
    ------
    UsageError
        If there are none.
    """

    def __init__(self, per_decade: int):
        if per_decade < 1:
            raise UsageError(f"per_decade = {per_decade}: choose at least 1 measurement for a tenfold number of steps.")
        self._per_decade = per_decade

    def is_due(self, step: int) -> bool:
        """Whether a measurement is due at this step, the first being 1."""
        place = self._per_decade * math.log10(step)
        return step == 1 or int(place) > int(self._per_decade * math.log10(step - 1))
