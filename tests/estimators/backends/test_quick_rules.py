"""The quick ways of the rules, each way forced in turn, beside `torch.func` on single samples."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sgdphases.estimators.backends.torch import factors
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.factors import Outer
from sgdphases.estimators.backends.torch.reference import AutogradReference
from sgdphases.estimators.backends.torch.rules import attention_graph, convolved, layers
from sgdphases.estimators.backends.torch.rules.pooling import pooled, quick_pools

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ways = st.fixed_dictionaries(
    {
        "moved": st.sampled_from([0, 24, 10**9]),  # gradients of single samples always, sometimes, never
        "block": st.sampled_from([1, 200, 2**18]),
        "lanes": st.sampled_from([1, 16]),  # PyTorch's backward pass by groups
        "few": st.sampled_from([0, 32, 10**9]),  # the sum by PyTorch's backward pass, or by patches
    }
)


def forced(way):
    """A context in which rules go a certain way."""
    stack = patch.multiple(factors, MOVED=way["moved"], BLOCK_NUMBERS=way["block"])
    return stack, patch.multiple(convolved, BLOCK_NUMBERS=way["block"], LANES=way["lanes"], FEW_POSITIONS=way["few"])


def rows_by_torch_func(layer, x, delta):
    """Gradients of single samples by parameter, shape (n, p)."""

    def loss(parameters, row, ahead):
        return (functional_call(layer, parameters, (row[None],))[0] * ahead).sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0))(dict(layer.named_parameters()), x, delta)
    return {name: values.flatten(1).double() for name, values in found.items()}


def check(factor, rows, tolerance):
    """Every answer of a factor beside gradients of single samples, shape (n, p)."""
    dtype, scale = torch.float64 if tolerance < 1e-6 else torch.float32, float(rows.abs().max())
    near = dict(rtol=tolerance, atol=tolerance * max(1e-3, scale) * rows.shape[1] ** 0.5)
    square = dict(rtol=2 * tolerance, atol=tolerance * max(1e-6, scale**2) * rows.shape[1])
    squares, total = factor.squares_and_sum()
    torch.testing.assert_close(squares, (rows**2).sum(dim=1), **square)
    torch.testing.assert_close(total.double(), rows.sum(dim=0), **near)
    torch.testing.assert_close(factor.squared_norms(), (rows**2).sum(dim=1), **square)
    for k in (1, 2, 5):
        directions = torch.randn(k, rows.shape[1], dtype=torch.float64).sign()
        torch.testing.assert_close(factor.projections(directions.to(dtype)), rows @ directions.T, **near)
        draws = torch.randn(len(rows), k, dtype=torch.float64)
        torch.testing.assert_close(factor.weighted_sums(draws).double(), draws.T @ rows, **near)
    torch.testing.assert_close(factor.dense().double(), rows, **near)
    torch.testing.assert_close(factor.inner(factor), rows @ rows.T, **square)
    torch.testing.assert_close(factor.squares_and_sum()[0], (rows**2).sum(dim=1), **square)  # from what is kept now


@QUICK
@given(
    way=ways,
    n=st.integers(1, 5),
    groups=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    edges=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    single=st.booleans(),
)
def test_convolutions_of_any_kind(way, n, groups, widths, kernel, stride, padding, dilation, edges, single):
    room = [e + 2 * p - d * (k - 1) for e, p, d, k in zip(edges, padding, dilation, kernel, strict=True)]
    assume(min(room) > 0)
    torch.manual_seed(0)
    dtype, tolerance = (torch.float32, 2e-5) if single else (torch.float64, 1e-10)
    layer = nn.Conv2d(groups * widths[0], groups * widths[1], kernel, stride, padding, dilation, groups).to(dtype)
    x = torch.randn(n, groups * widths[0], *edges, dtype=dtype)
    delta = torch.randn_like(layer(x))
    rows = rows_by_torch_func(layer, x, delta)
    one, other = forced(way)
    with one, other, torch.no_grad():
        found = layers.convolution(layer, (x,), delta, n)
        check(found["weight"], rows["weight"], tolerance)
        check(found["bias"], rows["bias"], tolerance)


@QUICK
@given(
    way=ways,
    n=st.integers(1, 6),
    positions=st.integers(1, 9),
    widths=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    bias=st.booleans(),
)
def test_linear_layers_of_any_number_of_positions(way, n, positions, widths, bias):
    torch.manual_seed(0)
    layer = nn.Linear(*widths, bias=bias).double()
    x, delta = torch.randn(n, positions, widths[0]).double(), torch.randn(n, positions, widths[1]).double()
    rows = rows_by_torch_func(layer, x, delta)
    one, other = forced(way)
    with one, other, torch.no_grad():
        found = layers.linear(layer, (x,), delta, n)
        assert found.keys() == rows.keys()
        for name, factor in found.items():
            check(factor, rows[name], 1e-10)


NORMS = {
    "layer": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4), layers.layer_norm),
    "layer, samples only": (lambda: nn.LayerNorm(5), (5,), layers.layer_norm),
    "rms": (lambda: nn.RMSNorm(5), (4, 5), layers.rms_norm),
    "group": (lambda: nn.GroupNorm(2, 6), (6, 3, 2), layers.group_norm),
    "group, no pixels": (lambda: nn.GroupNorm(2, 6), (6,), layers.group_norm),
    "instance": (lambda: nn.InstanceNorm1d(3, affine=True), (3, 7), layers.instance_norm),
    "batch": (lambda: nn.BatchNorm2d(3).eval(), (3, 2, 4), layers.batch_norm),
}


@pytest.mark.parametrize("at_once", [1, 40, 2**16])
@pytest.mark.parametrize("name", NORMS)
def test_norms_in_blocks(name, at_once, monkeypatch):
    torch.manual_seed(0)
    build, shape, rule = NORMS[name]
    layer, x = build().double(), 1 + torch.randn(5, *shape).double()
    delta = torch.randn_like(layer(x))
    monkeypatch.setattr(layers, "NUMBERS_AT_ONCE", at_once)
    with torch.no_grad():
        found = rule(layer, (x,), delta, 5)
    for key, rows in rows_by_torch_func(layer, x, delta).items():
        check(found[key], rows, 1e-10)


def test_norms_of_millions_of_numbers_are_right_to_rounding():
    rows = torch.randn(2, 1_500_000, generator=torch.Generator().manual_seed(0))
    ought = rows.double().square().sum(dim=1)
    assert float((torch.linalg.vector_norm(rows, dim=1).double().square() / ought - 1).abs().max()) > 1e-5
    torch.testing.assert_close(factors.row_squares(rows), ought, rtol=3e-7, atol=0)
    few = rows[:, :9001]
    ought = few.double().square().sum(dim=1)
    torch.testing.assert_close(factors.Explicit(few).squares_and_sum()[0], ought, rtol=3e-7, atol=0)


def test_norms_that_overflow_are_asked_in_double_precision():
    inputs, deltas = 1e13 * torch.ones(2, 1, 40, 3), 1e13 * torch.ones(2, 1, 40, 3)
    factor = Outer(inputs, deltas)
    assert factor.explicit
    ought = (40e26**2 * 9) * torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(factor.squares_and_sum()[0], ought, rtol=1e-5, atol=0)


@QUICK
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    values=st.sampled_from([2, 5, 10**6]),  # few: many pixels of a window are equal
    seed=st.integers(0, 99),
)
def test_pooling_by_lines_is_pooling_with_the_same_derivatives(shape, window, values, seed):
    assume(window[0] <= shape[2] and window[1] <= shape[3])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values, shape, generator=generator).float().requires_grad_(True)
    ought, found = F.max_pool2d(x, window), pooled(x, window)
    assert torch.equal(found, ought)
    ahead = torch.randn(ought.shape, generator=generator)
    assert torch.equal(*(torch.autograd.grad(out, x, ahead)[0] for out in (found, ought)))


def test_only_windows_side_by_side_are_pooled_by_lines():
    plain, halves = nn.MaxPool2d(2), nn.MaxPool2d((2, 3))
    others = [
        nn.MaxPool2d(3, stride=2),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
    ]
    x, root = torch.randn(2, 3, 9, 9), nn.ModuleList([plain, halves, *others])
    with quick_pools(root):
        assert ["forward" in vars(layer) for layer in root] == [True, True, False, False, False, False]
        inside = [layer(x) for layer in root] + [plain(x[0]), plain(x.transpose(2, 3))]
    assert not any("forward" in vars(layer) for layer in root)
    for one, other in zip(inside, [layer(x) for layer in root] + [plain(x[0]), plain(x.transpose(2, 3))], strict=True):
        assert torch.equal(one, other)


class Attending(nn.Module):
    """Self-attention that may ask for its weights, or take a mask, or its keys from another tensor."""

    def __init__(self, *, mask=False, weights=False, apart=False, **options):
        super().__init__()
        self.inner, self.mask, self.weights, self.apart = nn.MultiheadAttention(6, 2, **options), mask, weights, apart
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        first = self.inner.batch_first
        x = x if first else x.transpose(0, 1)
        others = 2 * x if self.apart else x
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if self.mask else None
        found, shares = self.inner(x, others, others, attn_mask=mask, need_weights=self.weights)
        found = self.head(found.mean(dim=1 if first else 0))
        return found if shares is None else found + shares.square().sum(dim=(1, 2))[:, None]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("option", ["", "no bias", "mask", "weights", "apart", "add_zero_attn"])
def test_attention_from_the_graph(option, batch_first):
    options = {"bias": False} if option == "no bias" else {option: True} if option else {}
    torch.manual_seed(0)
    model = Attending(batch_first=batch_first, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x, y = torch.randn(12, 5, 6).double().numpy(), torch.randint(0, 3, (12,)).numpy()
    seen = []

    def watched(module, outputs):
        seen.append(attention_graph.products_inside(module, outputs))
        return seen[-1]

    with patch("sgdphases.estimators.backends.torch.capture.products_inside", watched):
        backend = TorchBackend(model, x, y)
    in_graph = option not in ("apart", "add_zero_attn")
    assert seen and all((found is not None) == in_graph for found in seen)
    reference, few = AutogradReference(model, x, y), torch.arange(12).numpy()
    directions = torch.randn(2, backend.n_parameters, dtype=torch.float64).numpy()
    one, other = (each.gradient_sums(few) for each in (backend, reference))
    torch.testing.assert_close(one.squared_norm, other.squared_norm)
    torch.testing.assert_close(torch.as_tensor(one.gradient_sum), torch.as_tensor(other.gradient_sum))
    torch.testing.assert_close(backend.projections(few, directions), reference.projections(few, directions))


def test_attention_with_a_frozen_part_is_left_to_its_rule():
    torch.manual_seed(0)
    model = Attending(batch_first=True).double()
    model.inner.in_proj_weight.requires_grad_(False)
    x, y = torch.randn(8, 5, 6).double().numpy(), torch.randint(0, 3, (8,)).numpy()
    backend, reference, few = TorchBackend(model, x, y), AutogradReference(model, x, y), torch.arange(8).numpy()
    torch.testing.assert_close(backend.gradient_sums(few).squared_norm, reference.gradient_sums(few).squared_norm)
