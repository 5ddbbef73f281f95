"""When a measurement is due, and whether it can be afforded."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from sgdphases.estimators.errors import UsageError

log = logging.getLogger("sgdphases")


FULL, LIGHT, AVERAGE = "full", "light", "average"  # AVERAGE: taking up weights into their moving average
FOR_FULL = 0.5  # share of the budget that full measurements may take, where light ones are wanted as well
LIGHTER = 0.25  # time of a light measurement by that of a full one, until one has been timed


class Schedule:
    """Log-spaced steps, thinned out where measuring would take more than its share of the time.

    Where a full measurement cannot be afforded, a light one may: losses and answers, without gradients.

    Parameters
    ----------
    per_decade : int
        Measurements for every tenfold growth of the number of steps.
    budget : float or None
        Time that measuring may take, relative to all other time since the monitor was made; None for any.

    Attributes
    ----------
    n_put_off : int
        Measurements that were due and could not be afforded, not even light ones.
    n_light : int
        Those that were made without gradients.
    is_limited : bool
        Whether there is a budget.
    measuring, training : float
        Seconds spent in measurements, preparations among them, and between them up to the last that was due.

    Raises
    ------
    UsageError
        If there are no measurements, or no time for them.
    """

    def __init__(self, per_decade: int, budget: float | None = None):
        if per_decade < 1:
            raise UsageError(f"per_decade = {per_decade}: choose at least 1 measurement for a tenfold number of steps.")
        if budget is not None and not 0 < budget < math.inf:
            raise UsageError(f"budget = {budget}: give a share of the training time above 0, such as 0.02, or None.")
        self._per_decade, self._budget = per_decade, budget
        self.is_limited = budget is not None
        self.n_put_off = self.n_light = 0
        self.measuring = self.training = self._full = 0.0
        self._latest: dict[str, float] = {}
        self._free_since: float | None = None

    def begin(self) -> None:
        """Training begins; what was spent so far counts."""
        self.training, self._free_since = 0.0, perf_counter()

    @property
    def overhead(self) -> float:
        """Time spent measuring so far, relative to all other time up to the last that was due; NaN before training."""
        return self.measuring / self.training if self.training > 0 else float("nan")

    def is_due(self, step: int) -> bool:
        """Whether a measurement is due at this step, the first being 1."""
        place = self._per_decade * math.log10(step)
        return step == 1 or int(place) > int(self._per_decade * math.log10(step - 1))

    def affordable(self) -> str | None:
        """FULL or LIGHT, what stays within the budget if it takes as long as the last of its kind; None for neither."""
        if self._budget is None:
            return FULL
        allowed = self._allowed(self._budget)
        full = self._latest.get(FULL, 0.0)
        if self._full + full <= FOR_FULL * allowed and self.measuring + full <= allowed:
            return FULL
        return LIGHT if self.measuring + self._latest.get(LIGHT, LIGHTER * full) <= allowed else None

    def can_average(self) -> bool:
        """Whether taking up the weights once more stays within the budget."""
        if self._budget is None:
            return True
        return self.measuring + self._latest.get(AVERAGE, 0.0) <= self._allowed(self._budget)

    def put_off(self, step: int) -> None:
        """Let the measurement that is due at this step go; said once."""
        if self.n_put_off == 0:
            log.info(
                "step %d is not measured: that would take more than budget = %g of the training time so far; "
                "measurements become rarer, and most of them go without gradients, until they can be afforded",
                step,
                self._budget,
            )
        self.n_put_off += 1
        self._count_training(perf_counter())

    def attributes(self) -> dict[str, float]:
        """What measuring has cost so far, for the record."""
        found: dict[str, float] = {"measuring_seconds": self.measuring, "training_seconds": self.training}
        found |= {"put_off": self.n_put_off, "light": self.n_light}
        return found | ({} if self._budget is None else {"budget": self._budget})

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {
            "measuring": self.measuring,
            "full": self._full,
            "training": self.training,
            "put_off": self.n_put_off,
            "light": self.n_light,
        }

    def restore(self, state: dict[str, float]) -> None:
        """Add what an earlier schedule had spent."""
        self.measuring += float(state.get("measuring", 0))
        self.training += float(state.get("training", 0))
        self._full += float(state.get("full", state.get("measuring", 0)))
        self.n_put_off += int(state.get("put_off", 0))
        self.n_light += int(state.get("light", 0))

    @contextmanager
    def timed(self, kind: str = FULL) -> Iterator[None]:
        """A context whose time counts as measuring, of one of the three kinds."""
        begun = perf_counter()
        self._count_training(begun)
        try:
            yield
        finally:
            self._free_since = perf_counter()
            self._latest[kind] = self._free_since - begun
            self.measuring += self._latest[kind]
            if kind == FULL:
                self._full += self._latest[kind]
            elif kind == LIGHT:
                self.n_light += 1

    def _allowed(self, budget: float) -> float:
        waited = 0.0 if self._free_since is None else perf_counter() - self._free_since
        return budget * (self.training + waited)

    def _count_training(self, now: float) -> None:
        if self._free_since is not None:
            self.training += now - self._free_since
        self._free_since = now
