"""sgdphases: measure, predict and use the phases of learning of stochastic gradient descent.

The public face. Everything is loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_PUBLIC = {
    "measure": "sgdphases.estimators.measure",
    "exact": "sgdphases.estimators.ensemble.exact",
    "OrderParameters": "sgdphases.estimators.ensemble.order_parameters",
    "MLP": "sgdphases.estimators.backends.mlp",
    "initial_mlp": "sgdphases.estimators.backends.mlp",
    "Backend": "sgdphases.estimators.backend",
    "PhaseMonitor": "sgdphases.sim.monitor.monitor",
    "WrongLabelFinder": "sgdphases.sim.cleansing.find",
    "find_wrong_labels": "sgdphases.sim.cleansing.find",
}
__all__ = [
    "MLP",
    "Backend",
    "OrderParameters",
    "PhaseMonitor",
    "WrongLabelFinder",
    "exact",
    "find_wrong_labels",
    "initial_mlp",
    "measure",
]
__version__ = version("sgdphases")


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sgdphases' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
