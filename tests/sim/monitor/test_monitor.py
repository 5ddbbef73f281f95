"""The monitor in somebody's training loop: what it measures, and that training does not notice."""

import random

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor


class Augmented(Dataset):
    """Draws from every random stream there is."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = 0.01 * (random.random() + np.random.rand() + torch.rand(()).item())
        return self.x[index] + noise, self.y[index]


def data():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(90, 1, 6)).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, 3, 90))


def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 3)
    )


def train(watched, epochs=3, dataset=Augmented, **options):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    net, loss_fn = model(), nn.CrossEntropyLoss(label_smoothing=options.pop("label_smoothing", 0.0))
    loader = DataLoader(dataset(*data()), batch_size=16, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    monitor = PhaseMonitor(net, loss_fn, loader, **options) if watched else None
    for _ in range(epochs):
        for x, y in loader:
            loss_fn(net(x), y).backward()
            optimizer.step()
            if watched:
                monitor.step()
            optimizer.zero_grad(set_to_none=False)
    return net, monitor


def test_training_is_bit_identical_with_and_without_it():
    alone, _ = train(False)
    watched, monitor = train(True, wrong=np.arange(90) % 2 == 0, n_samples=50)
    assert len(monitor.trajectory["step"]) > 10
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    for one, other in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(not m._forward_hooks for m in watched.modules()) and watched.training
    after = random.random(), np.random.rand(), torch.rand(()).item()
    train(False)
    assert after == (random.random(), np.random.rand(), torch.rand(()).item())


def test_the_trajectory_is_that_of_a_run(tmp_path):
    x, y = data()
    wrong = np.arange(90) % 2 == 0
    test_loader = DataLoader(TensorDataset(x[:20], y[:20]), batch_size=7)
    net, monitor = train(True, dataset=TensorDataset, wrong=wrong, test_loader=test_loader, out=tmp_path / "mine")
    monitor.measure_now()
    with xr.open_dataset(tmp_path / "mine" / "trajectory.nc", engine="h5netcdf") as stored:
        assert stored.identical(monitor.trajectory)
        last = stored.isel(step=-1)
        assert last["step"] == 18 and last["epoch"] == 3 and stored["step"][0] == 0
        found = sgdphases.measure(net, x, y, batch_size=16, wrong=wrong, batch_norm="frozen", alignment_batches=0)
        for name in ("activity", "alignment_cw", "loss_w", "error_c"):
            assert float(last[name]) == pytest.approx(getattr(found, name), rel=1e-5), name
        net.eval()
        right = (net(x[:20]).argmax(dim=1) == y[:20]).double().mean()
        assert float(last["test_error"]) == pytest.approx(1 - float(right))
    assert stored["loss"].attrs["units"] == "nat"


def test_any_mean_loss_will_do_and_no_other():
    net, monitor = train(True, epochs=1, label_smoothing=0.1, dataset=TensorDataset)
    monitor.measure_now()
    net.eval()
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(net(data()[0]), data()[1]).detach()
    assert float(monitor.trajectory["loss"][-1]) == pytest.approx(float(expected), rel=1e-5)
    loader = DataLoader(TensorDataset(*data()), batch_size=16)
    with pytest.raises(UsageError, match="mean over samples"):
        PhaseMonitor(model(), nn.CrossEntropyLoss(reduction="sum"), loader)
    with pytest.raises(UsageError, match="mean over samples"):
        PhaseMonitor(model(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])), loader)
    with pytest.raises(InputError, match=r"shape \(90,\)"):
        PhaseMonitor(model(), nn.CrossEntropyLoss(), loader, wrong=np.zeros(5, bool))
