"""The weights that restore_best gives back, and the moment at which phase II is over; on clouds with wrong labels."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sgdphases import InputError, PhaseMonitor, UsageError, phase_now
from sgdphases.sim.monitor import snapshots
from sgdphases.sim.monitor.snapshots import MOST, MovingAverage, Snapshots

EPOCHS = 100


def clouds(n: int, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    x = 3 * np.eye(4, 12)[labels] + rng.normal(size=(n, 12))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)


X, Y = clouds(500, 0)
X_TEST, Y_TEST = clouds(1000, 1)
WRONG = torch.tensor(np.random.default_rng(2).random(500) < 0.35)
NOISY = torch.where(WRONG, (Y + 1 + torch.arange(500) % 3) % 4, Y)


def train(epochs: int = EPOCHS, seed: int = 0, **options):
    """Train with the monitor; the state at every step, and what `past_phase_two` says after every tenth epoch."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 4))
    loader = DataLoader(TensorDataset(X, NOISY), batch_size=50, shuffle=True)
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1)
    monitor = PhaseMonitor(model, loss_fn, loader, alignment_batches=0, log=False, per_decade=12, **options)
    states, past = {0: copy.deepcopy(model.state_dict())}, {}
    for epoch in range(1, epochs + 1):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()
            states[len(states)] = copy.deepcopy(model.state_dict())
        if epoch % 10 == 0:
            past[epoch] = monitor.past_phase_two
    monitor.measure_now()
    return model, monitor, states, past


@pytest.fixture(scope="module")
def trained():
    return train(average=False)


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(X_TEST).argmax(1) == Y_TEST).float().mean())


def test_the_weights_of_phase_two_are_given_back_bit_by_bit(trained):
    model, monitor, states, _ = trained
    model = copy.deepcopy(model)
    last = accuracy(model)
    found = monitor.restore_best(model)
    assert all(torch.equal(value, states[found.step][name]) for name, value in model.state_dict().items())
    assert not found.is_last and found.epoch == found.step / 10

    best = 0.0
    for state in states.values():
        model.load_state_dict(state)
        best = max(best, accuracy(model))
    monitor.restore_best(model)
    assert best > last + 0.1  # all labels are memorised at the end
    assert accuracy(model) > last + 0.6 * (best - last)  # of the best of all steps, chosen by the test samples


@pytest.mark.slow
def test_averaged_weights_are_given_back_unless_asked_otherwise_and_do_better():
    model, single, _, _ = train(40, average=False)
    _, averaged, states, _ = train(40)
    one, mean = copy.deepcopy(model), copy.deepcopy(model)
    found = averaged.restore_best(mean)
    assert found == single.restore_best(one)  # measured alike
    assert accuracy(mean) > accuracy(one)
    state = mean.state_dict()
    assert state["1.num_batches_tracked"] == found.step
    assert not torch.equal(state["0.weight"], states[found.step]["0.weight"])


def test_the_average_is_the_mean_of_an_epoch_and_forgets_what_lies_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    model[2].weight.requires_grad_(False)
    average, taken = MovingAverage(200), []
    assert average.every == 20
    for step in range(0, 2000, average.every):
        for value in [*model.parameters(), model[1].running_mean]:
            value.data += torch.randn_like(value)
        taken.append(copy.deepcopy(model.state_dict()))
        average.take(step, model)
        average.take(step, model)  # the same step counts once
        names = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.bias"}
        assert set(average.state()) == names
        if step < 200:
            wanted = torch.stack([each["0.weight"] for each in taken]).mean(0)
            assert torch.allclose(average.state()["0.weight"], wanted, atol=1e-14)
    ages = torch.arange(len(taken) - 10, dtype=torch.float64).flip(0)  # the first ten as one mean, decayed
    shares = torch.cat([torch.full((10,), 0.1 * 0.9 ** len(ages)).double(), 0.1 * 0.9**ages])
    wanted = sum(share * each["1.running_mean"] for share, each in zip(shares, taken, strict=True))
    assert torch.allclose(average.state()["1.running_mean"], wanted, atol=1e-12)


def test_the_average_follows_layers_that_are_replaced_and_keeps_small_steps_of_half_precision():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    average = MovingAverage(1000)
    for step in range(100):
        model.weight.data.fill_(1.0 if step % 2 else 1.0078125)
        average.take(100 * step, model)
    assert average.state()["weight"].dtype == torch.float32
    assert torch.allclose(average.state()["weight"], torch.tensor(1.00390625), atol=5e-4)
    other = nn.Linear(2, 3)
    average.take(10_000, other)
    assert torch.equal(average.state()["weight"], other.weight)


