"""The reference for any module: the gradient of one sample after the other by plain autograd, in float64."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.backends.parameters import chosen_parameters
from sgdphases.estimators.backends.torch.check import dense
from sgdphases.estimators.backends.torch.forward import Forward
from sgdphases.estimators.backends.torch.models import refuse_unsupported, unwrapped
from sgdphases.estimators.backends.torch.modes import Modes
from sgdphases.estimators.errors import UsageError

MOST_NUMBERS = 2**26  # in explicit gradients held at once: 512 MiB


class AutogradReference:
    """Explicit per-sample gradients of a float64 copy of a module: slow, and what every faster way is compared with.

    Answers what a `Backend` does. Parameters as for `TorchBackend`, of which it shares the preparation of data, not the
    way of the gradients.

    Raises
    ------
    UsageError
        If the module cannot be copied or has nothing to measure.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        loss: str | Callable = "cross-entropy",
        parameters: str | Sequence[str] | None = None,
        batch_norm: str = "batch",
        dropout: str = "off",
        output: str | int | Callable | None = None,
        loss_of: Callable | None = None,
    ):
        model = unwrapped(model)
        refuse_unsupported(model)
        try:
            self._module = copy.deepcopy(model).double()
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"the model cannot be copied for the reference: {error}") from None
        trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self._trained = list(trained.values())
        self._measured = [trained[name] for name in chosen_parameters(list(trained), parameters)]
        self._modes = Modes(self._module, batch_norm, dropout)
        forward = Forward(self._module, self._modes, loss, output, None, self._measured[0], True, loss_of)
        self._forward = forward.on(x, y)
        self.n_samples = self._forward.n_samples
        self.n_parameters = sum(p.numel() for p in self._measured)
        self.chunk_size = max(1, MOST_NUMBERS // self.n_parameters)

    @property
    def weights(self) -> np.ndarray:
        return nn.utils.parameters_to_vector(self._trained).detach().cpu().numpy().copy()

    def load_weights(self, weights: np.ndarray) -> None:
        nn.utils.vector_to_parameters(torch.from_numpy(np.asarray(weights)).to(self._forward.device), self._trained)

    def sample_gradients(self, indices: np.ndarray) -> tuple[np.ndarray, Scores]:
        """``g_i`` in rows, shape (n, P), and the scores."""
        rows = np.zeros((len(indices), self.n_parameters))
        losses, correct = np.zeros((2, len(indices)))
        with self._modes, torch.enable_grad():
            for row, sample in enumerate(indices):
                loss, outputs = self._forward.as_minibatch([int(sample)])
                rows[row] = _flat(torch.autograd.grad(loss.sum(), self._measured, allow_unused=True), self._measured)
                losses[row] = float(loss.detach().sum())
                correct[row] = self._forward.correct(indices[row : row + 1], outputs)[0]
        return rows, Scores(losses, correct)

    def on(self, x: Any, y: Any) -> Self:
        made = copy.copy(self)
        made._forward = self._forward.on(x, y)
        made.n_samples = made._forward.n_samples
        return made

    def scores(self, indices: np.ndarray) -> Scores:
        return self.sample_gradients(indices)[1]

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        rows, scores = self.sample_gradients(indices)
        return SampleGradients(*scores, (rows**2).sum(axis=1), rows.sum(axis=0))

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return self.sample_gradients(indices)[0] @ np.asarray(directions, dtype=np.float64).T

    def weighted_sums(self, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        return np.asarray(coefficients, dtype=np.float64).T @ self.sample_gradients(indices)[0]

    def gram(self, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
        rows = self.sample_gradients(indices)[0]
        return rows @ (rows if others is indices else self.sample_gradients(others)[0]).T

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        for start in range(0, len(order), batch_size):
            with self._modes.training(), torch.enable_grad():
                losses, _ = self._forward.as_minibatch([int(sample) for sample in order[start : start + batch_size]])
                gradients = torch.autograd.grad(losses.mean(), self._trained, allow_unused=True)
            step = learning_rate * _flat(gradients, self._trained)
            self.load_weights(self.weights - step)


def _flat(gradients: Sequence[torch.Tensor | None], parameters: list[nn.Parameter]) -> np.ndarray:
    parts = [torch.zeros_like(p) if g is None else dense(g) for g, p in zip(gradients, parameters, strict=True)]
    return torch.cat([part.flatten() for part in parts]).detach().cpu().numpy()
