"""The backend that docs/backends.md shows is complete: it installs, agrees with the reference, and runs."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import call

import sgdphases
from sgdphases.estimators.backend import Backend
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.backends.registry import backend_class, backend_names

PAGE = (Path(__file__).parents[3] / "docs" / "backends.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the page's module and the entry point an installer would make of its snippet."""
    folder = tmp_path_factory.mktemp("site")
    module = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class " in block)
    (folder / "softmax_backend.py").write_text(module, encoding="utf-8")
    groups = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])["project"]["entry-points"]
    lines = [f"[{group}]\n{name} = {value}\n" for group, names in groups.items() for name, value in names.items()]
    info = folder / "softmax_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: softmax-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def on_path(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    model = sgdphases.initial_mlp((6, 4), "relu", rng)
    return model, rng.normal(size=(30, 2, 3)), rng.integers(0, 4, 30), rng


def test_it_is_found_by_its_name(on_path):
    assert "softmax" in backend_names()
    model, x, y, _ = problem()
    assert isinstance(backend_class("softmax")(model, x, y), Backend)


@pytest.mark.parametrize("seed", range(5))
def test_it_answers_what_the_reference_answers(on_path, seed):
    model, x, y, rng = problem(seed)
    mine, reference = backend_class("softmax")(model, x, y), NumpyBackend(model, x, y)
    indices, directions = rng.integers(0, 30, 12), rng.normal(size=(3, model.n_parameters))
    for found, expected in zip(mine.gradient_sums(indices), reference.gradient_sums(indices), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(mine.projections(indices, directions), reference.projections(indices, directions))
    np.testing.assert_allclose(mine.gram(indices, indices[:4]), reference.gram(indices, indices[:4]), atol=1e-12)
    coefficients = rng.normal(size=(12, 2))
    found, expected = mine.weighted_sums(indices, coefficients), reference.weighted_sums(indices, coefficients)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    other = mine.on(x[:7], y[:7])
    for backend in (mine, reference):
        backend.train(indices, 5, 0.3)
    np.testing.assert_allclose(mine.weights, reference.weights)
    np.testing.assert_allclose(other.scores(np.arange(7)).loss, reference.scores(np.arange(7)).loss)


def test_it_measures(on_path):
    model, x, y, _ = problem()
    found, expected = (
        sgdphases.measure(model, x, y, batch_size=5, wrong=y == 0, backend=name).scalars()
        for name in ("softmax", "numpy")
    )
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-9, equal_nan=True)


@pytest.mark.usefixtures("pictures")
def test_it_runs_from_the_command_line_and_refuses_what_it_cannot(on_path, tmp_path):
    def run(*arguments):
        few = ["--train-size", "200", "--epochs", "2", "--backend", "softmax"]
        return call("run", "digits", *few, *arguments, cwd=tmp_path)

    done = run("--hidden", "none", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    refused = run("--hidden", "10", "--out", "other")
    assert refused.returncode == 2 and "hidden = (10,)" in refused.stderr
    assert not (tmp_path / "other").exists()
