"""The command line, called as a user does, for several test files."""

import subprocess
import sys

PROGRAM = [sys.executable, "-c", "from sgdphases.cli import main; main()"]
QUICK = [
    "gaussian-mixture", "--train-size", "80", "--test-size", "40", "--hidden", "8", "--epochs", "5",
    "--batch-size", "10", "--checkpoints", "6", "--alignment-batches", "3",
]  # fmt: skip


def call(*arguments, cwd=None):
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)
