"""Toy runs by name: a few seconds each, and the phases are there to be seen."""

from dataclasses import dataclass
from typing import Any

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.datasets.checks import suggestion

_MIXTURE: dict[str, Any] = {
    "dataset": "gaussian-mixture",
    "dataset_options": {"classes": 10, "dimension": 30, "separation": 6.0},
    "train_size": 1000,
    "test_size": 2000,
    "hidden": (100, 100, 100),
    "batch_size": 50,
    "checkpoints": 80,
    "alignment_batches": 12,
}
_TEACHER: dict[str, Any] = {
    "dataset": "teacher-student",
    "dataset_options": {"teacher": "linear", "classes": 6, "dimension": 20},
    "train_size": 1500,
    "test_size": 2000,
    "hidden": (100, 100, 100),
    "batch_size": 50,
    "checkpoints": 80,
    "alignment_batches": 12,
}


@dataclass(frozen=True)
class Preset:
    """What a toy run shows, and its settings as plain values for `sgdphases.sim.run.settings.make_settings`."""

    summary: str
    settings: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "mixture-turning": Preset(
        "Gaussian clouds, half of the labels random: four phases, R_cw > 0 in phase III.",
        {**_MIXTURE, "noise_fraction": 0.5, "learning_rate": 0.2, "epochs": 80},
    ),
    "mixture-opposed": Preset(
        "The same at a tenth of the learning rate: four phases, R_cw < 0 in phase III.",
        {**_MIXTURE, "noise_fraction": 0.5, "learning_rate": 0.02, "epochs": 300},
    ),
    "mixture-clean": Preset(
        "The same clouds with every label right: fast learning, then exploration.",
        {**_MIXTURE, "noise_fraction": 0.0, "learning_rate": 0.2, "epochs": 80},
    ),
    "teacher-turning": Preset(
        "Labels of a linear teacher, half of them random: four phases, R_cw > 0 in phase III.",
        {**_TEACHER, "noise_fraction": 0.5, "learning_rate": 0.2, "epochs": 100},
    ),
    "teacher-opposed": Preset(
        "The same at a tenth of the learning rate: four phases, R_cw < 0 in phase III.",
        {**_TEACHER, "noise_fraction": 0.5, "learning_rate": 0.02, "epochs": 320},
    ),
    "teacher-clean": Preset(
        "The same teacher with every label right: fast learning, then exploration.",
        {**_TEACHER, "noise_fraction": 0.0, "learning_rate": 0.2, "epochs": 100},
    ),
}


def preset(name: str) -> Preset:
    """The preset of a name.

    Parameters
    ----------
    name : str

    Returns
    -------
    Preset

    Raises
    ------
    UsageError
        For another name; the known ones are listed.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}{suggestion(name, PRESETS)}: known are {', '.join(PRESETS)}.")
    return PRESETS[name]
