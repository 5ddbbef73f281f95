"""sgdphases: measure, predict and use the phases of learning of stochastic gradient descent.

The public face: what documentation and other programs import. Everything else may move. Each name is loaded when it is
first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    # measure a model
    "estimators.measure": ("measure",),
    "estimators.check": ("check",),
    "estimators.ensemble.exact": ("exact",),
    "estimators.ensemble.order_parameters": ("OrderParameters",),
    "estimators.ensemble.spectrum": ("noise_spectrum",),
    "estimators.ensemble.gram": ("gram_alignment", "gram_matrix"),
    "estimators.curvature.hessian": ("leading_curvature",),
    "estimators.curvature.sharp_floor": ("relaxed", "sharp_and_floor"),
    "estimators.curvature.langevin": ("step_prediction",),
    "estimators.errors": ("InputError", "TrainingDiverged", "UsageError"),
    # backends
    "estimators.backend": ("Backend", "SampleGradients", "Scores"),
    "estimators.backends.mlp": ("MLP", "initial_mlp"),
    "estimators.backends.numpy_backend": ("NumpyBackend",),
    "estimators.backends.registry": ("backend_names", "make_backend"),
    "estimators.backends.samples": ("is_correct", "prepare_samples"),
    # phases
    "estimators.phases.now": ("phase_now",),
    "estimators.phases.find": ("find_phases",),
    "estimators.phases.from_losses": ("find_phases_from_losses",),
    "estimators.phases.records": ("Phase", "Phases"),
    "estimators.phases.phase_time": ("combine_phases", "epoch_at", "phase_time"),
    "estimators.phases.signatures": ("signatures",),
    "estimators.phases.comparison": ("compare",),
    # data
    "sim.data.dataset": ("Dataset",),
    "sim.data.datasets.gaussian_mixture": ("bayes_error",),
    "sim.data.datasets.registry": ("load_dataset",),
    "sim.data.label_noise.add": ("add_label_noise",),
    "sim.data.label_noise.transitions": ("transition_matrix",),
    # runs and sweeps
    "sim.run.settings": ("RunSettings",),
    "sim.run.presets": ("preset",),
    "sim.run.run": ("resume", "run"),
    "sim.run.trajectory": ("read_trajectory",),
    "sim.sweep.dataset": ("member_trajectory", "read_sweep"),
    "sim.sweep.run": ("sweep",),
    "sim.solvable.langevin": ("sgd_and_langevin",),
    # reports
    "faces.run.page": ("report",),
    # a training loop of one's own, and wrong labels
    "sim.monitor.monitor": ("PhaseMonitor",),
    "estimators.cleansing.from_losses": ("find_wrong_labels_from_losses",),
    "sim.cleansing.find": ("WrongLabelFinder", "find_wrong_labels"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)  # type: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sgdphases.{_HOME[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version  # takes a tenth of what the command line's help does

        return version("sgdphases")
    raise AttributeError(f"module 'sgdphases' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
