"""The sampled estimator where no sample has a gradient of its own: it follows the training loop's minibatches."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sgdphases
from sgdphases.estimators.errors import UsageError

N, D, K, B = 48, 5, 3, 8
WEIGHT = torch.tensor([1.0, 5.0, 0.1])


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=generator), torch.randint(0, K, (N,), generator=generator)


class HandWrittenBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, 8), nn.Linear(8, K)

    def forward(self, x):
        z = self.first(x)
        return self.second(torch.tanh((z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + 1e-5).sqrt()))


def network():
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, K))


def contrastive(outputs, targets):
    return (outputs @ outputs.T * (targets[:, None] == targets)).mean()


def of_tokens():
    model = nn.Sequential(nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Linear(4, 9))
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 9, (N, 6), generator=generator), torch.randint(1, 9, (N, 6), generator=generator)
    y[::2, 3:] = 0
    return model, x, y


def padded(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)


CASES = {
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, K)), nn.CrossEntropyLoss()),
    "BatchNorm by hand": (HandWrittenBatchNorm, nn.CrossEntropyLoss()),
    "class weights": (network, nn.CrossEntropyLoss(weight=WEIGHT)),
    "a sum": (network, nn.CrossEntropyLoss(reduction="sum")),
    "ignored labels": (network, nn.CrossEntropyLoss(ignore_index=1)),
    "contrastive": (network, contrastive),
    "scaled by frequency, padded": (None, padded),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_training_loops_own(name):
    """A and the mean loss of 400 other minibatches, within 5 standard errors of the difference: 1 in 10^6 is false."""
    torch.manual_seed(0)
    make, loss = CASES[name]
    model, x, y = of_tokens() if make is None else (make(), *data())
    found = sgdphases.measure(model, x, y, batch_size=B, loss=loss, estimator="sampled", n_batches=400)
    rng, squares, losses = np.random.default_rng(7), [], []
    for _ in range(400):
        batch = rng.choice(N, B, replace=False)
        model.zero_grad()
        value = loss(model(x[batch]), y[batch])
        value.backward()
        squares.append(sum(float(p.grad.square().sum()) for p in model.parameters()))
        losses.append(float(value))
    for expected, (mine, error) in (
        (squares, (found.activity, found.standard_errors["activity"])),
        (losses, (found.loss, found.standard_errors["loss"])),
    ):
        assert error > 0
        assert abs(np.mean(expected) - mine) < 5 * np.hypot(error, np.std(expected) / 20)


@pytest.mark.parametrize("name", ["class weights", "contrastive", "ignored labels"])
def test_populations_of_a_loss_that_is_no_mean_over_samples_are_refused(name):
    make, loss = CASES[name]
    with pytest.raises(UsageError, match="mean over samples"):
        sgdphases.measure(make(), *data(), batch_size=B, loss=loss, estimator="sampled", wrong=np.arange(N) % 2 == 0)


def test_it_agrees_with_closed_forms_where_there_are_any():
    model, (x, y) = network(), data()
    closed = sgdphases.measure(model, x, y, batch_size=B, loss=nn.CrossEntropyLoss(), wrong=np.arange(N) < 20)
    drawn = sgdphases.measure(
        model, x, y, batch_size=B, loss=nn.CrossEntropyLoss(), wrong=np.arange(N) < 20, estimator="sampled",
        n_batches=400,
    )  # fmt: skip
    for name in ("activity", "directed_activity", "total_variance", "alignment_cw", "loss_w"):
        gap = abs(getattr(closed, name) - getattr(drawn, name))
        assert gap < 5 * drawn.standard_errors[name], name
