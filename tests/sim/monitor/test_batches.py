"""Batches, models and losses of every kind, each measured as training has it, or refused."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor

N, T, K = 40, 5, 3
generator = torch.Generator().manual_seed(0)
X = torch.randn(N, T, generator=generator)
Y = torch.randint(0, K, (N,), generator=generator)
SOFT = torch.softmax(torch.randn(N, K, generator=generator), dim=1)
TOKENS, LENGTHS = torch.randint(0, 9, (N, T), generator=generator), torch.randint(1, T + 1, (N,), generator=generator)
COUNTS = torch.arange(T) < LENGTHS[:, None]


def activity(model, loss_of_sample):
    """A of minibatches of 10, from the gradients of single samples by plain autograd."""
    rows = []
    for i in range(N):
        gradients = torch.autograd.grad(loss_of_sample(i), list(model.parameters()), allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True)]
        rows.append(torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in own]).double())
    rows = torch.stack(rows)
    mean, kappa = rows.mean(dim=0), (N - 10) / (10 * (N - 1))
    return float(mean @ mean + kappa * (rows - mean).square().sum(dim=1).mean())


def measured(model, loss_fn, loader, **options):
    found = PhaseMonitor(model, loss_fn, loader, alignment_batches=0, **options).trajectory
    return float(found["activity"][0])


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Named(NamedTuple):
    label: torch.Tensor
    x: torch.Tensor


class Several(NamedTuple):
    x: torch.Tensor
    shift: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Parts:
    x: torch.Tensor
    shift: torch.Tensor | None


@dataclass
class Batch:
    x: torch.Tensor
    labels: torch.Tensor


@dataclass
class Nested:
    inputs: Parts
    targets: dict[str, Any]


class Linear(nn.Module):
    """Takes tensors, keywords, or a dataclass; answers with a dataclass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(T, K)

    def forward(self, x, shift=None):
        if isinstance(x, Parts):
            x, shift = x.x, x.shift
        return self.layer(x if shift is None else x + shift[:, None])


SHIFT = torch.linspace(-1, 1, N)
PLAIN = activity(model := Linear(), lambda i: F.cross_entropy(model(X[i : i + 1]), Y[i : i + 1]))
SHIFTED = activity(model := Linear(), lambda i: F.cross_entropy(model(X[i : i + 1], SHIFT[i : i + 1]), Y[i : i + 1]))


def nested(samples):
    x, shift, y = (torch.stack(part) for part in zip(*samples, strict=True))
    return Nested(Parts(x, shift), {"label": y})


def loss_of(model, batch):
    assert isinstance(batch, Nested) and isinstance(batch.inputs, Parts)
    return F.cross_entropy(model(batch.inputs), batch.targets["label"], reduction="none")


@pytest.mark.parametrize(
    ("expected", "samples", "options"),
    [
        (PLAIN, [Pair(x, y) for x, y in zip(X, Y, strict=True)], {}),
        (PLAIN, [Named(y, x) for x, y in zip(X, Y, strict=True)], {}),
        (SHIFTED, [Several(*each) for each in zip(X, SHIFT, Y, strict=True)], {}),
        (PLAIN, [(x, y) for x, y in zip(X, Y, strict=True)], {
            "collate": lambda given: Batch(*(torch.stack(part) for part in zip(*given, strict=True)))}),
        (SHIFTED, list(zip(X, SHIFT, Y, strict=True)), {
            "collate": nested, "split": lambda batch: (batch.inputs, batch.targets["label"])}),
        (PLAIN, list(zip(X, SHIFT, Y, strict=True)), {
            "collate": nested, "split": lambda batch: (Parts(batch.inputs.x, None), batch.targets["label"])}),
        (SHIFTED, list(zip(X, SHIFT, Y, strict=True)), {"collate": nested, "loss_of": loss_of}),
        (PLAIN, list(zip(X, Y, strict=True)), {  # a list, as DataLoaders give samples that are tuples
            "loss_of": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none")}),
    ],
    ids=["pair", "named pair", "named", "dataclass", "nested", "with None in it", "loss_of nested", "loss_of a list"],
)  # fmt: skip
def test_batches(expected, samples, options):
    options = dict(options)
    loader = DataLoader(samples, batch_size=10, collate_fn=options.pop("collate", None))
    loss_fn = None if "loss_of" in options else F.cross_entropy
    assert measured(Linear(), loss_fn, loader, **options) == pytest.approx(expected, rel=1e-5)


def test_a_batch_that_nobody_could_know_is_named():
    samples = list(zip(X, SHIFT, Y, strict=True))
    with pytest.raises(UsageError, match=r"batches \(Nested with inputs, targets\).*split="):
        measured(Linear(), F.cross_entropy, DataLoader(samples, batch_size=10, collate_fn=nested))


class Texts(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"input_ids": TOKENS[index], "attention_mask": COUNTS[index].long(), "labels": Y[index] % 2}


def test_a_model_that_answers_with_a_model_output():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=T, num_labels=2, **sizes)
    model = transformers.BertForSequenceClassification(config).eval()

    def one(i):
        return model(TOKENS[i : i + 1], COUNTS[i : i + 1].long()).logits

    expected = activity(model, lambda i: F.cross_entropy(one(i), Y[i : i + 1] % 2))
    loader = DataLoader(Texts(), batch_size=10)
    assert measured(model, F.cross_entropy, loader, output="logits") == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UsageError, match="SequenceClassifierOutput with the keys logits"):
        measured(model, F.cross_entropy, loader)


