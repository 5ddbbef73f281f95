"""What `sgdphases doctor` shows: versions, threads, devices, and where data is looked for."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

NEEDED = (
    "numpy", "scipy", "numba", "scikit-learn", "matplotlib", "xarray", "h5netcdf", "pydantic", "typer", "rich",
)  # fmt: skip
OPTIONAL = {
    "torch": "PyTorch models, images", "pyarrow": "Parquet tables", "datasets": "Hugging Face data sets",
    "dask": "sweeps on a cluster", "lightning": "a Lightning callback", "transformers": "a Hugging Face callback",
}  # fmt: skip
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def sections() -> dict[str, list[tuple[str, str]]]:
    """Pairs of what is looked at and what is found, by section."""
    return {
        "sgdphases": [
            ("version", version("sgdphases") or "not installed"),
            ("Python", f"{platform.python_version()}, {sys.executable}"),
            ("system", platform.platform()),
        ],
        "Packages": [(name, version(name) or "missing: install sgdphases again") for name in NEEDED],
        "Optional packages": [
            (name, version(name) or f"not installed; needed for {purpose}") for name, purpose in OPTIONAL.items()
        ],
        "Threads": [("CPUs this process may use", str(_cpus())), *_blas(), *_variables()],
        "Devices": _devices(),
        "Data": [
            ("data sets of files", "the folder given as --data-dir (data_dir); nothing else is searched"),
            ("built in", "digits, gaussian-mixture, teacher-student and others: see sgdphases datasets"),
            ("runs are written to", str(Path.cwd() / "runs")),
        ],
    }


def version(name: str) -> str | None:
    """The installed version of a package, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blas() -> list[tuple[str, str]]:
    """The linear algebra libraries that are loaded, and their threads."""
    import numpy  # noqa: F401  # so that its library is loaded
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    found = [
        (f"{each['internal_api']} ({each['user_api']})", f"{each['num_threads']} threads, version {each['version']}")
        for each in threadpool_info()
    ]
    return found or [("BLAS", "not recognised")]


def _variables() -> list[tuple[str, str]]:
    return [(name, os.environ[name]) for name in THREAD_VARIABLES if name in os.environ]


def _devices() -> list[tuple[str, str]]:
    if version("torch") is None:
        return [("cpu", "always; without PyTorch nothing else")]
    import torch

    found = [("cpu", f"{torch.get_num_threads()} threads in PyTorch")]
    found += [(f"cuda:{k}", torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple GPU"))
    return found if len(found) > 1 else [*found, ("cuda", "none found")]
