"""Random modules, data and losses: every public number is that of brute force in float64, or is refused.

python -m pytest tests/fuzz -m slow --examples 2000      # the long run; the gate makes one of 60, `make test` of 12
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from brute_force import BruteForce, moments
from hypothesis import HealthCheck, given, note, settings
from random_modules import cases
from two_lengths import slow

import sgdphases
from sgdphases.estimators.errors import InputError

ROUNDING = {torch.float32: 2e-3, torch.float64: 1e-7}
HALF = 0.1  # of autocast to bfloat16, which has three digits


def same(found, expected, scale, allowed, what):
    gap = np.abs(np.asarray(found) - expected).max()
    assert gap <= allowed * scale + 1e-12, f"{what}: {found} and {expected} by brute force"


def compare(case):
    """Hold every number of a case against brute force; what must be refused, must be refused."""
    module, before = case.module, copy.deepcopy(case.module.state_dict())
    x_before = case.x.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            brute = BruteForce(case)
        except RuntimeError:
            return  # PyTorch itself cannot go back through it: something it needs is overwritten in place
        try:
            backend = sgdphases.make_backend(module, case.x, case.y, loss=case.loss, **case.options)
            found = sgdphases.exact(backend, batch_size=case.batch_size, wrong=case.wrong)
        except InputError as error:
            assert not brute.is_mean, f"refused needlessly: {error}"
            return
        finally:
            assert torch.equal(case.x, x_before), "the caller's inputs were changed"
            for name, value in module.state_dict().items():
                assert torch.equal(value, before[name]), f"{name} was changed"
        assert brute.is_mean, "samples are coupled, or the loss is no mean over samples: not refused"
        hold(case, brute, backend, found)


def hold(case, brute, backend, found):
    rows, n = brute.gradients, len(brute.gradients)
    allowed = HALF if "autocast" in case.options else ROUNDING[next(case.module.parameters()).dtype]
    squares = (rows**2).sum(axis=1)
    scale = max(squares.mean(), 1e-12)
    expected, along = moments(rows, case.batch_size)
    for name, value in expected.items():
        same(getattr(found, name), value, scale, allowed, name)
    same(found.loss, brute.losses.mean(), max(np.abs(brute.losses).max(), 1e-6), allowed, "loss")
    directed = expected["directed_activity"]
    if directed > 1e-4 * scale and allowed < HALF:
        same(found.projection_variance, along / directed**2, 1 + along / directed**2, 100 * allowed, "σ_λ²")
    populations(case, rows, found, scale, allowed)
    everyone, rng = np.arange(n), np.random.default_rng(0)
    draws, directions = rng.normal(size=(n, 2)), rng.normal(size=(2, rows.shape[1]))
    answers = [backend.gradient_sums(piece) for piece in np.array_split(everyone, -(-n // backend.chunk_size))]
    same(np.concatenate([a.squared_norm for a in answers]), squares, squares.max(), allowed, "|g_i|²")
    size = np.sqrt(squares.max())
    piece = everyone[: backend.chunk_size]
    same(backend.weighted_sums(piece, draws[piece]), draws[piece].T @ rows[piece], n * size, allowed, "Σ c_i g_i")
    length = np.linalg.norm(directions, axis=1).max()
    same(backend.projections(piece, directions), rows[piece] @ directions.T, size * length, allowed, "g_i·v")
    same(backend.gram(piece, piece), rows[piece] @ rows[piece].T, squares.max(), allowed, "g_i·g_j")
    spectrum = sgdphases.noise_spectrum(backend, batch_size=case.batch_size)
    same(spectrum.total_variance, expected["total_variance"], scale, allowed, "Tr C of the spectrum")


def populations(case, rows, found, scale, allowed):
    if case.wrong is None:
        assert np.isnan(found.alignment_cw)
        return
    clean, wrong = rows[~case.wrong].mean(axis=0), rows[case.wrong].mean(axis=0)
    rho = case.wrong.mean()
    same(found.directed_activity_c, (1 - rho) ** 2 * clean @ clean, scale, allowed, "A_0c")
    same(found.directed_activity_w, rho**2 * wrong @ wrong, scale, allowed, "A_0w")
    norms = np.linalg.norm(clean) * np.linalg.norm(wrong)
    if norms > 1e-3 * scale and allowed < HALF:
        same(found.alignment_cw, clean @ wrong / norms, 1.0, 100 * allowed, "R_cw")


@pytest.mark.parametrize("n_examples", [12, slow(None)], ids=["few", "all"])
def test_random_modules(request, n_examples):
    n_examples = n_examples or request.config.getoption("--examples")

    @settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=n_examples <= 100,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )
    @given(cases())
    def each(case):
        note(", ".join(case.notes))
        compare(case)

    each()


@pytest.mark.parametrize("batch_size", [5, 20])
def test_random_subsets_stand_for_the_whole(batch_size):
    """Means over 300 subsets within 4 standard errors of those over all samples: 1 false in 2,000 tests of 3 values."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    whole = sgdphases.measure(module, x, y, batch_size=batch_size, alignment_batches=0)
    backend = sgdphases.make_backend(module, x, y)
    rng, found = np.random.default_rng(1), []
    names = ("activity", "directed_activity", "total_variance")
    from oracle import TableBackend

    from sgdphases.estimators.ensemble.subset import measure_subset

    table = np.array([backend.weighted_sums(np.array([i]), np.ones((1, 1)))[0] for i in range(200)])
    for _ in range(300):
        part = TableBackend(table[rng.choice(200, 40, replace=False)])
        drawn = measure_subset(part, batch_size=batch_size, sizes=(200,), rng=rng)
        found.append([getattr(drawn, name) for name in names])
    values = np.array(found)
    errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - [getattr(whole, name) for name in names]) < 4 * errors).all()
