"""What measuring may cost, and the line of progress; by a clock that the test moves."""

import logging

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_lengths import slow

import sgdphases
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.monitor import loggers, schedule
from sgdphases.sim.monitor.measured import Measured
from sgdphases.sim.monitor.monitor import PhaseMonitor

N, STEP, COST, LIGHT = 60, 0.01, 0.49, 0.07  # seconds that a step, a full and a light measurement take


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for steps and measurements."""
    now = [100.0]
    monkeypatch.setattr(schedule, "perf_counter", lambda: now[0])
    measure = Measured.__call__

    def slow(self, *given):
        now[0] += LIGHT if given[1] is None else COST
        return measure(self, *given)

    monkeypatch.setattr(Measured, "__call__", slow)
    return now


def watched(clock, steps, **options):
    torch.manual_seed(0)
    x = torch.randn(N, 4)
    loader = DataLoader(TensorDataset(x, x.argmax(dim=1)), batch_size=20)
    monitor = PhaseMonitor(nn.Linear(4, 4), nn.CrossEntropyLoss(), loader, alignment_batches=0, **options)
    shares = []
    for _ in range(steps):
        clock[0] += STEP
        monitor.step()
        shares.append(monitor.overhead)
    return monitor, np.array(shares)


def test_without_a_budget_every_measurement_is_made(clock):
    monitor, _ = watched(clock, 1000)
    n = monitor.trajectory.sizes["step"]
    assert n > 30 and monitor.overhead == pytest.approx(n * COST / (1000 * STEP), rel=0.01)
    assert "budget" not in monitor.trajectory.attrs and monitor.trajectory.attrs["put_off"] == 0


@pytest.mark.parametrize(("budget", "steps"), [(0.3, 2000), slow(0.02, 20_000), slow(0.3, 20_000)])
def test_the_budget_is_kept_at_every_moment(clock, budget, steps, caplog):
    with caplog.at_level(logging.INFO, "sgdphases"):
        monitor, shares = watched(clock, steps, budget=budget)
    step = monitor.trajectory["step"].to_numpy()
    assert (shares[step[1:] - 1] <= budget * (1 + 1e-9)).all()
    free, _ = watched(clock, steps)
    due = free.trajectory["step"].to_numpy()
    full, light, guess = [0], [], COST / 4
    for k in due[1:]:  # thinned out, at the same steps: as many as can be afforded, and no fewer
        spent, allowed = len(full) * COST + len(light) * LIGHT, budget * k * STEP
        if (len(full) + 1) * COST <= allowed / 2 and spent + COST <= allowed:
            full.append(k)
        elif spent + (LIGHT if light else guess) <= allowed:
            light.append(k)
    assert step.tolist() == sorted(full + light) and 2 < len(full) < len(due) and len(light) > 4
    measured = monitor.trajectory["activity"].notnull().to_numpy()
    assert step[measured].tolist() == full and monitor.trajectory["train_error"].notnull().all()
    attributes = monitor.trajectory.attrs
    assert (attributes["put_off"], attributes["budget"]) == (len(due) - len(step), budget)
    assert attributes["light"] == len(light)
    assert attributes["measuring_seconds"] / attributes["training_seconds"] == pytest.approx(monitor.overhead)
    said = [line for line in caplog.messages if "not measured" in line]
    assert len(said) == 1 and f"budget = {budget}" in said[0] and said[0].startswith("step 1 ")


def test_the_next_one_is_made_as_soon_as_it_can_be_afforded(clock):
    """Two in full at half of 10 % need 1,960 steps: one is due at 2,155. Before there are light ones."""
    monitor, _ = watched(clock, 2200, budget=0.1)
    measured = monitor.trajectory["activity"].notnull().to_numpy()
    assert monitor.trajectory["step"].to_numpy()[measured].tolist() == [0, 2155]
    assert monitor.trajectory["step"].to_numpy()[1] == 631  # 0.49 + 0.1225 seconds are a tenth of 612.5 steps'


def test_the_last_measurement_is_always_made(clock):
    monitor, _ = watched(clock, 50, budget=0.02)
    monitor.measure_now()
    assert monitor.trajectory["step"].to_numpy().tolist() == [0, 50] and monitor.overhead > 0.02


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_that_makes_no_sense_is_named(clock, budget):
    with pytest.raises(UsageError, match=f"budget = {budget}"):
        watched(clock, 0, budget=budget)


def test_what_was_spent_is_known_after_an_interruption(clock):
    first, _ = watched(clock, 1000, budget=0.1)
    second, _ = watched(clock, 0, budget=0.1)
    second.load_state_dict(first.state_dict())
    assert second.trajectory.attrs["put_off"] == first.trajectory.attrs["put_off"] > 0
    light = first.trajectory.attrs["light"]
    assert second.trajectory.attrs["light"] == light > 0
    assert second.overhead == pytest.approx((2 * COST + light * LIGHT) / (1000 * STEP))  # its own first one, too


def test_progress_is_logged_and_a_terminal_shows_it_now_and_then(clock, caplog, monkeypatch, capsys):
    shown, now = [], [0.0]
    monkeypatch.setattr(loggers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loggers, "Console", lambda **kind: Console(**kind, force_terminal=True))
    monkeypatch.setattr(Console, "print", lambda self, line, **style: shown.append(line))
    with caplog.at_level(logging.INFO, "sgdphases"):
        monitor, _ = watched(clock, 20)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    assert len(lines) == monitor.trajectory.sizes["step"] > 10
    assert lines[-1].startswith("step 19: loss ") and "error" in lines[-1] and "No phase yet" in lines[-1]
    assert shown == lines[:1]
    now[0] += 6
    clock[0] += STEP
    monitor.step(), monitor.measure_now()
    assert len(shown) == 2 and shown[1].startswith("step 21: ")


def test_the_phase_is_not_judged_for_lines_that_nobody_gets(clock, monkeypatch):
    asked = []
    monkeypatch.setattr("sgdphases.sim.monitor.monitor.phase_now", lambda found: asked.append(found) or "none")
    watched(clock, 20)
    assert not asked
    watched(clock, 20, log=lambda step, scalars, phase: None)
    assert len(asked) > 10


@pytest.mark.parametrize("log", [None, False])
def test_it_is_quiet_where_nobody_looks(clock, log, capsys, caplog):
    with caplog.at_level(logging.INFO, "sgdphases"):
        watched(clock, 20, log=log)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    assert capsys.readouterr() == ("", "") and bool(lines) == (log is None)


def test_the_overhead_is_there_for_everybody():
    assert isinstance(sgdphases.PhaseMonitor.overhead, property)
