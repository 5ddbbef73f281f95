"""The command line, called as a user does, for several test files."""

import contextlib
import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

PROGRAM = [sys.executable, "-c", "from sgdphases.cli import main; main()"]
QUICK = [
    "gaussian-mixture", "--train-size", "80", "--test-size", "40", "--hidden", "8", "--epochs", "5",
    "--batch-size", "10", "--checkpoints", "6", "--alignment-batches", "3",
]  # fmt: skip


class Done(NamedTuple):
    """How a command ended, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def call_process(*arguments, cwd=None, **more):
    """The program in a process of its own: where that is what is tested."""
    more = {"timeout": 300, **more}
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **more)


def pipe(encoding):
    """A stream as Python opens standard output on a pipe."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def call(*arguments, cwd=None, encoding="utf-8"):
    """The program's entry point in this process, which has its libraries loaded; whatever it raises goes through."""
    from sgdphases.cli import main

    out, err, code = pipe(encoding), pipe(encoding), 0
    with (
        mock.patch.object(sys, "argv", ["sgdphases", *map(str, arguments)]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or Path.cwd()),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Done(code, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err)))
