"""Attention and GPT-2's linear layers in closed form, held against autograd sample by sample and against torch.func."""

import numpy as np
import pytest
import torch
from torch import nn

import sgdphases
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.reference import AutogradReference
from sgdphases.estimators.backends.torch.rules import layers

N, L, S, E = 10, 5, 7, 8


class Attends(nn.Module):
    """Attention within a sequence or from one to another, with every kind of mask, its weights used or not."""

    def __init__(self, mask="", padded=False, weights=False, average=True, crossed=False, **options):
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(E, 2, **options), nn.Linear(E, 3)
        if self.attend.in_proj_bias is not None:
            nn.init.normal_(self.attend.in_proj_bias, std=0.3)
        self.mask, self.padded, self.weights, self.average, self.crossed = mask, padded, weights, average, crossed

    def forward(self, x):
        x = x.unflatten(1, (-1, E))
        first, attend = x[:, 0, :1] > 0, self.attend  # masks that differ from sample to sample
        q = k = v = x[:, :L]
        if self.crossed:
            k = v = torch.sin(x[:, L:]).repeat(1, 1, 2)[..., : attend.kdim]
            v = v[..., : attend.vdim]
        grid = torch.linspace(-1, 1, q.shape[1] * k.shape[1]).view(q.shape[1], k.shape[1]).to(x)
        mask = {"": None, "causal": grid < grid.T if not self.crossed else None, "numbers": grid}.get(self.mask)
        if self.mask == "by sample":
            mask = first.repeat_interleave(2, 0).view(-1, 1, 1) * grid
        padding = (torch.arange(k.shape[1]) >= k.shape[1] - 2) & first if self.padded else None
        if not attend.batch_first:
            q, k, v = (each.transpose(0, 1) for each in (q, k, v))
        out, shares = attend(
            q, k, v, padding, need_weights=self.weights, attn_mask=mask, average_attn_weights=self.average
        )
        z = self.head(torch.tanh(out if attend.batch_first else out.transpose(0, 1)).mean(dim=1))
        return z if shares is None else z + 10 * shares.flatten(1)[:, :3] * shares.flatten(1)[:, 3:6]


def data(width=(L + S) * E):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, width, generator=generator, dtype=torch.float64)
    return x.numpy(), torch.randint(0, 3, (N,), generator=generator).numpy()


def rows(backend):
    factors = backend._factors(np.arange(N))[0]
    return torch.cat([factors[p].dense() for p in backend._parameters], dim=1).numpy()


def rules_of(backend):
    return {path: claim.rule and claim.rule.__name__ for path, claim in backend._capture.claims.items()}


CASES = [
    {"mask": "causal", "padded": True},
    {"mask": "causal", "batch_first": False},
    {"mask": "numbers", "weights": True},
    {"mask": "by sample", "padded": True, "weights": True, "average": False},
    {"crossed": True, "mask": "numbers"},
    {"crossed": True, "kdim": 10, "vdim": 6, "batch_first": False},
    {"bias": False, "dropout": 0.3},
]


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_has_a_rule(case):
    torch.manual_seed(1)
    module, (x, y) = Attends(**{"batch_first": True, **case}).double(), data()
    backend = TorchBackend(module, x, y)
    assert rules_of(backend) == {"attend": "attention", "head": "linear"}
    reference = AutogradReference(module, x, y)
    everyone, expected = np.arange(N), reference.sample_gradients(np.arange(N))[0]
    assert rows(backend) == pytest.approx(expected, abs=1e-12)
    assert backend.gram(everyone, everyone) == pytest.approx(expected @ expected.T, abs=1e-12)
    found = backend.gradient_sums(everyone)
    assert found.squared_norm == pytest.approx((expected**2).sum(axis=1), abs=1e-12)
    assert np.asarray(found.gradient_sum).ravel() == pytest.approx(expected.sum(axis=0), abs=1e-12)
    directions = np.random.default_rng(0).normal(size=(2, backend.n_parameters))
    assert backend.projections(everyone, directions) == pytest.approx(expected @ directions.T, abs=1e-11)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_attention_without_a_rule_is_measured_by_torch_func(options, caplog):
    torch.manual_seed(1)
    module, (x, y) = Attends(batch_first=True, **options).double(), data()
    backend = TorchBackend(module, x, y)
    assert rules_of(backend)["attend"] is None and "torch.func" in caplog.text
    assert rows(backend) == pytest.approx(AutogradReference(module, x, y).sample_gradients(np.arange(N))[0], abs=1e-12)


class Pooled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(E, 3)

    def forward(self, x):
        x = x.unflatten(1, (-1, E))
        z = self.layer(x[:, :L], x[:, L:]) if isinstance(self.layer, nn.TransformerDecoderLayer) else self.layer(x)
        return self.head(z.mean(dim=1))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_transformer_layers_need_no_torch_func(kind, monkeypatch):
    """float32, dropout off, in training mode; the same by torch.func."""
    torch.manual_seed(1)
    module, (x, y) = Pooled(kind(E, 2, 12, dropout=0.2, batch_first=True)), data()
    backend = TorchBackend(module, x, y)
    assert None not in rules_of(backend).values() and "layer.self_attn" in rules_of(backend)
    expected = AutogradReference(module, x, y).sample_gradients(np.arange(N))[0]
    assert rows(backend) == pytest.approx(expected, abs=1e-5 * np.abs(expected).max())
    monkeypatch.delitem(layers.RULES, nn.MultiheadAttention)
    other = TorchBackend(module, x, y)
    assert rules_of(other)["layer.self_attn"] is None
    assert rows(other) == pytest.approx(rows(backend), abs=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_attention_whose_projection_is_changed_falls_back():
    """The rule knows its own parameters only: a parametrization of the inner layer adds others."""
    torch.manual_seed(1)
    module, (x, y) = Attends(batch_first=True).double(), data()
    nn.utils.parametrizations.weight_norm(module.attend.out_proj)
    backend = TorchBackend(module, x, y)
    assert rules_of(backend)["attend"] is None
    assert rows(backend) == pytest.approx(AutogradReference(module, x, y).sample_gradients(np.arange(N))[0], abs=1e-12)


def test_gpt2s_linear_layers_have_a_rule():
    utilities = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed")
    torch.manual_seed(1)
    layer = utilities.Conv1D(6, E)
    nn.init.normal_(layer.bias)
    module, (x, y) = Pooled(nn.Sequential(layer, nn.Tanh(), nn.Linear(6, E))).double(), data()
    backend = TorchBackend(module, x, y)
    assert rules_of(backend)["layer.0"] == "transposed_linear"
    assert rows(backend) == pytest.approx(AutogradReference(module, x, y).sample_gradients(np.arange(N))[0], abs=1e-12)
    found = sgdphases.check(module, x, y, n_samples=N)
    assert found.hold, str(found)
