"""The public call."""

import numpy as np
import pytest
import torch

import sgdphases
from sgdphases.estimators.check import Checks
from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.verify import Check


def problem(n=30):
    rng = np.random.default_rng(0)
    model = sgdphases.initial_mlp((5, 8, 3), "tanh", rng)
    return model, rng.normal(size=(n, 5)), rng.integers(0, 3, n), rng.random(n) < 0.4


def test_backends_agree_on_every_order_parameter():
    model, x, y, wrong = problem()
    found = {
        name: sgdphases.measure(model, x, y, batch_size=6, wrong=wrong, backend=name, dtype="float64").scalars()
        for name in ("numpy", "numba", "torch")
    }
    assert found["numba"] == pytest.approx(found["numpy"], rel=1e-9)
    assert found["torch"] == pytest.approx(found["numpy"], rel=1e-9)
    assert not any(np.isnan(value) for value in found["numpy"].values())


def test_tensors_and_arrays_give_the_same_record():
    model, x, y, wrong = problem()
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(model.weights), module.parameters())
    arrays = sgdphases.measure(module, x, y, batch_size=6, wrong=wrong).scalars()
    tensors = sgdphases.measure(
        module, torch.from_numpy(x), torch.from_numpy(y), batch_size=6, wrong=torch.from_numpy(wrong)
    ).scalars()
    assert arrays == tensors
    direct = sgdphases.measure(model, x, y, batch_size=6, wrong=wrong, backend="numpy").scalars()
    assert arrays == pytest.approx(direct, rel=1e-9)


def test_the_seed_fixes_the_sampled_alignment_and_nothing_else_is_random():
    model, x, y, _ = problem()
    first, again, other = (sgdphases.measure(model, x, y, batch_size=6, seed=seed) for seed in (1, 1, 2))
    assert first.alignment == again.alignment != other.alignment
    assert first.activity == other.activity
    unsampled = sgdphases.measure(model, x, y, batch_size=6, alignment_batches=0)
    assert np.isnan(unsampled.alignment) and unsampled.activity == first.activity


def test_printed_it_is_a_table_of_what_is_known():
    model, x, y, wrong = problem()
    found = sgdphases.measure(model, x, y, batch_size=6, wrong=wrong)
    first, *lines = str(found).splitlines()
    assert "6 samples, drawn without replacement" in first and len(lines) == len(describe())
    rows = {line.split()[1]: line for line in lines}
    assert rows["activity"].split()[:3] == ["A", "activity", f"{found.activity:.4g}"]
    assert f"{found.alignment:.4g} ± {found.standard_errors['alignment']:.1g} " in rows["alignment"]
    unknown = str(sgdphases.measure(model, x, y, batch_size=6, alignment_batches=0))
    assert "nan" not in unknown and "R_cw" not in unknown and "wrong=mask" in unknown


def test_a_printed_check_ends_with_what_came_of_it():
    model, x, y, _ = problem()
    checks = sgdphases.check(model, x, y)
    assert str(checks).endswith(f"\nall {len(checks)} hold") and "K: all products g_i·g_j" in str(checks)
    bad = Checks((*checks, Check("1 = 2", 1.0, 2.0, 0.5, 1e-9)))
    assert not bad.hold and str(bad).endswith(f"\n1 of {len(bad)} VIOLATED")


def test_regression_has_losses_and_no_errors():
    rng = np.random.default_rng(0)
    model = sgdphases.initial_mlp((5, 4, 1), "erf", rng)
    found = sgdphases.measure(model, rng.normal(size=(20, 5)), rng.normal(size=20), batch_size=4, loss="squared")
    assert np.isnan(found.train_error) and found.loss > 0 and found.activity > 0


def test_unknown_models_and_bad_draws_are_refused():
    model, x, y, _ = problem()
    with pytest.raises(UsageError, match="str"):
        sgdphases.measure("model", x, y, batch_size=6)
    with pytest.raises(UsageError, match="2 minibatches"):
        sgdphases.measure(model, x, y, batch_size=6, alignment_batches=2)
    with pytest.raises(InputError, match="shape"):
        sgdphases.measure(model, x, y, batch_size=6, wrong=[True])


def test_every_scalar_is_described_once_and_named_as_the_paper_does():
    names = describe()
    binding = (
        "activity directed_activity orthogonal_activity parallel_activity total_variance parallel_variance "
        "projection_variance alignment noise_fraction loss loss_c loss_w train_error error_c error_w activity_c "
        "activity_w directed_activity_c directed_activity_w alignment_cw alignment_ac alignment_aw"
    )
    assert set(binding.split()) <= set(names)
    assert len({symbol for symbol, _ in names.values()}) == len(names)


def test_the_public_face_is_what_it_says():
    assert all(hasattr(sgdphases, name) for name in sgdphases.__all__)
    assert set(sgdphases.__all__) <= set(dir(sgdphases))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = sgdphases.nothing_such
