"""Several processes that train one model: each measures its share, and all get what one process alone would."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import xarray as xr
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import sgdphases
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.monitor import processes
from sgdphases.sim.monitor.monitor import PhaseMonitor

N = 101  # no multiple of two


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, :3] + 0.5 * torch.randn(N, 3, generator=generator)).argmax(dim=1)


WRONG = np.arange(N) % 3 == 0
OPTIONS = {"wrong": WRONG, "per_decade": 5, "alignment_batches": 6}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))


def trained(watched, **options):
    """Three epochs under DistributedDataParallel; the model, and its monitor."""
    x, y = data()
    dataset, model = TensorDataset(x, y), DistributedDataParallel(network())
    torch.manual_seed(dist.get_rank())
    loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset, seed=1))
    tests = DataLoader(TensorDataset(x[:31], y[:31]), batch_size=10)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), nn.CrossEntropyLoss()
    monitor = PhaseMonitor(model, loss_fn, loader, test_loader=tests, **OPTIONS, **options) if watched else None
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
            if monitor is not None:
                monitor.step()
    if monitor is not None:
        monitor.measure_now()
    return model, monitor


class Quiet(nn.Linear):
    fails = False

    def forward(self, x):
        if self.fails:
            raise RuntimeError("no more memory")
        return super().forward(x)


def failing():
    """One process of two cannot measure: both give up, neither waits."""
    torch.manual_seed(0)
    model = nn.Sequential(Quiet(6, 3))
    loader = DataLoader(TensorDataset(*data()), batch_size=8)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, distributed=True)
    model[0].fails = dist.get_rank() == 1
    with pytest.warns(RuntimeWarning, match="no more memory" if dist.get_rank() == 1 else "another process"):
        monitor.step()
    monitor.step()
    assert monitor.trajectory.sizes["step"] == 1
    model[0].fails = False
    with torch.no_grad():
        model[0].bias.add_(dist.get_rank())
    with pytest.raises((UsageError, processes.FailedElsewhere), match="different weights"):
        PhaseMonitor(model, nn.CrossEntropyLoss(), loader, distributed=True)
    bad = iter(loader) if dist.get_rank() == 0 else loader
    with pytest.raises((UsageError, processes.FailedElsewhere)):
        PhaseMonitor(model, nn.CrossEntropyLoss(), bad, distributed=True)


class Stream(IterableDataset):
    def __init__(self, step):
        self.step = step

    def __iter__(self):
        start = dist.get_rank() if self.step > 1 else 0
        return iter(list(zip(*data(), strict=True))[start :: self.step])


def streams():
    """Each process has a stream of its own, which must not be that of the other."""
    model, loss_fn, options = network(), nn.CrossEntropyLoss(), {"distributed": True, "alignment_batches": 0}
    monitor = PhaseMonitor(model, loss_fn, DataLoader(Stream(2), batch_size=8), n_training=N, **options)
    expected = sgdphases.measure(model, *data(), batch_size=16, batch_norm="frozen", alignment_batches=0)
    assert float(monitor.trajectory["activity"][0]) == pytest.approx(expected.activity, rel=1e-5)
    with pytest.raises(UsageError, match="the same samples"):
        PhaseMonitor(model, loss_fn, DataLoader(Stream(1), batch_size=8), n_training=40, **options)


def alone():
    """Made in one process only, it says so instead of waiting for ever."""
    processes.PATIENCE = 1.0
    if dist.get_rank() == 0:
        loader = DataLoader(TensorDataset(*data()), batch_size=8)
        with pytest.raises(UsageError, match="make it in all of them"):
            PhaseMonitor(nn.Linear(6, 3), nn.CrossEntropyLoss(), loader, distributed=True)
        PhaseMonitor(nn.Linear(6, 3), nn.CrossEntropyLoss(), loader, distributed=False)
    else:
        time.sleep(2.5)


def main(folder):
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, logged = dist.get_rank(), []
    without, _ = trained(False)
    model, monitor = trained(True, out=f"{folder}/mine", log=lambda step, scalars, phase: logged.append(step))
    part_model, part = trained(True, n_samples=60)
    alike = [
        all(torch.equal(a, m.state_dict()[k]) for k, a in without.state_dict().items()) for m in (model, part_model)
    ]
    assert alike == [True, True] and (len(logged) > 5) == (rank == 0)
    torch.save(model.module.state_dict(), f"{folder}/weights_{rank}.pt")
    monitor.trajectory.to_netcdf(f"{folder}/all_{rank}.nc", engine="h5netcdf")
    part.trajectory.to_netcdf(f"{folder}/part_{rank}.nc", engine="h5netcdf")
    np.savez(f"{folder}/losses_{rank}.npz", losses=monitor.state_dict()["sample_loss"], watched=part.watched)
    streams()
    failing()
    alone()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = os.path.dirname(os.path.abspath(__file__))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": here}
    script = f"from test_processes import main; main({str(folder)!r})"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-5000:]
    return folder


@pytest.mark.parametrize(("name", "options"), [("all", {}), ("part", {"n_samples": 60})])
@pytest.mark.slow
def test_two_processes_measure_what_one_does(done, name, options):
    """The last measurement, at the weights where training ended: in one process, without any group."""
    model = network()
    model.load_state_dict(torch.load(done / "weights_0.pt"))
    x, y = data()
    tests = DataLoader(TensorDataset(x[:31], y[:31]), batch_size=10)
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, test_loader=tests, **OPTIONS, **options)
    monitor._record.steps = 21
    monitor.measure_now()
    expected = monitor.trajectory.isel(step=-1)
    for rank in range(2):
        with xr.open_dataset(done / f"{name}_{rank}.nc", engine="h5netcdf") as found:
            last = found.isel(step=-1).load()
        assert last["step"] == 21 and last["epoch"] == 3
        for key in ("batch_size", "n_samples", "n_training", "steps_per_epoch", "chance_error", "n_test"):
            assert found.attrs[key] == expected.attrs[key], key
        assert set(last.data_vars) == set(expected.data_vars)
        for key in set(last.data_vars) - {"test_lost"}:  # it needs what was measured before
            ought = expected[key].to_numpy()
            assert last[key].to_numpy() == pytest.approx(ought, rel=2e-5, abs=1e-6, nan_ok=True), key
        kept = np.load(done / f"losses_{rank}.npz")
        if name == "all":
            assert kept["losses"][-1] == pytest.approx(monitor.state_dict()["sample_loss"][-1], rel=1e-5)
        else:
            assert (kept["watched"] == monitor.watched).all()


@pytest.mark.slow
def test_both_have_the_same_trajectory_and_one_writes_it(done):
    for name in ("all", "part"):
        with (
            xr.open_dataset(done / f"{name}_0.nc", engine="h5netcdf") as one,
            xr.open_dataset(done / f"{name}_1.nc", engine="h5netcdf") as other,
        ):
            assert one.equals(other) and one.sizes["step"] > 6
    with (
        xr.open_dataset(done / "mine" / "trajectory.nc", engine="h5netcdf") as written,
        xr.open_dataset(done / "all_0.nc", engine="h5netcdf") as one,
    ):
        assert written.equals(one)


def test_without_a_group_it_says_so():
    loader = DataLoader(TensorDataset(*data()), batch_size=8)
    with pytest.raises(UsageError, match="init_process_group"):
        PhaseMonitor(nn.Linear(6, 3), nn.CrossEntropyLoss(), loader, distributed=True)
