"""Gradient accumulation, mixed precision, compiled models: training in the same bits, measured as it is trained."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sgdphases
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor

N = 90


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, :3] + 0.5 * torch.randn(N, 3, generator=generator)).argmax(dim=1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))


def loop(watched, *, model=None, accumulation=1, autocast=None, device="cpu", inside=False, measured=None):
    """Two epochs by Adam with a GradScaler; the model, and its monitor."""
    net = network().to(device) if model is None else model
    loader = DataLoader(TensorDataset(*data()), batch_size=10, shuffle=True)
    optimizer, loss_fn = torch.optim.Adam(net.parameters(), 1e-2), nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8, growth_interval=3)
    torch.manual_seed(1)
    options = {"accumulation": accumulation, "autocast": measured, "per_decade": 200 if inside else 15}
    monitor = PhaseMonitor(net, loss_fn, loader, **options) if watched else None

    def count():
        if monitor is not None:
            monitor.step()

    for _ in range(2):
        for k, (x, y) in enumerate(loader):
            with torch.autocast(device, autocast, enabled=autocast is not None):
                loss = loss_fn(net(x.to(device)), y.to(device)) / accumulation
                if inside:  # all of it within autocast, as some do: its cache holds the weights of before the step
                    scaler.scale(loss).backward()
                    scaler.step(optimizer), scaler.update(), optimizer.zero_grad(), count()
            if not inside:
                scaler.scale(loss).backward()
                if (k + 1) % accumulation == 0:
                    scaler.step(optimizer), scaler.update(), optimizer.zero_grad(), count()
    if monitor is not None:
        monitor.measure_now()
    return net, monitor


def same_bits(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def expected(net, **options):
    x, y = data()
    return sgdphases.measure(net, x, y, batch_norm="frozen", alignment_batches=0, **{"batch_size": 10, **options})


def test_gradient_accumulation():
    alone, _ = loop(False, accumulation=3)
    net, monitor = loop(True, accumulation=3)
    assert same_bits(alone, net)
    trajectory = monitor.trajectory
    assert trajectory.attrs["batch_size"] == 30 and trajectory.attrs["steps_per_epoch"] == 3
    assert trajectory["step"][-1] == 6 and trajectory["epoch"][-1] == 2
    found = expected(net, batch_size=30)
    assert float(trajectory["activity"][-1]) == pytest.approx(found.activity, rel=1e-5)
    assert found.activity < 0.9 * expected(net, batch_size=10).activity  # so that the batch size shows
    with pytest.raises(UsageError, match="accumulation = 0"):
        loop(True, accumulation=0)


@pytest.mark.parametrize("inside", [False, True], ids=["autocast around the loss", "autocast around all of it"])
def test_mixed_precision_with_a_scaler(inside):
    """Inside, the last step is measured in the loop, where autocast still holds the weights of before that step."""
    alone, _ = loop(False, autocast=torch.bfloat16, inside=inside)
    net, monitor = loop(True, autocast=torch.bfloat16, inside=inside)
    assert same_bits(alone, net)
    full = expected(net)
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(full.activity, rel=1e-5)  # not of the scaled loss
    net, monitor = loop(True, autocast=torch.bfloat16, inside=inside, measured="bfloat16")
    assert same_bits(alone, net)
    coarse = expected(net, autocast="bfloat16").activity
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(coarse, rel=1e-5)
    assert 1e-5 < abs(coarse / full.activity - 1) < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_mixed_precision_on_a_gpu():
    alone, _ = loop(False, autocast=torch.float16, device="cuda")
    net, monitor = loop(True, autocast=torch.float16, device="cuda")
    assert same_bits(alone, net)
    found = expected(copy.deepcopy(net).cpu())
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(found.activity, rel=1e-3)


class Inner(nn.Module):
    """A compiled layer, and one that is compiled in place, within a model that is not."""

    def __init__(self):
        super().__init__()
        torch._dynamo.reset()
        torch.manual_seed(0)
        self.first = torch.compile(nn.Linear(6, 16), backend="eager")
        self.second = nn.Linear(16, 3)
        self.second.compile(backend="eager")

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.slow
def test_a_compiled_model():
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = torch.compile(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
    start = copy.deepcopy(net.state_dict())
    try:
        alone = copy.deepcopy(loop(False, model=net)[0].state_dict())
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {type(error).__name__}: {str(error).splitlines()[0]}")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    net.load_state_dict(start)
    _, monitor = loop(True, model=net)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in alone.items())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0  # nothing was compiled again
    assert monitor.trajectory.attrs["model"] == "Sequential"
    found = expected(net._orig_mod)
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(found.activity, rel=1e-5)
    assert expected(net).activity == found.activity


def test_compiled_layers_have_their_rules(caplog):
    alone, _ = loop(False, model=Inner())
    net, monitor = loop(True, model=Inner())
    assert same_bits(alone, net) and "torch.func" not in caplog.text
    plain = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    plain[0].load_state_dict(net.first._orig_mod.state_dict()), plain[2].load_state_dict(net.second.state_dict())
    assert float(monitor.trajectory["activity"][-1]) == pytest.approx(expected(plain).activity, rel=1e-5)


def test_no_pass_is_made_for_the_losses_of_samples(monkeypatch):
    """The losses of watched samples come from the first pass of a measurement, not from one more."""
    from sgdphases.estimators.backends.torch.backend import TorchBackend

    asked = []
    monkeypatch.setattr(TorchBackend, "scores", lambda self, indices: asked.append(indices))
    torch.manual_seed(0)
    model, loader = nn.Linear(6, 3), DataLoader(TensorDataset(*data()), batch_size=10)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, n_samples=50)
    assert asked == []
    x, y = (each[monitor.watched] for each in data())
    losses = nn.functional.cross_entropy(model(x), y, reduction="none").detach().numpy()
    assert monitor.state_dict()["sample_loss"][0] == pytest.approx(losses, rel=1e-5)
