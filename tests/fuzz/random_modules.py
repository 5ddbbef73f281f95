"""Random modules, data and losses for the fuzzer: layers and the ways in which people use them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

K = 3  # classes


@dataclass(repr=False)
class Case:
    """A model, a labelled data set and a loss; ``notes`` say what was drawn."""

    module: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    loss: Any
    options: dict[str, Any]
    wrong: np.ndarray | None
    batch_size: int
    notes: list[str] = field(default_factory=list)
    gradient_factors: dict[str, float] = field(default_factory=dict)  # of hooks on parameters: copies have none

    def __repr__(self) -> str:
        return f"Case({', '.join(self.notes)})"


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class RawParameter(nn.Module):
    """Parameters of its own, next to a layer's."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(width) + 0.1 * torch.randn(width)), nn.Linear(width, width)

    def forward(self, x):
        return self.inner(x) * self.scale + self.scale.sin()


class UsedTwice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class OutsideItsLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.inner(x)) + 0.3 * F.linear(x, self.inner.weight)


class Adapter(nn.Module):
    """A frozen layer with a low-rank adapter by plain matrix products, its second factor at zero."""

    def __init__(self, width):
        super().__init__()
        self.base = nn.Linear(width, width)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.zeros(width, 2))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


class Functional(nn.Module):
    """Dropout as a function, in training mode."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return F.dropout(self.inner(x), 0.4, self.training)


class BatchCentred(nn.Module):
    """Couples samples: subtracts the minibatch's mean."""

    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True)


class InPlaceInput(nn.Module):
    def forward(self, x):
        return x.mul_(0.7).add_(0.1) if x.is_floating_point() else x


class Cells(nn.Module):
    """A recurrent cell in a loop."""

    def __init__(self, width, kind):
        super().__init__()
        self.cell = kind(width, width)

    def forward(self, x):
        h = torch.zeros(len(x), x.shape[-1], dtype=x.dtype)
        state = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state


class First(nn.Module):
    """A module that answers with several things, of which the first is used."""

    def __init__(self, inner, last=False):
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x):
        out = self.inner(x)[0]
        return out[:, -1] if self.last else out


class SelfAttention(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 2, dropout=dropout, batch_first=True)

    def forward(self, x):
        return x + self.inner(x, x, x, need_weights=False)[0]


class Mean(nn.Module):
    """Over all positions."""

    def forward(self, x):
        return x.mean(dim=1)


