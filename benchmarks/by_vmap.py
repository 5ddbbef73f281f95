"""Per-sample gradients by `torch.func` `vmap(grad)`, extended to all that a measurement asks of them.

It answers as a backend does, so that the same two passes over the same populations come to the same scalars.
"""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sgdphases.estimators.backend import SampleGradients
from sgdphases.estimators.backends.torch.factors import row_squares

MOST_NUMBERS = 2**25  # in gradients held at once: 128 MiB
MOST_SAMPLES = 100


class VmapSource:
    """A network and its samples, in chunks whose gradients fit into memory.

    Parameters
    ----------
    module : Module
    x : tensor, shape (N, ...)
    y : tensor of int, shape (N,)
    """

    def __init__(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor):
        self._x, self._y = x, y
        self._parameters = {name: p.detach() for name, p in module.named_parameters()}
        self.n_samples, self.n_parameters = len(x), sum(p.numel() for p in self._parameters.values())
        self.chunk_size = max(1, min(MOST_SAMPLES, MOST_NUMBERS // self.n_parameters))

        def loss(parameters, row, label):
            output = functional_call(module, parameters, (row[None],))
            found = F.cross_entropy(output, label[None])
            return found, (found, output[0].argmax() == label)

        self._gradients = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0))

    def gradients(self, indices: np.ndarray):
        """By parameter, shape (n, ...); and losses, and whether they are right, shape (n,)."""
        index = torch.from_numpy(indices).to(self._x.device)
        with torch.no_grad():
            found, (losses, correct) = self._gradients(self._parameters, self._x[index], self._y[index])
        return [rows.flatten(1) for rows in found.values()], losses, correct

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        found, losses, correct = self.gradients(indices)
        norms = sum(row_squares(rows) for rows in found)
        total = torch.cat([rows.sum(dim=0) for rows in found])
        assert isinstance(norms, torch.Tensor)
        loss, right, squares = (values.double().cpu().numpy() for values in (losses, correct, norms))
        return SampleGradients(loss, right, squares, total)

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        found, _, _ = self.gradients(indices)
        parts = torch.from_numpy(directions).to(found[0]).split([rows.shape[1] for rows in found], dim=1)
        along = sum((rows @ part.T).double() for rows, part in zip(found, parts, strict=True))
        assert isinstance(along, torch.Tensor)
        return along.cpu().numpy()
