"""Where people look: what a monitor measures, handed to a function or to the logger they use."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sgdphases.estimators.errors import UsageError

Log = Callable[[int, dict[str, float], str], None]
PREFIX = "sgdphases/"


def logger_of(log: Any) -> Log:
    """A function of step, scalars by name, and the phase as text, for whatever somebody logs with.

    Parameters
    ----------
    log : callable, TensorBoard's SummaryWriter, a W&B run, mlflow, a Lightning logger
        A callable is called with the three as they are. Others get every finite scalar as ``sgdphases/NAME``, and the
        phase as text where they take text; they are known by their methods.

    Raises
    ------
    UsageError
        For anything else.
    """
    if hasattr(log, "add_scalar"):  # TensorBoard

        def to_tensorboard(step: int, scalars: dict[str, float], phase: str) -> None:
            for name, value in _named(scalars).items():
                log.add_scalar(name, value, step)
            log.add_text(f"{PREFIX}phase", phase, step)

        return to_tensorboard
    if hasattr(log, "log_metrics"):  # mlflow, and Lightning's loggers

        def to_metrics(step: int, scalars: dict[str, float], phase: str) -> None:
            log.log_metrics(_named(scalars), step=step)

        return to_metrics
    if hasattr(log, "log"):  # a W&B run
        return lambda step, scalars, phase: log.log({**_named(scalars), f"{PREFIX}phase": phase}, step=step)
    if callable(log):
        return log
    raise UsageError(
        f"log = {log!r}: give a function of step, scalars and phase, or a logger with add_scalar, log_metrics or log."
    )


def _named(scalars: dict[str, float]) -> dict[str, float]:
    return {PREFIX + name: float(value) for name, value in scalars.items() if np.isfinite(value)}
