"""Several processes that train one model together: each measures its share of the samples, and sums are added up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from sgdphases.estimators.ensemble.workers import Workers
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.nested import each_leaf

SAME = 1e-6  # difference between processes of the sum of a parameter's numbers, relative to their size
PATIENCE = 120.0  # seconds for which the others are awaited where a monitor is made


class FailedElsewhere(RuntimeError):
    """Another process could not do its part."""


class Processes:
    """This process among those that train together, or alone.

    Sums go over a group of their own (gloo, on the CPU), so that they never mix with those of training. Each of them
    begins with a word on whether all are well: where one process fails, the others fail with it instead of waiting.

    Attributes
    ----------
    rank, size : int
    """

    def __init__(self, rank: int = 0, size: int = 1, add: Callable[[torch.Tensor], None] | None = None):
        self.rank, self.size, self._add = rank, size, add

    def add(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array over all processes, float64."""
        if self._add is None:
            return values
        self._agree(False)
        sent = torch.from_numpy(np.array(values, dtype=np.float64))
        self._add(sent)
        return sent.numpy()

    def workers(self, n_samples: int) -> Workers | None:
        """All as the estimators know them, this one with n samples; None where it is alone."""
        if self._add is None:
            return None
        sizes = np.zeros(self.size)
        sizes[self.rank] = n_samples
        sizes = self.add(sizes).astype(int)
        return Workers(int(sizes[: self.rank].sum()), int(sizes.sum()), self.add)

    def decided(self, choice: bool) -> bool:
        """What the first process has chosen."""
        return bool(self.add(np.array([float(choice and self.rank == 0)]))[0])

    def share(self, values: np.ndarray) -> np.ndarray:
        """This process's part of some values: neighbours, as many as the others have, give or take one."""
        return np.array_split(values, self.size)[self.rank]

    def refuse_different(self, step: int) -> None:
        """Raise a UsageError unless all are at the same step."""
        if self._add is not None and float(self.add(np.array([float(step)]))[0]) != step * self.size:
            raise UsageError("processes have counted different numbers of steps: call step() in all of them alike.")

    def refuse_same(self, samples: Any) -> None:
        """Raise a UsageError if two processes have been given the same samples by streams of their own."""
        if self._add is None:
            return
        prints = np.zeros(self.size)
        marks: list[int] = []
        each_leaf(samples, lambda leaf: marks.append(0 if leaf is None else crc32(np.asarray(leaf).tobytes())))
        prints[self.rank] = float(crc32(repr(marks).encode()))
        if len(set(self.add(prints))) < self.size:
            raise UsageError(
                "processes are given the same samples: have the loader's dataset give each its own, by its rank, or "
                "give a dataset that can be indexed."
            )

    def share_model(self, model: nn.Module) -> None:
        """Give all of them the first one's buffers, such as BatchNorm's running statistics, in place.

        Raises
        ------
        UsageError
            If the processes have different weights.
        """
        if self._add is None:
            return
        with torch.no_grad():
            sums = [(p.double().sum(), p.double().square().sum(), p.numel()) for p in model.parameters()]
            own = np.array([[float(total), float(squares)] for total, squares, _ in sums])
            sizes = np.array([count for *_, count in sums])
            scales = np.stack([np.sqrt(sizes * own[:, 1]), own[:, 1]], axis=1)
            if self.add((np.abs(self.add(own) / self.size - own) > SAME * scales).any(keepdims=True)).any():
                raise UsageError(
                    "the processes have different weights, so there is no one network to measure: say "
                    "distributed=False, or train with DistributedDataParallel."
                )
            for buffer in model.buffers():
                value = buffer.detach().cpu().double().numpy()
                buffer.copy_(torch.from_numpy(self.add(value if self.rank == 0 else np.zeros_like(value))))

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context for what all do at the same time; where it fails in one, it fails in all."""
        try:
            yield
        except FailedElsewhere:
            raise
        except Exception:
            self._agree(True)
            raise
        self._agree(False)

    def _agree(self, has_failed: bool) -> None:
        if self._add is None:
            return
        failed = torch.tensor([float(has_failed)])
        self._add(failed)
        if failed[0] and not has_failed:
            raise FailedElsewhere("another process could not do its part, and says why.")


def processes_of(model: nn.Module, loader: Any, distributed: bool | None) -> Processes:
    """Those that train this model together.

    Parameters
    ----------
    model : Module
    loader : object
    distributed : bool or None
        None: they are several where the model is wrapped in DistributedDataParallel, or the loader's samples are shared
        out by a DistributedSampler.

    Raises
    ------
    UsageError
        If there is no group of processes where there ought to be, or the others do not make a monitor.
    """
    samplers = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    is_shared = isinstance(model, DistributedDataParallel) or any(isinstance(s, DistributedSampler) for s in samplers)
    ready = dist.is_available() and dist.is_initialized()
    if distributed and not ready:
        raise UsageError("distributed = True: call torch.distributed.init_process_group first, or start with torchrun.")
    if distributed is False or not ready or not (distributed or is_shared) or dist.get_world_size() == 1:
        return Processes()
    try:
        awaited = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))
        dist.destroy_process_group(awaited)
        group = dist.new_group(backend="gloo")
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the other processes make no PhaseMonitor ({str(error).splitlines()[0]}): make it in all of them and call "
            "step() in all, or say distributed=False to measure in this one alone."
        ) from None
    return Processes(dist.get_rank(), dist.get_world_size(), lambda values: dist.all_reduce(values, group=group))
