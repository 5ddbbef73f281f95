"""Copies of a model's weights along its training, of which a few are kept: those that may be wanted back."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.storage.atomic import write_whole

log = logging.getLogger("sgdphases")
MOST = 12  # copies at a time
MOST_BYTES = 2**30  # of memory for all of them, unless asked for more
WORTH_SAYING = 2**20  # bytes of all of them from which on their size is logged
PER_EPOCH = 10  # times that the moving average takes up the weights


class MovingAverage:
    """The mean of a model's weights over about the last epoch of its training.

    Steps of SGD scatter around where they lead; the mean of many is closer to it, and its test error lower, as long as
    learning rates are not small (Polyak & Juditsky 1992). Taken up are the parameters that are trained and the running
    means and variances of BatchNorm; everything else is that of the latest step.

    Parameters
    ----------
    steps_per_epoch : float
        Steps over which it forgets.

    Attributes
    ----------
    every : int
        Steps after which to `take` the weights up again.
    """

    def __init__(self, steps_per_epoch: float):
        self.every, self._memory = max(1, round(steps_per_epoch / PER_EPOCH)), max(steps_per_epoch, 1.0)
        self._means, self._count, self._latest = dict[str, torch.Tensor](), 0, -1

    def reset(self) -> None:
        """Forget everything."""
        self._means, self._count, self._latest = {}, 0, -1

    def take(self, step: int, model: nn.Module) -> None:
        """Take up the weights of a step later than the last one that was taken."""
        if step == self._latest:
            return
        now = _averaged_tensors(model)
        if {name: value.shape for name, value in now.items()} != {n: v.shape for n, v in self._means.items()}:
            self._means, self._count = {name: value.to(_exact(value), copy=True) for name, value in now.items()}, 0
        self._count += 1
        share = max(1 / self._count, min(1.0, (step - self._latest) / self._memory))
        for name, value in now.items():
            self._means[name].lerp_(value.to(self._means[name]), share)
        self._latest = step

    def state(self) -> dict[str, torch.Tensor]:
        """The means, by their names in the model's state."""
        return self._means


def _averaged_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    norms = [(f"{name}." if name else "") for name, each in model.named_modules() if isinstance(each, _NormBase)]
    running = {name + which for name in norms for which in ("running_mean", "running_var")}
    return {
        name: value.detach() for name, value in state.items()
        if torch.is_tensor(value) and value.is_floating_point() and (value.requires_grad or name in running)
    }  # fmt: skip


def _exact(value: torch.Tensor) -> torch.dtype:
    """Half precision would lose small steps."""
    return torch.promote_types(value.dtype, torch.float32)


class Snapshots:
    """At most `MOST` copies of a model's state, by step, in memory or in a folder.

    Parameters
    ----------
    model : torch.nn.Module
    where : {"auto", "memory"}, str or Path of a folder, or False
        "auto": in memory where all of them take at most 1 GiB, otherwise none. False: none.
    writes : bool
        Whether this process writes the files of a folder; others only read them.

    Attributes
    ----------
    is_on : bool
    steps : list of int
        Of the copies kept, in order.
    n_bytes : int
        Of one copy.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """

    def __init__(self, model: nn.Module, where: Any = "auto", *, writes: bool = True):
        self._writes, self._copies = writes, dict[int, dict[str, torch.Tensor] | None]()
        self.n_bytes = sum(v.numel() * v.element_size() for v in model.state_dict().values() if torch.is_tensor(v))
        self.is_on = where is not False and where is not None
        self._folder: Path | None = None
        if isinstance(where, (str, Path)) and where not in ("auto", "memory"):
            self._folder = Path(where)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"snapshots = {str(where)!r}: the folder cannot be made ({error.strerror}).") from None
        elif where == "auto" and MOST * self.n_bytes > MOST_BYTES:
            self.is_on = False
            log.info(
                "no snapshots are kept for restore_best: %d of them would take %.1f GB of memory; say "
                "snapshots='memory', or a folder.", MOST, MOST * self.n_bytes / 1e9,
            )  # fmt: skip
        if self.is_on and MOST * self.n_bytes > WORTH_SAYING:
            place = "in memory" if self._folder is None else f"in {self._folder}"
            log.info("up to %d snapshots are kept %s, %.3g MB each", MOST, place, self.n_bytes / 1e6)

    @property
    def steps(self) -> list[int]:
        return sorted(self._copies)

    def keep(self, step: int, model: nn.Module, means: Mapping[str, torch.Tensor]) -> None:
        """Copy the model's state as it is at this step, but for what is replaced by its mean."""
        state = {
            name: means.get(name, value).detach().to("cpu", value.dtype, copy=True)
            for name, value in model.state_dict().items() if torch.is_tensor(value)
        }  # fmt: skip
        if self._folder is None:
            self._copies[step] = state
            return
        if self._writes:
            write_whole(self._file(step), lambda part: torch.save(state, part))
        self._copies[step] = None

    def thin(self, worth: Mapping[int, float]) -> None:
        """Drop what goes beyond `MOST`: those of the least worth, never the latest; without a worth, the earliest."""
        while len(self._copies) > MOST:
            *earlier, _ = self.steps
            least = min(earlier, key=lambda step: (worth.get(step, float("-inf")), step))
            del self._copies[least]
            if self._folder is not None and self._writes:
                self._file(least).unlink(missing_ok=True)

    def restore(self, step: int, model: nn.Module) -> None:
        """Give a model the state of a step; raises InputError where the file is gone or damaged, or does not fit."""
        state = self._copies[step]
        try:
            if state is None:
                state = torch.load(self._file(step), map_location="cpu", weights_only=True)
            fit = model.load_state_dict(state, strict=False)
            lacks = [name for name in fit.missing_keys if not name.endswith("_extra_state")]
            if lacks or fit.unexpected_keys:
                raise ValueError(f"layers have changed ({', '.join([*lacks, *fit.unexpected_keys][:3])})")
        except Exception as error:  # whatever a damaged file makes torch.load raise
            raise InputError(f"the snapshot of step {step} cannot be given to this model: {error}") from None

    def state(self) -> list[int]:
        """The steps whose copies outlive this process: those in a folder."""
        return [] if self._folder is None else self.steps

    def go_on(self, steps: list[int]) -> None:
        """Take up copies that an earlier process left in the folder, in place of those made since.

        These are of the weights that training goes on from, not of the steps they were counted as; a file that they
        have replaced is lost.
        """
        earlier = set(map(int, steps)) - set(self._copies)
        self._copies = {step: None for step in earlier if self._file(step).is_file()} if self._folder else {}

    def refuse_none(self) -> None:
        """Raise a UsageError where there are none."""
        if not self.is_on:
            raise UsageError(
                "no snapshots of the weights were kept: make the monitor with snapshots='memory', or a folder, and "
                "without loss_of."
            )
        if not self._copies:
            raise UsageError(
                "no snapshot of the weights has been taken since training was continued: train on first, and "
                "keep them in a folder, where they outlast an interruption."
            )

    def _file(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"step-{step:09d}.pt"
