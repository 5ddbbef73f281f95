"""Phases read from theory alone, beside those of simulations at the same point."""

import numpy as np
import pytest

from sgdphases.estimators.phases.find import find_phases
from sgdphases.sim.solvable.predicted_phases import phase_diagram, predicted_trajectory, simulated_trajectory
from sgdphases.theory.dmft.settings import Descent, Student, Task

TASK, DESCENT = Task(1.0, 0.2, separation=4.0), Descent(1.0, 60)


def names(phases):
    return [phase.name for phase in phases.found]


def test_all_four_phases_are_predicted_where_a_simulation_finds_them():
    predicted = find_phases(predicted_trajectory(TASK, Student(), DESCENT, population=1000, repeats=2))
    measured = find_phases(simulated_trajectory(TASK, Student(), DESCENT, 500, seeds=6))
    assert names(predicted) == names(measured) == ["I", "II", "III", "IV"]
    assert predicted.t_fit == pytest.approx(measured.t_fit, rel=0.25)
    assert predicted.error_min == pytest.approx(measured.error_min, abs=0.01)
    assert predicted.error_fit == pytest.approx(measured.error_fit, abs=0.02)


def test_without_wrong_labels_there_is_nothing_to_memorise_apart():
    found = find_phases(predicted_trajectory(Task(1.0, 0.0, separation=4.0), Student(), DESCENT, population=300))
    assert not {"II", "III"} & set(names(found))


def test_too_many_samples_for_the_weights_are_never_memorised():
    found = phase_diagram(TASK, Student(), DESCENT, np.array([0.1, 0.3]), np.array([0.5, 6.0]), population=300)
    assert (found["last_phase"].sel(samples_per_dimension=0.5) == 4).all()
    assert (found["last_phase"].sel(samples_per_dimension=6.0) < 4).all()
    assert np.isnan(found["t_fit"].sel(samples_per_dimension=6.0)).all()
    assert (found["error_min"].sel(noise_fraction=0.1) < found["error_min"].sel(noise_fraction=0.3)).all()