class PositionsFirst(nn.Module):
    """A layer applied with positions along the first axis: samples lie along the second."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class Answers(nn.Module):
    """A model that answers with a dictionary or a tuple."""

    def __init__(self, inner, kind):
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, x):
        out = self.inner(x)
        return {"hidden": 2 * out, "logits": out} if self.kind == "dict" else (2 * out, out)


def norms(width):
    return {
        "LayerNorm": lambda: nn.LayerNorm(width),
        "LayerNorm without bias": lambda: nn.LayerNorm(width, bias=False),
        "RMSNorm": lambda: nn.RMSNorm(width),
    }


@torch.no_grad()  # so that the module can be copied
def old_weight_norm(width):
    return weight_norm(nn.Linear(width, width))


def vector_blocks(width):
    return {
        "Linear": lambda: nn.Linear(width, width),
        "Linear without bias": lambda: nn.Linear(width, width, bias=False),
        "frozen Linear": lambda: nn.Linear(width, width).requires_grad_(False),
        "weight norm": lambda: parametrizations.weight_norm(nn.Linear(width, width)),
        "old weight norm": lambda: old_weight_norm(width),
        "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(width, width)),
        "old spectral norm": lambda: spectral_norm(nn.Linear(width, width)),
        "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(width, width)),
        "Residual": lambda: Residual(width),
        "RawParameter": lambda: RawParameter(width),
        "UsedTwice": lambda: UsedTwice(width),
        "OutsideItsLayer": lambda: OutsideItsLayer(width),
        "Adapter": lambda: Adapter(width),
        "Functional": lambda: Functional(width),
        "Bilinear": lambda: SelfBilinear(width),
        "PReLU": lambda: nn.Sequential(nn.Linear(width, width), nn.PReLU()),
        "Dropout": lambda: nn.Dropout(0.3),
        "in-place ReLU": lambda: nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True)),
        "BatchNorm": lambda: nn.BatchNorm1d(width),
        "BatchCentred": BatchCentred,
        **norms(width),
    }


class SelfBilinear(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Bilinear(width, width, width)

    def forward(self, x):
        return torch.tanh(self.inner(x, x))


def image_blocks(channels):
    def conv(**settings):
        return lambda: nn.Conv2d(channels, channels, 3, **settings)

    return {
        "Conv2d": conv(padding=1),
        "Conv2d dilated": conv(padding=2, dilation=2),
        "Conv2d circular": conv(padding=1, padding_mode="circular"),
        "Conv2d same": conv(padding="same", bias=False),
        "Conv2d grouped": conv(padding=1, groups=2),
        "Conv2d weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(channels, channels, 3, padding=1)),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(channels, channels, 3, padding=1),
        "GroupNorm": lambda: nn.GroupNorm(2, channels),
        "InstanceNorm": lambda: nn.InstanceNorm2d(channels, affine=True),
        "BatchNorm2d": lambda: nn.BatchNorm2d(channels),
        "Dropout2d": lambda: nn.Dropout2d(0.3),
        "ReLU": lambda: nn.ReLU(inplace=True),
    }


def sequence_blocks(width):
    return {
        "Linear on positions": lambda: nn.Linear(width, width),
        "SelfAttention": lambda: SelfAttention(width, 0.0),
        "SelfAttention with dropout": lambda: SelfAttention(width, 0.2),
        "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(width, 2, 8, 0.1, batch_first=True),
        "LSTM": lambda: First(nn.LSTM(width, width, batch_first=True)),
        "GRU": lambda: First(nn.GRU(width, width, 2, dropout=0.2, batch_first=True)),
        "RNN": lambda: First(nn.RNN(width, width, batch_first=True, bidirectional=False)),
        "PositionsFirst": lambda: PositionsFirst(width),
        **norms(width),
    }


def gather(width):
    return {
        "Mean": Mean,
        "LSTM, last": lambda: First(nn.LSTM(width, width, batch_first=True), last=True),
        "LSTMCell": lambda: Cells(width, nn.LSTMCell),
        "GRUCell": lambda: Cells(width, nn.GRUCell),
    }


def per_sample_weighted(outputs, targets):
    return (torch.tensor([1.0, 3.0, 0.2], dtype=outputs.dtype)[targets] * F.cross_entropy(outputs, targets, reduction="none")).mean()  # fmt: skip  # noqa: E501


LOSSES = {
    "cross-entropy": "cross-entropy",
    "squared": "squared",
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
    "per-sample weights": per_sample_weighted,
    "hinge": nn.MultiMarginLoss(),
    "hinge with a small margin": nn.MultiMarginLoss(margin=0.05),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
    "a sum": nn.CrossEntropyLoss(reduction="sum"),
    "a sum, as a function": lambda out, y: F.cross_entropy(out, y, reduction="sum"),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
}


def token_loss(padding):
    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=padding)

    return loss


TOKEN_LOSSES = {"tokens": token_loss(-100), "padded tokens": token_loss(0)}


def _hooked(module, kind, draw_factor):
    if kind == "forward hook":
        module.register_forward_hook(lambda m, inputs, out: draw_factor * out if isinstance(out, torch.Tensor) else out)
    elif kind == "forward pre-hook":
        module.register_forward_pre_hook(lambda m, inputs: (inputs[0] * draw_factor, *inputs[1:]))
    else:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda g: draw_factor * g)


@st.composite
def cases(draw):
    """A random case."""
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    n = draw(st.sampled_from([24, 40]))
    width = draw(st.sampled_from([4, 6]))
    form = draw(st.sampled_from(["vector", "image", "tokens", "sequence"]))
    notes, per_token = [form], False
    layers: list[nn.Module] = []

    def add(blocks, n_blocks):
        for _ in range(n_blocks):
            name = draw(st.sampled_from(sorted(blocks)))
            notes.append(name)
            layers.append(blocks[name]())

    if form == "vector":
        x = torch.randn(n, width)
        add(vector_blocks(width), draw(st.integers(1, 3)))
    elif form == "image":
        x = torch.randn(n, 2, 5, 5)
        layers.append(nn.Conv2d(2, width, 3, stride=draw(st.sampled_from([1, 2]))))
        add(image_blocks(width), draw(st.integers(1, 3)))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        if form == "tokens":
            x = torch.randint(0, 9, (n, 5))
            kind = draw(st.sampled_from([{}, {"padding_idx": 0}, {"max_norm": 1.0}, {"sparse": True}]))
            notes.append(f"Embedding {kind}")
            layers.append(nn.Embedding(9, width, **kind))
        else:
            x = torch.randn(n, 5, width)
        add(sequence_blocks(width), draw(st.integers(1, 2)))
        per_token = draw(st.integers(0, 3)) == 0
        if not per_token:
            add(gather(width), 1)
    if draw(st.booleans()):
        layers.append(nn.Tanh())
    head = nn.Linear(width, K)
    if draw(st.integers(0, 3)) == 0:
        notes.append("zero head")
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    if draw(st.integers(0, 5)) == 0:
        notes.append("in-place input")
        layers.insert(0, InPlaceInput())
    layers.append(head)
    if draw(st.integers(0, 4)) == 0:
        kind = draw(st.sampled_from(["forward hook", "forward pre-hook", "parameter hook"]))
        place = draw(st.integers(0, len(layers) - 1))
        if not (kind == "forward pre-hook" and form == "tokens" and place == 0):
            notes.append(f"{kind} on {place}")
            _hooked(layers[place], kind, 1.5)
    module: nn.Module = nn.Sequential(*layers)
    watched = {} if "parameter hook" not in notes[-1] else {id(p): 1.5 for p in layers[place].parameters()}
    options: dict[str, Any] = {"batch_norm": "frozen"}
    answer = draw(st.sampled_from(["tensor", "tensor", "tensor", "dict", "tuple"]))
    if answer != "tensor":
        notes.append(answer)
        module, options["output"] = Answers(module, answer), "logits" if answer == "dict" else 1
    if draw(st.booleans()):
        notes.append("eval")
        module.eval()
    dtype = draw(st.sampled_from(["float32", "float32", "float64"]))
    notes.append(dtype)
    module = module.to(getattr(torch, dtype))
    x = x.to(getattr(torch, dtype)) if x.is_floating_point() else x
    losses = TOKEN_LOSSES if per_token else LOSSES
    name = draw(st.sampled_from(sorted(losses)))
    notes.append(name)
    y = torch.randint(0, K, (n, 5) if per_token else (n,))
    if not per_token and draw(st.integers(0, 4)) == 0:
        notes.append("sorted by class")
        order = torch.argsort(y)
        x, y = x[order], y[order]
    if draw(st.integers(0, 4)) == 0:
        notes.append("first samples alike")
        x[1:4], y[1:4] = x[0], y[0]
    wrong = None
    if draw(st.booleans()):
        wrong = np.arange(n) % draw(st.sampled_from([2, 5])) == 0
    factors = {name: watched.get(id(p), 1.0) for name, p in module.named_parameters()}
    if dtype == "float32" and draw(st.integers(0, 7)) == 0:
        notes.append("autocast")
        options["autocast"] = "bfloat16"
    return Case(module, x, y, losses[name], options, wrong, draw(st.sampled_from([1, 4, 10, n])), notes, factors)
