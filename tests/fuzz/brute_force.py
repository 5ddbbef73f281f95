"""What the fuzzer compares with: gradients of single samples by autograd in float64, and the paper's definitions."""

import copy

import numpy as np
import torch
from torch.nn import functional as F


def loss_of(case, module, index):
    """The loss of some samples together, as a training loop has it; the module works on a copy of them."""
    dtype = next(module.parameters()).dtype
    inputs = case.x[index].clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        answer = module(inputs.to(dtype) if inputs.is_floating_point() else inputs)
    outputs = (answer if "output" not in case.options else answer[case.options["output"]]).to(dtype)
    if case.loss == "squared":
        return 0.5 * ((outputs - F.one_hot(case.y[index], outputs.shape[1])) ** 2).sum(dim=1).mean()
    if case.loss == "cross-entropy":
        return F.cross_entropy(outputs, case.y[index])
    weight = getattr(case.loss, "weight", None)
    loss = case.loss
    if weight is not None:
        loss = copy.deepcopy(case.loss).to(dtype)
    return loss(outputs, case.y[index])


class BruteForce:
    """Per-sample gradients of a case, shape (N, P), and losses, shape (N,).

    Dropout is off and statistics are frozen: that is the module in eval mode. All is float64, but under autocast, where
    kinks lie elsewhere: there the gradients are those of autocast, in float32. ``is_mean`` says whether loss and
    gradient, in random minibatches, are the mean of those of the samples: only then is there anything to measure.
    """

    def __init__(self, case, seed=0):
        self._differentiate(case, torch.float64)
        rng = np.random.default_rng(seed)
        self.is_mean = all(
            self._agrees(case, rng.permutation(len(case.x))[:size]) for size in (2, 3, 7, 12, len(case.x))
        )

        if "autocast" in case.options:
            self._differentiate(case, torch.float32)

    def _differentiate(self, case, dtype):
        self.module = copy.deepcopy(case.module).to(dtype).eval()
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.parameters = list(trained.values())
        self.factors = [case.gradient_factors[name] for name in trained]
        found = [self._one(case, [i]) for i in range(len(case.x))]
        self.losses = np.array([loss for loss, _ in found])
        self.gradients = np.array([gradient for _, gradient in found], dtype=np.float64)

    def _one(self, case, index):
        loss = loss_of(case, self.module, index)
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True) if loss.requires_grad else [None]
        found = [None] * len(self.parameters) if not loss.requires_grad else found
        known = zip(found, self.factors, self.parameters, strict=True)
        rows = [torch.zeros_like(p) if g is None else factor * g for g, factor, p in known]
        return float(loss), torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in rows]).numpy()

    def _agrees(self, case, index):
        loss, gradient = self._one(case, index.tolist())
        size = max(np.abs(self.gradients[index]).max(), 1e-12)
        same = np.abs(gradient - self.gradients[index].mean(axis=0)).max() < 1e-7 * size
        return same and abs(loss - self.losses[index].mean()) < 1e-7 * max(abs(loss), 1e-6)


def moments(rows, batch_size):
    """A, A0, D and the variance along the mean of minibatches of these samples, without replacement."""
    n, mean = len(rows), rows.mean(axis=0)
    factor = 0.0 if n == 1 else (n - batch_size) / (batch_size * (n - 1))
    variance = factor * ((rows - mean) ** 2).sum(axis=1).mean()
    along = factor * (rows @ mean).var()
    return {"directed_activity": mean @ mean, "total_variance": variance, "activity": mean @ mean + variance}, along
