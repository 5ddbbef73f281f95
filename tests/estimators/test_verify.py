"""Verification finds nothing where all is right, and everything that is broken."""

import numpy as np
import pytest
from command_line import QUICK, call
from two_lengths import slow

import sgdphases
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.verify import verify

RNG = np.random.default_rng(0)
MODEL = sgdphases.initial_mlp((5, 8, 3), "relu", RNG)
X, Y, WRONG = RNG.normal(size=(80, 5)), RNG.integers(0, 3, 80), np.arange(80) % 2 == 0


@pytest.mark.parametrize("name", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("wrong", [WRONG, None, np.zeros(80, bool)], ids=["two populations", "unknown", "one"])
def test_all_is_well(name, dtype, wrong):
    backend = backend_class(name)(MODEL, X, Y, dtype=dtype)
    before = backend.weights
    checks = verify(backend, NumpyBackend(MODEL, X, Y), batch_size=10, wrong=wrong)
    assert len(checks) == (21 if wrong is WRONG else 18)
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]
    assert backend.weights.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 4))])
def test_the_loss_change_of_smooth_networks_is_checked_too(name, seed):
    model = sgdphases.initial_mlp((5, 8, 3), "tanh", np.random.default_rng(seed))
    backend = backend_class(name)(model, X, Y)
    checks = verify(backend, NumpyBackend(model, X, Y), batch_size=10, wrong=WRONG, smooth=True, seed=seed)
    assert "Tr HC" in checks[-1].identity
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]


class Broken(NumpyBackend):
    fault = None

    def gradient_sums(self, indices):
        found = super().gradient_sums(indices)
        if self.fault == "norms without biases":
            return found._replace(squared_norm=0.9 * found.squared_norm)
        if self.fault == "a sum too many":
            return found._replace(gradient_sum=1.01 * found.gradient_sum)
        return found

    def projections(self, indices, directions):
        found = super().projections(indices, directions)
        return -found if self.fault == "sign" else found

    def gram(self, indices, others):
        found = super().gram(indices, others)
        return found + 0.01 if self.fault == "gram" else found

    def hessian_products(self, indices, vectors):
        found = super().hessian_products(indices, vectors)
        return 2 * found if self.fault == "curvature" else found

    def train(self, order, batch_size, learning_rate):
        if self.fault == "noise":
            order = np.concatenate([order[: len(order) // 2]] * 2)
        super().train(order, batch_size, learning_rate * (2 if self.fault == "steps" else 1))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("norms without biases", "|g_i|²: as the reference"),
        ("norms without biases", "Σ_i |g_i|² = Tr K"),
        ("a sum too many", "Σ g_i: as the reference"),
        ("sign", "⟨λ⟩ = 1"),
        ("sign", "g_i·g = mean of a row of K"),
        ("gram", "g_i·g_j: as the reference"),
        ("steps", "three steps of SGD: as the reference"),
        ("steps", "drift of a step: -α √A_0 along g (residual in σ)"),
        ("steps", "covariance of a step: α² D (residual in σ)"),
        ("noise", "covariance of a step: α² D (residual in σ)"),
        ("noise", "its part along g: α² D_∥ (residual in σ)"),
        ("curvature", "loss change of second order: α²/2 (gᵀHg + Tr HC) (residual in σ)"),
    ],
)
def test_a_broken_backend_is_caught(fault, found):
    model = sgdphases.initial_mlp((5, 8, 3), "tanh", np.random.default_rng(0))
    backend = Broken(model, X, Y)
    backend.fault = fault
    checks = verify(backend, NumpyBackend(model, X, Y), batch_size=10, wrong=WRONG, smooth=True)
    assert found in [check.identity for check in checks if not check.holds]


@pytest.mark.slow
def test_every_backend_from_the_command_line():
    done = call("verify", "--samples", 60)
    assert done.returncode == 0 and done.stdout.count("backend ") >= 3, done.stdout + done.stderr
    assert "all identities hold" in done.stdout and "VIOLATED" not in done.stdout


@pytest.mark.usefixtures("pictures")
def test_from_the_command_line(tmp_path):
    done = call("verify", "--samples", 60, "--backend", "numba")
    assert "all identities hold" in done.stdout and "VIOLATED" not in done.stdout
    assert call("run", *QUICK, "--noise-fraction", "0.4", "--out", tmp_path / "run").returncode == 0
    checked = call("verify", tmp_path / "run", "--backend", "numba")
    assert checked.returncode == 0 and "eq 15" in checked.stdout, checked.stdout + checked.stderr
    assert call("verify", tmp_path / "nowhere").returncode == 2
    assert call("verify", "--backend", "fortran").returncode == 2
