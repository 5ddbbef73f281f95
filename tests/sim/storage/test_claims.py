"""A folder belongs to one process at a time: real processes that want the same one at once, or die in it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from command_line import PROGRAM, QUICK, call, call_process
from two_lengths import slow

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.storage.claims import claim, claim_new
from sgdphases.sim.storage.folders import LOCK

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom sgdphases.sim.storage.claims import claim_new\n"
    "while time.time() < float(sys.argv[2]):\n    pass\n"
    "with claim_new(Path(sys.argv[1]) if sys.argv[1] else None) as claimed:\n"
    "    print(claimed.path, flush=True)\n    time.sleep(float(sys.argv[3]))\n"
    "    (claimed.path / 'mine').touch()\n"
)


def hold(out, start=0.0, seconds=600.0, cwd=None):
    arguments = [sys.executable, "-c", HOLDER, str(out), str(start), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def at_once(*arguments, cwd):
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: call_process(*arguments, cwd=cwd), range(3)))


@pytest.mark.slow
def test_three_runs_at_once_get_a_folder_each(tmp_path):
    done = at_once("run", *QUICK, cwd=tmp_path)
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    said = {each.stdout.strip().splitlines()[-1] for each in done}
    assert said == {f"report: runs/gaussian-mixture-00{n}/report.html" for n in (1, 2, 3)}
    for n in (1, 2, 3):
        assert RunFolder(tmp_path / "runs" / f"gaussian-mixture-00{n}").read_trajectory()["epoch"][-1] == 5


CLEANSE = ["cleanse", "digits", "--hidden", "30", "--epochs", "150"]


@pytest.mark.parametrize("command", [["run", *QUICK], ["sweep", *QUICK, "--seeds", "2", "--workers", "1"], CLEANSE])
@pytest.mark.slow
def test_of_three_that_want_the_same_folder_at_once_one_gets_it(tmp_path, command):
    if command[0] == "sweep":  # the same sweep could go on where another has ended: it must last for a while
        command = [*command[:9], "20000", *command[10:]]
    done = at_once(*command, "--out", "same", cwd=tmp_path)
    assert sorted(each.returncode for each in done) == [0, 2, 2], [each.stderr for each in done]
    for each in done:
        if each.returncode:
            assert "in use by another process" in each.stderr or "already holds a run" in each.stderr
    assert not [path for path in tmp_path.rglob(".*") if path.name == LOCK or ".part" in path.name]


@pytest.mark.parametrize("out", ["", slow("same")])
def test_many_processes_that_start_at_the_same_moment(tmp_path, out):
    start = time.time() + 2.5
    processes = [hold(out, start, 1.0, cwd=tmp_path) for _ in range(8)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    got = [printed.strip() for printed, _, code in ended if code == 0]
    if out:
        assert got == ["same"] and all("UsageError" in error for _, error, code in ended if code)
    else:
        assert sorted(got) == [f"runs/run-00{n}" for n in range(1, 9)]


def test_a_killed_process_leaves_no_claim_and_its_half_written_files_go(tmp_path):
    process = hold(tmp_path / "run")
    assert process.stdout.readline().strip() == str(tmp_path / "run")
    part = tmp_path / "run" / f".checkpoint.npz.{process.pid}.part.npz"
    drawn = tmp_path / "run" / "figures" / f".phases.png.{process.pid}.part.png"
    mine = tmp_path / "run" / f".trajectory.nc.{os.getppid()}.part.nc"  # of a process that lives
    drawn.parent.mkdir()
    for path in (part, drawn, mine):
        path.touch()
    with pytest.raises(UsageError, match="in use by another process"):
        claim(tmp_path / "run")
    assert part.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with claim_new(tmp_path / "other", refuse=lambda path: None), claim(tmp_path / "run"):
        assert not part.exists() and not drawn.exists() and mine.exists()
    assert not (tmp_path / "run" / LOCK).exists()
    assert claim_new(tmp_path / "other").path == tmp_path / "other"  # left empty


def test_one_process_holds_a_folder_once_and_can_leave_it(tmp_path):
    first = claim_new(tmp_path / "run")
    with pytest.raises(UsageError, match="in use"):
        claim_new(tmp_path / "run")
    first.release()
    first.release()
    second = claim_new(tmp_path / "run")
    del second  # collected: free again
    claim_new(tmp_path / "run").release()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        claim_new(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_fork_neither_has_nor_frees_the_claim(tmp_path):
    claimed = claim_new(tmp_path / "run")
    child = os.fork()
    if child == 0:
        claimed.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(UsageError, match="in use"):
        claim(tmp_path / "run")
    claimed.release()
    claim(tmp_path / "run").release()


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is there and not an empty folder"):
        claim_new(tmp_path / "file")
    with pytest.raises(InputError, match=r"run cannot be written.*--out"):
        claim_new(tmp_path / "file" / "run")


@pytest.mark.usefixtures("pictures")
def test_a_run_that_another_process_is_at_is_not_resumed(tmp_path):
    long = [*QUICK[:8], "2000000", *QUICK[9:]]
    process = subprocess.Popen(
        [*PROGRAM, "run", *long, "--out", str(tmp_path / "run")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        folder, deadline = RunFolder(tmp_path / "run"), time.monotonic() + 120
        while not folder.checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        done = call("resume", folder.path)
        assert done.returncode == 2 and "in use by another process" in done.stderr, done.stderr
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert (folder.path / LOCK).exists()
    shorter = folder.config.read_text().replace("epochs = 2000000", "epochs = 1")
    folder.config.write_text(shorter)
    folder.checkpoint.unlink()
    assert call("resume", folder.path).returncode == 0  # the killed process is no hindrance