def test_averaging_stays_within_the_budget(monkeypatch):
    taken = []
    monkeypatch.setattr(MovingAverage, "take", lambda self, step, model: taken.append(step))
    train(3)
    assert set(taken) == set(range(31))
    taken.clear()
    train(3, budget=1e-9)
    assert set(taken) == {0, 30}  # where it is measured in any case


def test_where_labels_are_not_memorised_there_is_nothing_to_go_back_to(monkeypatch):
    """Whatever the vote prefers: here the fifth measurement, by answers that agree with it and scatter afterwards."""
    model, monitor, _, _ = train(8, average=False)
    answers = monitor._record.answers
    rng = np.random.default_rng(0)
    for k in range(len(answers) // 2, len(answers)):
        answers[k] = np.where(rng.random(500) < 0.3, rng.integers(0, 4, 500), answers[len(answers) // 2 - 1])
    found = monitor.restore_best(copy.deepcopy(model))
    assert found.is_last and found.agreement < 0.9
    labels = NOISY.numpy()[monitor.watched]
    answers[-1] = labels
    assert not monitor.restore_best(copy.deepcopy(model)).is_last


def test_the_monitor_says_when_phase_two_is_over(trained):
    _, monitor, _, past = trained
    first = min(epoch for epoch, is_past in past.items() if is_past)
    assert all(is_past for epoch, is_past in past.items() if epoch >= first) and 10 <= first < EPOCHS
    names = [phase.name for phase in monitor.phases.found]
    assert names[:3] == ["I", "II", "III"] and "chosen by their losses" in monitor.phase.doubt
    assert str(phase_now(monitor.trajectory)) == str(monitor.phase)


def test_no_more_snapshots_are_kept_than_are_said(trained):
    _, monitor, _, _ = trained
    kept = monitor._snapshots.steps
    assert len(kept) == MOST and monitor.trajectory["step"].to_numpy()[-1] in kept


def test_snapshots_in_a_folder_outlast_an_interruption(tmp_path):
    model, monitor, _, _ = train(12, snapshots=tmp_path / "weights")
    files = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert len(files) == MOST and all(name.startswith("step-") for name in files)
    _, second, _, _ = train(0, snapshots=tmp_path / "weights")
    second.load_state_dict(monitor.state_dict())
    other = copy.deepcopy(model)
    assert second.restore_best(other) == monitor.restore_best(model)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_snapshots_in_memory_do_not_outlast_an_interruption_and_none_is_taken_for_another_step():
    model, monitor, states, _ = train(5)
    _, second, _, _ = train(0)
    second.load_state_dict(monitor.state_dict())
    with pytest.raises(UsageError, match="train on first"):
        second.restore_best(model)
    assert all(torch.equal(value, states[len(states) - 1][name]) for name, value in model.state_dict().items())


def test_a_damaged_snapshot_or_another_model_is_named(tmp_path):
    model, monitor, _, _ = train(5, snapshots=tmp_path)
    with pytest.raises(InputError, match="cannot be given to this model"):
        monitor.restore_best(nn.Linear(3, 4))
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="snapshot of step"):
        monitor.restore_best()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_snapshots_there_is_nothing_to_give_back(monkeypatch, caplog):
    _, monitor, _, _ = train(4, snapshots=False)
    with pytest.raises(UsageError, match="no snapshots"):
        monitor.restore_best()
    monkeypatch.setattr(snapshots, "MOST_BYTES", 1000)
    with caplog.at_level(logging.INFO, "sgdphases"):
        assert not Snapshots(nn.Linear(30, 30)).is_on
    assert "would take" in caplog.text and "a folder" in caplog.text
    assert Snapshots(nn.Linear(30, 30), "memory").is_on


def test_other_losses_have_no_best_weights():
    x = torch.randn(60, 4)
    loader = DataLoader(TensorDataset(x, x), batch_size=20)
    monitor = PhaseMonitor(nn.Linear(4, 4), nn.MSELoss(), loader, alignment_batches=0, log=False)
    for ask in (monitor.restore_best, lambda: monitor.past_phase_two):
        with pytest.raises(UsageError, match="from the cross-entropy"):
            ask()


def test_training_goes_on_bit_by_bit_with_snapshots_and_without():
    first, *_ = train(6)
    second, *_ = train(6, snapshots=False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
