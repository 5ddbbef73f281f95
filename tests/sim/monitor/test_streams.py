"""Data sets that cannot be indexed: the first samples of a fresh iteration, and nothing of training is touched."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor

N = 90


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, :3] + 0.5 * torch.randn(N, 3, generator=generator)).argmax(dim=1)


class Shuffled(IterableDataset):
    """Counts its epochs, draws from generators of its own and from all global ones."""

    def __init__(self):
        self.x, self.y = data()
        self.epoch, self.own = 0, torch.Generator().manual_seed(3)

    def __iter__(self):
        self.epoch += 1
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.epoch))
        shift = torch.rand((), generator=self.own) + random.random() + torch.rand(())
        for index in order:
            yield self.x[index] + 0.01 * shift, self.y[index]


class Batched(Shuffled):
    """Gives whole batches."""

    def __iter__(self):
        samples = list(super().__iter__())
        for start in range(0, N, 16):
            x, y = zip(*samples[start : start + 16], strict=True)
            yield torch.stack(x), torch.stack(y)


def loaders(kind):
    if kind == "samples":
        return DataLoader(Shuffled(), batch_size=16)
    if kind == "batches":
        return DataLoader(Batched(), batch_size=None)
    if kind == "two workers":
        return DataLoader(Shuffled(), batch_size=16, num_workers=2, persistent_workers=True)
    x, y = data()
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return batches if kind == "list" else Anew(batches)


class Anew:
    """Neither a DataLoader nor of any length, but it begins anew each time."""

    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def __iter__(self):
        self.epoch += 1
        yield from (self.batches[k] for k in np.random.default_rng(self.epoch).permutation(len(self.batches)))


def trained(kind, watched, **options):
    random.seed(1), torch.manual_seed(1)
    loader, loss_fn = loaders(kind), nn.CrossEntropyLoss()
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = PhaseMonitor(model, loss_fn, loader, **options) if watched else None
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            if monitor is not None:
                monitor.step()
    if monitor is not None:
        monitor.measure_now()
    return model, monitor


@pytest.mark.parametrize("kind", ["samples", "batches", "list", "anew"])
def test_training_does_not_notice(kind):
    options = {} if kind == "list" else {"n_training": N}
    alone, _ = trained(kind, False)
    model, monitor = trained(kind, True, test_loader=loaders(kind), **options)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in alone.state_dict().items())
    found = monitor.trajectory
    assert found["step"][-1] == 12 and found["epoch"][-1] == 2
    assert {name: found.attrs[name] for name in ("n_samples", "n_training", "batch_size")} == {
        "n_samples": N, "n_training": N, "batch_size": 16,
    }  # fmt: skip
    if kind in ("list", "anew"):
        expected = sgdphases.measure(model, *data(), batch_size=16, alignment_batches=0)
        assert float(found["activity"][-1]) == pytest.approx(expected.activity, rel=1e-5)
        assert float(found["test_error"][-1]) == pytest.approx(expected.train_error)


def test_workers_of_the_loader_do_not_notice():
    alone, _ = trained("two workers", False)
    model, _ = trained("two workers", True, n_training=N, n_samples=40)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in alone.state_dict().items())


def test_the_first_samples_stand_for_a_long_stream():
    loader, model = loaders("samples"), nn.Linear(6, 3)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, n_training=100_000, n_samples=60, alignment_batches=0)
    found = monitor.trajectory
    assert found.attrs["n_training"] == 100_000 and found.attrs["steps_per_epoch"] == 6250
    assert monitor.watched.tolist() == list(range(60))
    x, y = zip(*[sample for sample, _ in zip(Shuffled(), range(60), strict=False)], strict=True)
    random.seed(0), torch.manual_seed(0)
    named = sgdphases.measure(
        model, torch.stack(x), torch.stack(y), batch_size=16, drawn_from=100_000, alignment_batches=0
    )
    assert float(found["loss"][0]) == pytest.approx(named.loss, rel=0.05)  # up to the shift that is drawn
    assert "activity_standard_error" in found


class Once(IterableDataset):
    def __init__(self):
        self.samples = (sample for sample in zip(*data(), strict=True))

    def __iter__(self):
        return self.samples


class OnceWithin(Once):
    def __iter__(self):
        return map(tuple, self.samples)


def monitor_of(loader, **options):
    return PhaseMonitor(nn.Linear(6, 3), nn.CrossEntropyLoss(), loader, **options)


def test_what_can_be_iterated_only_once_is_refused():
    with pytest.raises(UsageError, match="a generator, can be iterated only once"):
        monitor_of(batch for batch in loaders("list"))
    for dataset in (Once(), OnceWithin()):
        with pytest.raises(UsageError, match="does not start from its beginning"):
            monitor_of(DataLoader(dataset, batch_size=16), n_training=N)


def test_what_is_not_known_is_asked_for():
    with pytest.raises(UsageError, match="give n_training"):
        monitor_of(loaders("samples"))
    with pytest.raises(InputError, match="ends after 90 samples where 500"):
        monitor_of(loaders("samples"), n_training=500)
    with pytest.raises(UsageError, match="n_training = 5, but"):
        monitor_of(DataLoader(TensorDataset(*data()), batch_size=16), n_training=5)
    with pytest.raises(UsageError, match="wrong= needs samples with numbers"):
        monitor_of(loaders("samples"), n_training=N, wrong=np.zeros(N, bool))
    with pytest.raises(InputError, match="no samples"):
        monitor_of([])
    ragged = [
        (torch.randn(4, 6), torch.zeros(4, dtype=torch.long)),
        (torch.randn(4, 5), torch.zeros(4, dtype=torch.long)),
    ]
    with pytest.raises(InputError, match="pad them all to the same length"):
        monitor_of(ragged, alignment_batches=0)


def test_wrong_labels_of_a_list_of_batches():
    wrong = np.arange(N) % 2 == 0
    model = nn.Linear(6, 3)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loaders("list"), wrong=wrong, alignment_batches=0)
    expected = sgdphases.measure(model, *data(), batch_size=16, wrong=wrong, alignment_batches=0)
    assert float(monitor.trajectory["activity_w"][0]) == pytest.approx(expected.activity_w, rel=1e-5)


def test_a_sampler_that_leaves_samples_out_is_seen(caplog):
    part = torch.arange(0, N, 3)
    model, dataset = nn.Linear(6, 3), TensorDataset(*data())
    wrong = np.arange(N) % 2 == 0
    loader = DataLoader(dataset, batch_size=10, sampler=SubsetRandomSampler(part))
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, wrong=wrong, alignment_batches=0)
    x, y = (each[part] for each in data())
    expected = sgdphases.measure(model, x, y, batch_size=10, wrong=wrong[part], alignment_batches=0)
    assert float(monitor.trajectory["activity"][0]) == pytest.approx(expected.activity, rel=1e-6)
    assert float(monitor.trajectory["activity_w"][0]) == pytest.approx(expected.activity_w, rel=1e-6)
    assert (monitor.watched == part.numpy()).all() and not caplog.messages
    unequal = WeightedRandomSampler(torch.linspace(0.1, 1, N), N)
    monitor_of(DataLoader(dataset, batch_size=10, sampler=unequal), alignment_batches=0)
    assert "unequal weights" in caplog.text
