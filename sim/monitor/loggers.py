"""Where people look: what a monitor measures, handed to a function or to the logger they use, or a line of progress."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console

from sgdphases.estimators.errors import UsageError

Log = Callable[[int, dict[str, float], str], None]
PREFIX = "sgdphases/"
log = logging.getLogger("sgdphases")
SHOWN_SECONDS = 5.0  # between two lines on a terminal


def logger_of(given: Any) -> Log:
    """A function of step, scalars by name, and the phase as text, for any logger.

    Parameters
    ----------
    given : callable, TensorBoard's SummaryWriter, a W&B run, mlflow, a Lightning logger
        A callable is called with the three as they are. Others get every finite scalar as ``sgdphases/NAME``, and the
        phase as text where they take text; they are known by their methods.

    Raises
    ------
    UsageError
        For anything else.
    """
    if hasattr(given, "add_scalar"):  # TensorBoard

        def to_tensorboard(step: int, scalars: dict[str, float], phase: str) -> None:
            for name, value in _named(scalars).items():
                given.add_scalar(name, value, step)
            given.add_text(f"{PREFIX}phase", phase, step)

        return to_tensorboard
    if hasattr(given, "log_metrics"):  # mlflow, and Lightning's loggers

        def to_metrics(step: int, scalars: dict[str, float], phase: str) -> None:
            given.log_metrics(_named(scalars), step=step)

        return to_metrics
    if hasattr(given, "log"):  # a W&B run
        return lambda step, scalars, phase: given.log({**_named(scalars), f"{PREFIX}phase": phase}, step=step)
    if callable(given):
        return given
    raise UsageError(
        f"log = {given!r}: give a function of step, scalars and phase, or a logger with add_scalar, log_metrics or log."
    )


def is_heard(given: Log) -> bool:
    """Whether anything receives what is logged now: finding the phase takes longer than many measurements."""
    return given.is_heard if isinstance(given, Progress) else True


class Progress:
    """A line for every measurement, logged at level INFO; on a terminal shown as well, one in a few seconds at most."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._shown = float("-inf")

    @property
    def is_heard(self) -> bool:
        """Whether the line is logged or shown."""
        return log.isEnabledFor(logging.INFO) or self._is_shown

    @property
    def _is_shown(self) -> bool:
        return self._console.is_terminal and time.monotonic() - self._shown > SHOWN_SECONDS

    def __call__(self, step: int, scalars: dict[str, float], phase: str) -> None:
        names = {"loss": "loss", "train_error": "error", "test_error": "test error", "activity": "A"}
        numbers = ", ".join(f"{text} {scalars[name]:.4g}" for name, text in names.items() if name in _finite(scalars))
        line = f"step {step}: {numbers}. {phase}"
        log.info("%s", line)
        if self._is_shown:
            self._shown = time.monotonic()
            self._console.print(line, style="dim", highlight=False, markup=False)


def _finite(scalars: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scalars.items() if np.isfinite(value)}


def _named(scalars: dict[str, float]) -> dict[str, float]:
    return {PREFIX + name: float(value) for name, value in _finite(scalars).items()}
