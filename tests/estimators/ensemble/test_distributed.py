"""Two processes with unequal shards measure what one process with everything does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import sgdphases
from sgdphases.estimators.errors import UsageError

SCRIPT = """
import json, os, sys
import numpy as np, torch, torch.distributed as dist
import sgdphases
from test_distributed import problem
dist.init_process_group("gloo")
module, x, y, wrong = problem()
shard = slice(0, 31) if dist.get_rank() == 0 else slice(31, None)
options = dict(batch_size=40, alignment_batches=8, distributed=True)
found = sgdphases.measure(module, x[shard], y[shard], wrong=wrong[shard], **options).scalars()
plain = sgdphases.measure(module, x[shard], y[shard], **options).scalars()
options |= dict(batch_size=5, drawn_from=200)
part = sgdphases.measure(module, x[shard], y[shard], wrong=wrong[shard], **options).scalars()
print(json.dumps([found, plain, part]))
dist.destroy_process_group()
"""


def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    rng = np.random.default_rng(0)
    return module, rng.normal(size=(50, 6)), rng.integers(0, 3, 50), np.arange(50) < 20


@pytest.mark.slow
def test_two_gloo_processes_give_what_one_gives():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = os.path.dirname(os.path.abspath(__file__))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": here}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    module, x, y, wrong = problem()
    options = dict(batch_size=40, alignment_batches=8)
    expected = [sgdphases.measure(module, x, y, wrong=mask, **options).scalars() for mask in (wrong, None)]
    options |= dict(batch_size=5, drawn_from=200)
    expected.append(sgdphases.measure(module, x, y, wrong=wrong, **options).scalars())
    for out, _ in outputs:
        for found, one in zip(json.loads(out.splitlines()[-1]), expected, strict=True):
            assert found == pytest.approx(one, rel=1e-9, abs=1e-12, nan_ok=True)


def test_without_a_group_it_says_so():
    module, x, y, _ = problem()
    with pytest.raises(UsageError, match="init_process_group"):
        sgdphases.measure(module, x, y, batch_size=5, distributed=True)
