"""A small data set and network, and their gradients by plain autograd, for several test files."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

N, D, K = 40, 5, 3


def data(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=generator, dtype=dtype), torch.randint(0, K, (N,), generator=generator)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, K))


def gradients(module, x, y, loss=F.cross_entropy):
    """Per-sample gradients by autograd, one sample after the other, in rows, float64."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(loss(module(x[i : i + 1].clone()), y[i : i + 1]), parameters, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        rows.append(torch.cat([g.flatten() for g in own]).double().numpy())
    return np.array(rows)


def activity(rows, batch_size):
    n, mean = len(rows), rows.mean(axis=0)
    kappa = (n - batch_size) / (batch_size * (n - 1))
    return mean @ mean + kappa * ((rows**2).sum(axis=1).mean() - mean @ mean)
