"""sgdphases: measure, predict and use the phases of learning of stochastic gradient descent.

The public face. Everything is loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_PUBLIC = {
    "measure": "sgdphases.estimators.measure",
    "exact": "sgdphases.estimators.exact",
    "OrderParameters": "sgdphases.estimators.order_parameters",
    "MLP": "sgdphases.estimators.mlp",
    "initial_mlp": "sgdphases.estimators.mlp",
    "Backend": "sgdphases.estimators.backend",
    "PhaseMonitor": "sgdphases.sim.monitor",
    "WrongLabelFinder": "sgdphases.sim.wrong_labels",
    "find_wrong_labels": "sgdphases.sim.wrong_labels",
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
