"""`sgdphases doctor`, `python -m sgdphases`, and the completion of the shell."""

import subprocess
import sys
from importlib import metadata

import numpy as np
from command_line import call

from sgdphases.faces import doctor


def test_the_doctor_names_versions_threads_devices_and_data():
    done = call("doctor")
    assert done.returncode == 0
    for word in ("sgdphases", f"numpy: {np.__version__}", "threads", "cpu: ", "--data-dir", sys.executable):
        assert word in done.stdout
    assert f"torch: {metadata.version('torch')}" in done.stdout


def test_what_is_missing_is_said_and_what_it_is_for(monkeypatch):
    known = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "torch" else known(name))
    found = doctor.sections()
    assert dict(found["Optional packages"])["torch"] == "not installed; needed for PyTorch models, images"
    assert found["Devices"] == [("cpu", "always; without PyTorch nothing else")]


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sgdphases", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"sgdphases {metadata.version('sgdphases')}"


def test_the_shell_can_complete():
    assert "--show-completion" in call("--help").stdout