class Tagger(nn.Module):
    """A class for every position: answers (n, K, T)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, K)

    def forward(self, tokens):
        return self.head(torch.tanh(self.table(tokens))).transpose(1, 2)


TAGS = (TOKENS + torch.arange(T)) % K
PADDED = torch.where(COUNTS, TAGS, -100)


def by_sample(outputs, targets):
    """Each sequence counts the same, however long it is."""
    each = F.cross_entropy(outputs, targets, ignore_index=-100, reduction="none")
    return (each.sum(dim=1) / (targets != -100).sum(dim=1)).mean()


def by_word(outputs, targets):
    """Each word counts the same: the sum, over the mean number of words in a sequence of the data set."""
    words = float(COUNTS.sum()) / N
    return F.cross_entropy(outputs, targets, ignore_index=-100, reduction="none").sum(dim=1).mean() / words


@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [
        (F.cross_entropy, TAGS),
        (nn.CrossEntropyLoss(label_smoothing=0.2), TAGS),
        (by_sample, PADDED),
        (by_word, PADDED),
        (nn.CrossEntropyLoss(ignore_index=0), torch.where(torch.arange(T) < 2, 0, TAGS % 2 + 1)),  # as much in each
    ],
    ids=["every position", "smoothed", "padding by sample", "padding by word", "as much padding in each"],
)
def test_losses_of_sequences(loss_fn, targets):
    model = Tagger()
    expected = activity(model, lambda i: loss_fn(model(TOKENS[i : i + 1]), targets[i : i + 1]))
    found = measured(model, loss_fn, DataLoader(TensorDataset(TOKENS, targets), batch_size=10))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [
        (F.cross_entropy, PADDED),
        (nn.CrossEntropyLoss(label_smoothing=0.2), PADDED),
        (nn.CrossEntropyLoss(ignore_index=1), TAGS),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2])), TAGS),
        (nn.CrossEntropyLoss(reduction="sum"), TAGS),
    ],
    ids=["padding", "padding, smoothed", "an ignored class", "class weights", "a sum"],
)
def test_losses_of_sequences_that_are_no_mean_over_samples_are_refused(loss_fn, targets):
    with pytest.raises(UsageError, match="no mean over samples"):
        measured(Tagger(), loss_fn, DataLoader(TensorDataset(TOKENS, targets), batch_size=10))


WEIGHT = torch.tensor([1.0, 3.0, 0.2])


@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [
        (F.cross_entropy, SOFT),
        (nn.CrossEntropyLoss(), SOFT),
        (nn.CrossEntropyLoss(label_smoothing=0.1), SOFT),
        (nn.CrossEntropyLoss(weight=WEIGHT), SOFT),  # PyTorch divides by the number of samples here
        (lambda out, y: F.kl_div(out.log_softmax(dim=1), y, reduction="batchmean"), SOFT),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), (SOFT > 0.3).float()),
        (lambda out, y: (WEIGHT[y] * F.cross_entropy(out, y, reduction="none")).mean(), Y),
        (nn.CrossEntropyLoss(label_smoothing=0.1), Y),
    ],
    ids=["soft", "soft, a module", "soft, smoothed", "soft, weighted", "Kullback-Leibler", "several labels",
         "weights by sample", "smoothed"],
)  # fmt: skip
def test_soft_targets_weights_and_smoothing(loss_fn, targets):
    model = Linear()
    expected = activity(model, lambda i: loss_fn(model(X[i : i + 1]), targets[i : i + 1]))
    found = measured(model, loss_fn, DataLoader(TensorDataset(X, targets), batch_size=10))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), Y),
        (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), Y),
        (nn.CrossEntropyLoss(ignore_index=2), Y),
        (lambda out, y: F.kl_div(out.log_softmax(dim=1), y, reduction="sum"), SOFT),
    ],
    ids=["class weights", "class weights, smoothed", "an ignored class", "a sum"],
)
def test_weights_that_make_no_mean_over_samples_are_refused(loss_fn, targets):
    with pytest.raises(UsageError, match="no mean over samples"):
        measured(Linear(), loss_fn, DataLoader(TensorDataset(X, targets), batch_size=10))


class Bag(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, K)

    def forward(self, tokens):
        return self.head(torch.tanh(self.table(tokens)).mean(dim=1))


def bag_trained(sparse, watched):
    model = Bag(sparse)
    loader = DataLoader(TensorDataset(TOKENS, Y), batch_size=10)
    optimizers = [
        torch.optim.SparseAdam([model.table.weight]) if sparse else torch.optim.Adam([model.table.weight]),
        torch.optim.SGD(model.head.parameters(), 0.1),
    ]
    monitor = PhaseMonitor(model, F.cross_entropy, loader) if watched else None
    for _ in range(3):
        for x, y in loader:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
            if monitor is not None:
                monitor.step()
    return model, monitor


def test_sparse_embeddings():
    (alone, _), (model, monitor) = bag_trained(True, False), bag_trained(True, True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in alone.state_dict().items())
    assert model.table.weight.grad.is_sparse
    monitor.measure_now()
    expected = activity(model, lambda i: F.cross_entropy(model(TOKENS[i : i + 1]), Y[i : i + 1]))
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(expected, rel=1e-5)
    ordinary = Bag(False)
    ordinary.load_state_dict(model.state_dict())
    loader = DataLoader(TensorDataset(TOKENS, Y), batch_size=10)
    assert measured(ordinary, F.cross_entropy, loader) == pytest.approx(expected, rel=1e-5)


def test_lazy_modules_need_one_forward_pass():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, T)), nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(K)
    )
    loader = DataLoader(TensorDataset(X, Y), batch_size=10)
    with pytest.raises(UsageError, match="is lazy and has no shape yet: run one forward pass first"):
        measured(model, F.cross_entropy, loader)
    model.eval()(X)
    expected = activity(model, lambda i: F.cross_entropy(model(X[i : i + 1]), Y[i : i + 1]))
    model.train()
    assert measured(model, F.cross_entropy, loader) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(expected)
