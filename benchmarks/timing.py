"""One thread, interleaved repeats, medians: what every benchmark here shares. Import it before numpy."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = os.environ.get("BENCH_THREADS", "1")

import time
from collections.abc import Callable

import numpy as np


def seconds_each(
    contestants: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds of each contestant, shape (repeats,), on the wall clock unless another is given.

    They take turns, so that noise hits all alike.
    """
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, call in contestants.items():
            begin = clock()
            call()
            times[name].append(clock() - begin)
    return {name: np.array(values) for name, values in times.items()}


def sgemm_peak(size: int = 1500, repeats: int = 7) -> float:
    """The best rate of a large float32 matrix product, in GFLOP/s: the machine's peak as a program can reach it."""
    a, b = np.ones((2, size, size), np.float32)
    best = seconds_each({"sgemm": lambda: a @ b}, repeats)["sgemm"].min()
    return 2 * size**3 / best / 1e9


def use_threads(torch) -> None:
    """Give PyTorch the number of threads the environment names."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
