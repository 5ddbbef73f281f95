"""The monitor where training loops are not tidy: each test fails on a monitor that trusts them."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor
from sgdphases.sim.monitor.undisturbed import generators_in


def data(n=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + 0.5 * torch.randn(n, 3, generator=generator)).argmax(dim=1)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def loader(dataset=None, batch_size=16):
    return DataLoader(TensorDataset(*data()) if dataset is None else dataset, batch_size=batch_size, shuffle=True)


@pytest.mark.parametrize("batch_size", [128, 500])
def test_a_subset_stands_for_the_whole_training_set(batch_size):
    """Within 4.5 standard errors of what all samples give, in ten values: 5 degrees of freedom, 1 false in 20 tests."""
    x, y = data(6000)
    model = network()
    expected = sgdphases.measure(model, x, y, batch_size=batch_size, alignment_batches=200)
    whole = loader(TensorDataset(x, y), batch_size)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), whole, n_samples=1500, seed=3)
    found = monitor.trajectory.isel(step=0)
    names = ("activity", "directed_activity", "total_variance", "gradient_noise_scale", "alignment")
    assert np.isfinite(found["alignment"]) == (batch_size == 128)  # a subset of 1,500 holds three minibatches of 500
    for name in names if batch_size == 128 else names[:-1]:
        error = float(found[f"{name}_standard_error"])
        assert 0 < error and abs(float(found[name]) - getattr(expected, name)) < 4.5 * error, name
    naive = sgdphases.measure(model, x[:1500], y[:1500], batch_size=batch_size)
    assert abs(naive.total_variance / expected.total_variance - 1) > 0.05  # the subset's own minibatches vary less


def test_wrong_labels_of_a_subset_are_those_of_the_whole():
    x, y = data(6000)
    wrong = np.arange(6000) % 3 == 0
    y = torch.where(
        torch.from_numpy(wrong), torch.randint(0, 3, (6000,), generator=torch.Generator().manual_seed(5)), y
    )
    model = network()
    expected = sgdphases.measure(model, x, y, batch_size=64, wrong=wrong, alignment_batches=0)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader(TensorDataset(x, y), 64), wrong=wrong, n_samples=2000)
    found = monitor.trajectory.isel(step=0)
    assert float(found["noise_fraction"]) == pytest.approx(1 / 3)
    for name in ("activity_c", "activity_w", "directed_activity_c", "directed_activity_w", "alignment_cw", "loss_w"):
        error = float(found[f"{name}_standard_error"])
        assert 0 < error and abs(float(found[name]) - getattr(expected, name)) < 4.5 * error, name


def test_a_minibatch_beyond_the_subset_is_refused_and_the_default_holds_several():
    x, y = data(6000)
    with pytest.raises(UsageError, match="batch_size = 512 exceeds the 200 samples measured"):
        PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(TensorDataset(x, y), 512), n_samples=200)
    monitor = PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(TensorDataset(x, y), 512))
    assert monitor.trajectory.attrs["n_samples"] == 8 * 512
    assert np.isfinite(float(monitor.trajectory["alignment"][0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"per_decade": 0}, "per_decade = 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(), **options)


@pytest.mark.parametrize("ordered", [False, True], ids=["shuffled", "sorted by class"])
def test_class_weights_are_refused_wherever_they_begin(ordered):
    x, y = data()
    order = torch.argsort(y) if ordered else torch.arange(len(y))
    weight = torch.tensor([1.0, 5.0, 0.1])

    def weighted(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, weight=weight)

    for loss in (nn.CrossEntropyLoss(weight=weight), weighted):
        with pytest.raises(UsageError, match="mean over samples"):
            PhaseMonitor(network(), loss, loader(TensorDataset(x[order], y[order])))


def test_a_model_that_changes_is_measured_as_it_is():
    x, y = data()
    model = network()
    model[0].requires_grad_(False)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader(), alignment_batches=0)
    model[0].requires_grad_(True)
    monitor.step()
    torch.manual_seed(9)
    model[2] = nn.Linear(16, 3)
    monitor._record.steps += 10
    monitor.measure_now()
    now = sgdphases.measure(model, x, y, batch_size=16, alignment_batches=0)
    unfrozen = sgdphases.measure(network(), x, y, batch_size=16, alignment_batches=0)
    assert monitor.trajectory["activity"].to_numpy()[1:] == pytest.approx([unfrozen.activity, now.activity], rel=1e-6)


class Broken(nn.Linear):
    fails = False

    def forward(self, x):
        if self.fails:
            raise RuntimeError("no more memory")
        return super().forward(x)


def test_a_measurement_that_fails_never_ends_the_training():
    torch.manual_seed(0)
    model = nn.Sequential(Broken(6, 16), nn.Tanh(), nn.Linear(16, 3))
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader())
    model[0].fails = True
    with pytest.warns(RuntimeWarning, match="no more from step 1 on, .*no more memory"):
        monitor.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            monitor.step()
        monitor.measure_now()
    assert monitor.trajectory["step"].to_numpy().tolist() == [0]


def test_a_file_that_cannot_be_written_never_ends_it_either(tmp_path, monkeypatch):
    monitor = PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(), out=tmp_path / "mine")

    def full(*arguments):
        raise InputError("no space left")

    monkeypatch.setattr("sgdphases.sim.monitor.monitor.write_netcdf", full)
    with pytest.warns(RuntimeWarning, match="no space left"):
        monitor.measure_now()
    monitor.measure_now()  # no second warning, and nothing raised
    assert monitor.trajectory.sizes["step"] == 1


def test_a_folder_that_holds_a_trajectory_is_left_as_it_is(tmp_path):
    first = PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(), out=tmp_path / "mine")
    with pytest.raises(UsageError, match="mine"):  # in use
        PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(), out=tmp_path / "mine")
    first.step()
    before = (tmp_path / "mine" / "trajectory.nc").read_bytes()
    del first
    with pytest.raises(UsageError, match="not an empty folder"):
        PhaseMonitor(network(), nn.CrossEntropyLoss(), loader(), out=tmp_path / "mine")
    assert (tmp_path / "mine" / "trajectory.nc").read_bytes() == before


class Jittered(Dataset):
    """Draws from generators of its own: an attribute, one in a transform's closure, one in a list."""

    def __init__(self):
        self.x, self.y = data()
        self.torch, self.numpy = torch.Generator().manual_seed(1), [np.random.default_rng(2)]
        own = random.Random(3)
        self.transform = lambda x: x + 0.1 * own.random()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.rand((), generator=self.torch) + float(self.numpy[0].random())
        return self.transform(self.x[index] + 0.1 * noise), self.y[index]


