"""Faults made by hand in rules, factors and capture: each is noticed.

A fault counts as noticed where the backend refuses the model, no longer trusts a rule, or answers otherwise than
autograd sample by sample does; without the fault none of that happens.
"""

import inspect
import logging
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import sgdphases
from sgdphases.estimators.backends.torch import capture, factors
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.reference import AutogradReference
from sgdphases.estimators.backends.torch.rules import attention, convolved, layers, recurrent

N, T, W, K = 24, 5, 4, 3


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


class Attention(nn.MultiheadAttention):
    """Causal, within a sequence; keys and values may be given as tensors of their own."""

    def __init__(self, apart=False):
        super().__init__(W, 2, batch_first=True)
        self.apart = apart
        nn.init.normal_(self.in_proj_bias)
        nn.init.normal_(self.in_proj_weight)  # so that it attends to some positions more than to others

    def __call__(self, x):
        mask = torch.ones(T, T, dtype=torch.bool).triu(1)
        others = (x.view_as(x), x.view_as(x)) if self.apart else (x, x)
        return super().__call__(x, *others, attn_mask=mask, need_weights=False)[0]


class MeanOverPositions(nn.Module):
    def forward(self, x):
        return x.mean(dim=1)


def vectors(*layers):
    return nn.Sequential(*layers, nn.Linear(W, K)), torch.randn(N, W)


def sequences(*layers):
    return nn.Sequential(*layers, nn.Tanh(), MeanOverPositions(), nn.Linear(W, K)), torch.randn(N, T, W)


def images(*layers, channels=W):
    head = (nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, K))
    return nn.Sequential(*layers, *head), torch.randn(N, W, 5, 5)


def tokens(**settings):
    embedding = nn.Embedding(6, W, **settings)
    return nn.Sequential(embedding, nn.Tanh(), MeanOverPositions(), nn.Linear(W, K)), torch.randint(0, 6, (N, T))


