"""Shared set-up: one thread a worker, reproducible hypothesis runs, and where real data are."""

import os
from pathlib import Path

# Before numpy, numba and torch are loaded: workers that each start a thread a core wait for one another more than they
# compute. Processes that tests start inherit it.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from PIL import Image
from two_lengths import slow

settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("steady")


def pytest_addoption(parser):
    parser.addoption("--examples", type=int, default=60, help="random modules that the fuzzer builds")


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Folder of the real MNIST files: $SGDPHASES_DATA/mnist, or ../shared/data/mnist beside the checkout."""
    root = os.environ.get("SGDPHASES_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    folder = Path(root) / "mnist"
    if not folder.is_dir():
        pytest.skip(f"real MNIST is not at {folder}; set SGDPHASES_DATA to the folder that holds mnist/")
    return folder


@pytest.fixture(params=["blank pictures", slow("pictures")])
def pictures(request, monkeypatch):
    """What `savefig` writes where a test reads what stands beside the pictures: a blank one; the figure if slow.

    Drawing takes most of the time of a short run or cleansing.
    """
    if request.param == "blank pictures":
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Image.new("RGB", (1, 1)).save(path, "png"))
