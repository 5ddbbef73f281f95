"""What a monitor has measured so far: every scalar, and the losses of the samples that it watches."""

from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import InputError
from sgdphases.sim.run.trajectory import trajectory_dataset


class Record:
    """Measurements, one after the other.

    Attributes
    ----------
    watched : ndarray of int, shape (n,)
        Numbers of the samples that are measured, in the order of the data set.
    steps : int
        Training steps done; a measurement may lie behind.
    rows : dict of list
        By name, one entry a measurement; "step" among them.
    sample_losses, sample_right, answers : list of ndarray, shape (n,)
        Of the watched samples: losses; whether each is given its label; the class that it is given, where snapshots of
        the weights are kept.
    """

    def __init__(self, watched: np.ndarray):
        self.watched = watched
        self.sample_right: list[np.ndarray] = []
        self.answers: list[np.ndarray] = []
        self.steps = 0
        self.rows: dict[str, list[Any]] = {}
        self.sample_losses: list[np.ndarray] = []

    def add(
        self, scalars: dict[str, Any], losses: np.ndarray, right: np.ndarray, answers: np.ndarray | None = None
    ) -> None:
        """A measurement at the present step; losses of the watched samples and what they are answered, shape (n,).

        Scalars that are missing, after the first measurement, are NaN.
        """
        row = {"step": float(self.steps), **scalars}
        row |= dict.fromkeys(set(self.rows) - set(row), float("nan"))  # what a light measurement leaves out
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)
        self.sample_losses.append(losses.astype(np.float32))
        self.sample_right.append(right == 1)
        if answers is not None:
            self.answers.append(answers.astype(np.int32))

    @property
    def measured_step(self) -> int:
        """The step of the last measurement."""
        return int(self.rows["step"][-1])

    def arrays(self) -> dict[str, np.ndarray]:
        """The rows as arrays, shape (measurements, ...)."""
        return {name: np.array(values) for name, values in self.rows.items()}

    def dataset(self, steps_per_epoch: int, settings: str, labels: np.ndarray, wrong: np.ndarray | None) -> xr.Dataset:
        """The rows as ``trajectory.nc`` holds them: see `trajectory_dataset`.

        Losses and answers of the samples are there as well, where they have classes: ``labels`` are not below 0.
        """
        rows = self.arrays()
        if len(labels) and labels.min() >= 0:
            rows["sample_loss"], rows["sample_right"] = np.array(self.sample_losses), np.array(self.sample_right)
            rows["label"] = labels[None]
            if wrong is not None:
                rows["wrong"] = wrong[None]
        return trajectory_dataset(rows, steps_per_epoch, settings)

    def state(self) -> dict[str, Any]:
        """All of it, to be kept beside a model's own state: see `restore`."""
        return {
            "steps": self.steps,
            "rows": self.arrays(),
            "sample_loss": np.array(self.sample_losses),
            "sample_right": np.array(self.sample_right),
            "answers": np.array(self.answers),
            "watched": self.watched.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises
        ------
        InputError
            If it is no such state, or one of other samples.
        """
        try:
            steps, rows = int(state["steps"]), {name: list(values) for name, values in state["rows"].items()}
            losses, watched = list(state["sample_loss"]), np.asarray(state["watched"])
            right, answers = list(state["sample_right"]), list(state["answers"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"this is no state of a PhaseMonitor ({error!r}): give what state_dict() gave.") from None
        if not np.array_equal(watched, self.watched):
            raise InputError(
                "the state is of a monitor that watched other samples: give the same data, n_samples and seed."
            )
        self.steps, self.rows, self.sample_losses = steps, rows, losses
        self.sample_right, self.answers = right, answers