def scaled(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


MODELS = {
    "vectors": lambda: vectors(nn.Linear(W, W), nn.Tanh()),
    "sequences": lambda: sequences(nn.Linear(W, W)),
    "wide sequences": lambda: sequences(nn.Linear(W, 40), nn.Tanh(), nn.Linear(40, 40), nn.Linear(40, W)),
    "twice": lambda: vectors(Twice(nn.Linear(W, W))),
    "convolution": lambda: images(nn.Conv2d(W, W, 3, stride=2, padding=2, dilation=2, groups=2)),
    "wide convolution": lambda: images(nn.Conv2d(W, 8, 4), channels=8),
    "wide grouped convolution": lambda: images(nn.Conv2d(W, 8, 4, groups=2), channels=8),
    "embedding": lambda: tokens(),
    "padded embedding": lambda: tokens(padding_idx=0),
    "layer norm": lambda: vectors(scaled(nn.LayerNorm(W, eps=0.3))),
    "rms norm": lambda: vectors(scaled(nn.RMSNorm(W, eps=0.3))),
    "group norm": lambda: images(scaled(nn.GroupNorm(2, W, eps=0.3))),
    "instance norm": lambda: images(scaled(nn.InstanceNorm2d(W, affine=True, eps=0.3))),
    "batch norm": lambda: images(scaled(nn.BatchNorm2d(W, eps=0.3))),
    "lstm": lambda: sequences(First(nn.LSTM(W, W // 2, bidirectional=True, batch_first=True))),
    "attention": lambda: sequences(Attention()),
    "attention of several inputs": lambda: sequences(Attention(apart=True)),
    "gru": lambda: sequences(First(nn.GRU(W, W, num_layers=2, batch_first=True))),
}

# model, owner, function, what stands in it, what the fault makes of it
FAULTS = [
    ("sequences", layers, "linear", "d.sum(dim=1)", "d[:, 0]"),
    ("vectors", layers, "linear", "Outer(a[:, None], d[:, None])", "Outer(a[:, None], 2 * d[:, None])"),
    ("convolution", layers, "convolution", "module.dilation", "(1, 1)"),
    ("convolution", layers, "convolution", "module.stride,", "(1, 1),"),
    ("convolution", layers, "convolution", '"valid" else module.padding', '"valid" else (0, 0)'),
    ("convolution", layers, "convolution", "sum(dim=2)", "mean(dim=2)"),
    ("padded embedding", layers, "embedding", "is not None", "is None"),
    ("layer norm", layers, "layer_norm", "eps=module.eps", "eps=1e-5"),
    ("rms norm", layers, "rms_norm", "F.rms_norm", "F.layer_norm"),
    ("group norm", layers, "group_norm", "module.num_groups", "1"),
    ("instance norm", layers, "instance_norm", "eps=module.eps", "eps=0.0"),
    ("batch norm", layers, "batch_norm", ", module.running_var\n", ", module.running_var**2 + 1\n"),
    ("sequences", layers, "positions", ".reshape(n, -1,", ".flip(0).reshape(n, -1,"),
    ("lstm", recurrent, "_step", "i, f, g, o", "f, i, g, o"),
    ("gru", recurrent, "_step", "(1 - z) * n", "z * n"),
    ("lstm", recurrent, "layer", "found[::-1]", "found"),
    ("attention", capture, "from_products", ".transpose(0, 1)", ".transpose(0, 1).flip(0)"),
    ("attention", capture, "from_products", "Explicit(d_in.sum(dim=1))", "Explicit(d_in[:, 0])"),
    ("attention", attention, "attention", "**-0.5", "**-0.25"),
    ("attention", attention, "attention", "scores + given.bias", "scores"),
    ("attention", attention, "attention", "each.sum(dim=1) for each", "2 * each.sum(dim=1) for each"),
    ("attention of several inputs", attention, "_joint", "torch.cat(pulled, dim=2)", "torch.cat(pulled[::-1], dim=2)"),
    ("wide sequences", factors, "_squares_of_products", "(inputs @ inputs.transpose(-1, -2)) *", ""),
    ("vectors", factors.Outer, "squared_norms", "row_squares(self.inputs) *", ""),
    ("twice", factors.Outer, "joined", "torch.cat([self.inputs, other.inputs], 2)", "torch.cat([self.inputs] * 2, 2)"),
    (
        "wide sequences",
        factors.Outer,
        "weighted_sums",
        "repeat_interleave(self.positions, dim=0)",
        "repeat(self.positions, 1)",
    ),
    ("wide sequences", factors.Outer, "projections", "sum(dim=(0, 2))", "mean(dim=2).sum(dim=0)"),
    (
        "wide grouped convolution",
        convolved.Convolved,
        "projections",
        ".transpose(0, 1).flatten(0, 2)",
        ".flatten(0, 2)",
    ),
    ("wide grouped convolution", convolved.Convolved, "projections", "sum(dim=1)", "mean(dim=1)"),
    ("wide convolution", convolved.Convolved, "projections", "vecdot(pushed, deltas)", "vecdot(pushed, deltas.abs())"),
    ("vectors", factors.Outer, "inner", "(a @ b.T) * (d @ e.T)", "(a @ b.T)"),
    ("embedding", factors.Rows, "squared_norms", "* same", ""),
    ("embedding", factors.Rows, "dense", "scatter_add_(1,", "scatter_(1,"),
    ("embedding", factors.Rows, "projections", "table[self.index]", "table[self.index.flip(1)]"),
    (
        "sequences",
        capture.Capture,
        "_run",
        "[values.detach() for values in given]",
        "[values.detach() * 1.1 for values in given]",
    ),
]


def noticed(name, caplog):
    """Whether anything is wrong with the backend on this model, by its own judgement or against autograd."""
    torch.manual_seed(0)
    module, x = MODELS[name]()
    x, y = x.numpy(), torch.randint(0, K, (N,)).numpy()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sgdphases"):
        try:
            backend = TorchBackend(module, x, y, batch_norm="frozen")
            sgdphases.exact(backend, batch_size=4)
        except Exception as error:
            return f"refused: {error}"
    if caplog.records:
        return caplog.text
    reference, rng, few = AutogradReference(module, x, y, batch_norm="frozen"), np.random.default_rng(0), np.arange(12)
    directions, draws = rng.normal(size=(2, backend.n_parameters)), rng.normal(size=(12, 2))
    answers = {
        "norms": [b.gradient_sums(few).squared_norm for b in (backend, reference)],
        "sums": [np.asarray(b.gradient_sums(few).gradient_sum) for b in (backend, reference)],
        "projections": [b.projections(few, directions) for b in (backend, reference)],
        "weighted": [b.weighted_sums(few, draws) for b in (backend, reference)],
        "gram": [b.gram(few, few) for b in (backend, reference)],
    }
    wrong = [what for what, (a, b) in answers.items() if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())]
    return ", ".join(wrong)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_wrong_without_a_fault(name, caplog):
    assert noticed(name, caplog) == ""


@pytest.mark.parametrize(("name", "owner", "function", "right", "fault"), FAULTS, ids=lambda v: str(v)[:40])
def test_a_fault_is_noticed(name, owner, function, right, fault, caplog, monkeypatch):
    original = getattr(owner, function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(right) >= 1, f"{function} no longer holds {right}"
    namespace = dict(inspect.getmodule(original).__dict__)
    exec(source.replace(right, fault, 1), namespace)
    monkeypatch.setattr(owner, function, namespace[function])
    for kind, known in list(layers.RULES.items()):
        if known is original:
            monkeypatch.setitem(layers.RULES, kind, namespace[function])
    assert noticed(name, caplog) != ""
