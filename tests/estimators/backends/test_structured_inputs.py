"""Models that take several tensors or keywords, and losses that somebody defines from model and batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError

N, T, K = 40, 6, 3


class TextAndNumbers(nn.Module):
    """Tokens with a mask of those that count, and numbers beside them."""

    def __init__(self):
        super().__init__()
        self.table, self.own, self.head = nn.Embedding(9, 4), nn.Linear(2, 4), nn.Linear(4, K)

    def forward(self, tokens, numbers, mask=None):
        z = self.table(tokens)
        weight = torch.ones_like(tokens, dtype=z.dtype) if mask is None else mask.to(z.dtype)
        z = (z * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
        return {"logits": self.head(torch.tanh(z + self.own(numbers)))}


def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 9, (N, T), generator=generator)
    mask = torch.arange(T) < torch.randint(1, T + 1, (N, 1), generator=generator)
    numbers = torch.randn(N, 2, generator=generator)
    return {"tokens": tokens, "numbers": numbers, "mask": mask}, torch.randint(0, K, (N,), generator=generator)


def model():
    torch.manual_seed(0)
    return TextAndNumbers()


def activity(losses_of):
    """A of minibatches of 10, from losses of single samples by plain autograd."""
    net = model()
    rows = []
    for i in range(N):
        found = torch.autograd.grad(losses_of(net, i), list(net.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]).double().numpy())
    rows = np.array(rows)
    mean = rows.mean(axis=0)
    return mean @ mean + (N - 10) / (10 * (N - 1)) * ((rows - mean) ** 2).sum(axis=1).mean()


def of_one(x, i):
    return {name: values[i : i + 1] for name, values in x.items()}


def test_keywords_and_several_tensors():
    x, y = batch()
    expected = activity(lambda net, i: F.cross_entropy(net(**of_one(x, i))["logits"], y[i : i + 1]))
    options = dict(batch_size=10, output="logits", alignment_batches=0)
    by_name = sgdphases.measure(model(), x, y, **options)
    assert by_name.activity == pytest.approx(expected, rel=1e-5) and by_name.train_error == by_name.train_error
    arrays = {name: values.numpy() for name, values in x.items()}
    assert sgdphases.measure(model(), arrays, y.numpy(), **options).activity == by_name.activity
    in_order = (x["tokens"], x["numbers"], x["mask"])
    assert sgdphases.measure(model(), in_order, y, **options).activity == pytest.approx(expected, rel=1e-5)


def loss_of(net, given):
    inputs, targets = given
    each = F.cross_entropy(net(**inputs)["logits"], targets["label"], reduction="none")
    return targets["weight"] * each


def test_a_loss_of_somebodys_own():
    x, y = batch()
    weight = torch.linspace(0.5, 2, N)
    given = (x, {"label": y, "weight": weight})
    expected = activity(
        lambda net, i: weight[i] * F.cross_entropy(net(**of_one(x, i))["logits"], y[i : i + 1])
    )  # fmt: skip
    found = sgdphases.measure(model(), given, None, batch_size=10, loss_of=loss_of, alignment_batches=0)
    assert found.activity == pytest.approx(expected, rel=1e-5)
    assert np.isnan(found.train_error)
    checks = sgdphases.check(model(), given, None, loss_of=loss_of, n_samples=30)
    assert checks.hold, str(checks)


def test_what_is_no_loss_of_samples_is_refused():
    x, y = batch()
    given = (x, {"label": y, "weight": torch.ones(N)})
    with pytest.raises(UsageError, match="one loss a sample"):
        sgdphases.measure(model(), given, None, batch_size=10, loss_of=lambda net, b: loss_of(net, b).mean())

    def coupled(net, given):
        each = loss_of(net, given)
        return each - each.mean() / 2

    with pytest.raises(UsageError, match="gradient of its own"):
        sgdphases.measure(model(), given, None, batch_size=10, loss_of=coupled)


def test_parts_that_do_not_fit_are_named():
    x, y = batch()
    options = dict(batch_size=10, output="logits")
    with pytest.raises(InputError, match="no common number"):
        sgdphases.measure(model(), {**x, "numbers": x["numbers"][:5]}, y, **options)
    with pytest.raises(InputError, match=r"x\['numbers'\] holds values that are not finite"):
        sgdphases.measure(model(), {**x, "numbers": x["numbers"] / 0}, y, **options)
    with pytest.raises(InputError, match="does not take such samples"):
        sgdphases.measure(model(), {**x, "more": y}, y, **options)
    with pytest.raises(InputError, match="dtype"):
        sgdphases.measure(model(), {**x, "numbers": np.array([["a", "b"]] * N)}, y, **options)
