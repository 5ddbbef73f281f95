"""Projections of convolutions without gradients of single samples, and the other answers, beside plain ones."""

import pytest
import torch
from torch import nn

from sgdphases.estimators.backends.torch.factors import Outer, joined
from sgdphases.estimators.backends.torch.rules import convolved
from sgdphases.estimators.backends.torch.rules.convolved import Convolved, patches_of
from sgdphases.estimators.backends.torch.rules.layers import convolution

LAYERS = {
    "plain": (lambda: nn.Conv2d(3, 5, 3), (3, 7, 8)),
    "padded, strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2)), (4, 9, 8)),
    "dilated": (lambda: nn.Conv2d(2, 4, 3, dilation=2, padding=2), (2, 9, 9)),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3, padding=1), (6, 6, 5)),
    "each channel by itself": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "same": (lambda: nn.Conv2d(2, 3, 4, padding="same"), (2, 6, 6)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
    "along one axis": (lambda: nn.Conv1d(3, 4, 5, stride=2, padding=1), (3, 20)),
    "one pixel": (lambda: nn.Conv2d(5, 7, 3), (5, 3, 3)),
    "few pixels of many channels": (lambda: nn.Conv2d(40, 50, 3), (40, 4, 4)),
}


def factor_and_gradients(layer, shape, n=6):
    """The factor of the weight, and the gradients of single samples by autograd, shape (n, p)."""
    x, rows = torch.randn(n, *shape, dtype=torch.float64), []
    layer = layer.double()
    delta = torch.randn_like(layer(x))
    for k in range(n):
        (gradient,) = torch.autograd.grad((layer(x[k : k + 1]) * delta[k : k + 1]).sum(), layer.weight)
        rows.append(gradient.flatten())
    return convolution(layer, (x,), delta, n)["weight"], torch.stack(rows)


@pytest.mark.parametrize("name", LAYERS)
def test_every_answer_is_that_of_single_gradients(name):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build()
    for k in (1, 2, 40):
        factor, rows = factor_and_gradients(layer, shape)
        directions = torch.randn(k, rows.shape[1], dtype=torch.float64)
        assert isinstance(factor, Convolved)
        torch.testing.assert_close(factor.projections(directions), rows @ directions.T)
    torch.testing.assert_close(factor.dense(), rows)
    torch.testing.assert_close(factor.squared_norms(), (rows**2).sum(dim=1))
    torch.testing.assert_close(factor.weighted_sums(None), rows.sum(dim=0, keepdim=True))
    torch.testing.assert_close(factor.inner(factor), rows @ rows.T)
    torch.testing.assert_close(factor.projections(directions), rows @ directions.T)  # from what is laid out now


@pytest.mark.parametrize(
    ("shape", "kernel", "how"),
    [
        ((2, 3, 12, 12), (3, 3), dict(stride=(1, 1), padding=(1, 1), dilation=(1, 1))),
        ((2, 1, 28, 28), (5, 4), dict(stride=(1, 2), padding=(2, 0), dilation=(2, 1))),
        ((1, 2, 1, 40), (1, 7), dict(stride=(1, 3), padding=(0, 5), dilation=(1, 2))),
        ((3, 2, 5, 5), (3, 3), dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1))),
    ],
)
def test_patches_are_those_of_unfold(shape, kernel, how):
    x = torch.randn(shape).transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(patches_of(x, kernel, **how), torch.nn.functional.unfold(x, kernel, **how))


def test_few_directions_lay_out_nothing(monkeypatch):
    build, shape = LAYERS["few pixels of many channels"]
    factor, rows = factor_and_gradients(build(), shape)
    monkeypatch.setattr(convolved, "patches_of", None)
    directions = torch.randn(2, rows.shape[1], dtype=torch.float64)
    torch.testing.assert_close(factor.projections(directions), rows @ directions.T)


def test_a_layer_used_three_times_is_joined():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 3, 3, padding=1)
    uses = [factor_and_gradients(layer, (3, 5, 5)) for _ in range(3)]
    whole = joined(joined(uses[0][0], uses[1][0]), uses[2][0])
    rows = sum(gradients for _, gradients in uses)
    assert isinstance(whole, Outer)
    torch.testing.assert_close(whole.squared_norms(), (rows**2).sum(dim=1))
    directions = torch.randn(2, rows.shape[1], dtype=torch.float64)
    torch.testing.assert_close(whole.projections(directions), rows @ directions.T)
