"""Samples shared out among several processes: what each knows of the others, and how sums are added up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.errors import UsageError


@dataclass(frozen=True)
class Workers:
    """One process among others, each with a shard of the samples.

    Attributes
    ----------
    first, total : int
        This worker's samples are ``first`` … of ``total`` when all shards stand one after the other.
    add : callable
        Sums an array over all workers; every worker must call it, in the same order, and gets the same result.
    """

    first: int
    total: int
    add: Callable[[np.ndarray], np.ndarray]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """One number or row a sample, shape (n, ...), of all workers' samples one after the other: (total, ...)."""
        everyone = np.zeros((self.total, *values.shape[1:]))
        everyone[self.first : self.first + len(values)] = values
        return self.add(everyone)


def alone(n_samples: int) -> Workers:
    """The one worker of an ordinary measurement."""
    return Workers(0, n_samples, lambda values: values)


def torch_workers(n_samples: int) -> Workers:
    """The processes of the present `torch.distributed` group, gloo or nccl, each with its own shard.

    Parameters
    ----------
    n_samples : int
        Of this process, at least 1.

    Raises
    ------
    UsageError
        If no process group has been set up.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError("distributed = True: call torch.distributed.init_process_group first, or start with torchrun.")
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

    def add(values: np.ndarray) -> np.ndarray:
        sent = torch.from_numpy(np.array(values, dtype=np.float64)).to(device)
        dist.all_reduce(sent)
        return sent.cpu().numpy()

    sizes = np.zeros(dist.get_world_size())
    sizes[dist.get_rank()] = n_samples
    sizes = add(sizes).astype(int)
    return Workers(int(sizes[: dist.get_rank()].sum()), int(sizes.sum()), add)
