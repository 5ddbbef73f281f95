"""Models of every kind are measured as they are; settings, labels and inputs that make no sense are named."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import D, K, N, activity, data, gradients, network
from torch import nn
from torch.nn import functional as F

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError


class Answers(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = network(), kind

    def forward(self, x):
        out = self.body(x)
        return {"dict": {"logits": out}, "tuple": (x, out), "object": SimpleNamespace(logits=out)}[self.kind]


@pytest.mark.parametrize(
    ("kind", "output"),
    [("dict", "logits"), ("tuple", 1), ("object", "logits"), ("tuple", lambda answer: answer[-1])],
)
def test_models_that_answer_with_more_than_a_tensor(kind, output):
    x, y = data()
    model = Answers(kind)
    found = sgdphases.measure(model, x, y, batch_size=10, output=output, alignment_batches=0)
    assert found.activity == pytest.approx(activity(gradients(model.body, x, y), 10), rel=1e-4)
    with pytest.raises(UsageError, match="output="):
        sgdphases.measure(model, x, y, batch_size=10)
    with pytest.raises(UsageError, match="output = 'nothing'"):
        sgdphases.measure(model, x, y, batch_size=10, output="nothing")


class WithDropout(nn.Module):
    """Dropout in every form: in attention, in a recurrent layer, as a function, and inside attention as a function."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True)
        self.recurrent = nn.LSTM(4, 4, 2, dropout=0.4, batch_first=True)
        self.head = nn.Linear(4, K)

    def forward(self, x):
        z = self.embed(x[..., None])
        z = z + self.attention(z, z, z)[0]
        z = F.dropout(self.recurrent(z)[0], 0.3, self.training)
        z = F.scaled_dot_product_attention(z, z, z, dropout_p=0.3 if self.training else 0.0)
        return self.head(z.mean(dim=1))


def test_dropout_in_every_form_is_off():
    torch.manual_seed(0)
    model, (x, y) = WithDropout(), data()
    found = sgdphases.measure(model, x, y, batch_size=10, alignment_batches=0)
    assert model.training and model.recurrent.dropout == 0.4 and model.attention.training
    assert found.activity == pytest.approx(activity(gradients(copy.deepcopy(model).eval(), x, y), 10), rel=1e-4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"batch_first": True}]
)
def test_recurrent_layers_have_a_rule(kind, options, caplog):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = kind(2, 3, **options)
            self.head = nn.Linear(6 if options.get("bidirectional") else 3, K)

        def forward(self, x):
            z = x.unflatten(1, (2, 2))
            batch_first = options.get("batch_first", False)
            out, last = self.inner(z if batch_first else z.transpose(0, 1))
            last = last[0] if isinstance(last, tuple) else last
            return self.head(out.mean(dim=1 if batch_first else 0)) + last.sum(dim=(0, 2))[:, None]

    torch.manual_seed(0)
    model, (x, y) = Model(), data()
    found = sgdphases.measure(model, x[:, :4], y, batch_size=10, alignment_batches=0)
    assert found.activity == pytest.approx(activity(gradients(model, x[:, :4], y), 10), rel=1e-4)
    assert "slow" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"seed": 0.5}, "seed = 0.5"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"batch_size": float("nan")}, "batch_size = nan"),
        ({"batch_size": 41}, "batch_size = 41"),
        ({"alignment_batches": -1}, "-1 minibatches"),
        ({"estimator": "best"}, "estimator = 'best'"),
        ({"ensemble": "layered"}, "ensemble = 'layered'"),
        ({"loss": None}, "loss = None"),
        ({"loss": "mse"}, "loss = 'mse'"),
        ({"parameters": "nothing"}, "nothing"),
        ({"dtype": "int8"}, "dtype = int8"),
        ({"device": "nowhere"}, "nowhere"),
        ({"drawn_from": 30}, "drawn_from = 30"),
        ({"dropout": "half"}, "dropout = 'half'"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(InputError, match=message):
        sgdphases.measure(network(), *data(), **{"batch_size": 10, **options})


def test_labels_and_masks_that_make_no_sense_are_named():
    x, y = data()
    for labels in (["a"] * N, np.full(N, 7), np.full((N, 2), 1), y[:5], y.numpy() + 0j, None):
        with pytest.raises(InputError):
            sgdphases.measure(network(), x, labels, batch_size=10)
    for mask in (y, np.zeros(3, bool), [True]):
        with pytest.raises(InputError, match="wrong"):
            sgdphases.measure(network(), x, y, batch_size=10, wrong=mask)
    for inputs in (torch.randn(N, D).to_sparse(), np.full((N, D), np.nan), np.zeros((0, D)), np.float64(3.0), x[:, 0]):
        with pytest.raises(InputError):
            sgdphases.measure(network(), inputs, y[: np.size(inputs) and N], batch_size=10)


def test_inference_mode_is_refused_by_name():
    x, y = data()
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        sgdphases.measure(network(), x, y, batch_size=10)


class Counting(nn.Module):
    """Keeps a running mean of its inputs in training mode, and subtracts what it had before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(D))
        self.body = network()

    def forward(self, x):
        centred = x - self.mean
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
        return self.body(centred)


def test_buffers_that_somebodys_module_moves_are_put_back():
    x, y = data()
    model = Counting()
    found = [sgdphases.measure(model, x, y, batch_size=10, alignment_batches=0).activity for _ in range(2)]
    assert found[0] == found[1] and torch.equal(model.mean, torch.zeros(D))
    expected = activity(gradients(copy.deepcopy(model).eval(), x, y), 10)
    assert found[0] == pytest.approx(expected, rel=1e-4)