def test_generators_of_a_data_set_are_put_back():
    def trained(watched):
        torch.manual_seed(4)
        model, dataset = network(), Jittered()
        batches = DataLoader(dataset, batch_size=16)
        optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
        monitor = PhaseMonitor(model, loss_fn, batches, test_loader=batches) if watched else None
        for _ in range(2):
            for x, y in batches:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
                if monitor is not None:
                    monitor.step()
        return model.state_dict()

    assert len(generators_in(Jittered())) == 3
    alone, watched = trained(False), trained(True)
    assert all(torch.equal(value, watched[name]) for name, value in alone.items())


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x.mul_(0.5).add_(1.0))


def test_measurements_at_unmoved_weights_agree():
    dataset = TensorDataset(*data())
    before = dataset.tensors[0].clone()
    monitor = PhaseMonitor(InPlace(), nn.CrossEntropyLoss(), loader(dataset), alignment_batches=0)
    for _ in range(4):
        monitor.step()
    found = monitor.trajectory["activity"].to_numpy()
    assert len(found) > 3 and (found == found[0]).all()
    assert torch.equal(dataset.tensors[0], before)


def test_data_that_cannot_be_measured_are_named():
    class Empty(Dataset):
        def __len__(self):
            return 0

        def __getitem__(self, index):
            raise IndexError(index)

    with pytest.raises(InputError, match="empty"):
        PhaseMonitor(network(), nn.CrossEntropyLoss(), DataLoader(Empty(), batch_size=4))
    with pytest.raises(UsageError, match="pairs"):
        PhaseMonitor(network(), nn.CrossEntropyLoss(), DataLoader(TensorDataset(data()[0]), batch_size=4))
    stream = DataLoader(TensorDataset(*data()), batch_size=16)
    with torch.no_grad():
        PhaseMonitor(network(), nn.CrossEntropyLoss(), stream)
