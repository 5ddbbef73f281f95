"""Images moved and mirrored at random, a new way in every epoch."""

from dataclasses import dataclass

import numpy as np
import torch

REACH = 8  # images are shifted by up to 1/8 of their side: 4 pixels of 32


@dataclass(frozen=True, eq=False)
class Moves:
    """What is done to each image in one epoch.

    Attributes
    ----------
    down, across : ndarray of int64, shape (N,)
        Pixels by which the visible part is moved; what comes in at an edge mirrors the image there.
    mirrored : ndarray of bool, shape (N,)
        Left and right are exchanged.
    """

    down: np.ndarray
    across: np.ndarray
    mirrored: np.ndarray


def draw_moves(rng: np.random.Generator, n_samples: int, height: int, width: int, augment: str) -> Moves:
    """Moves for all samples.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_samples, height, width : int
    augment : {"none", "shifts", "shifts+mirror"}
        Shifts are uniform in both directions; half of the images are mirrored.
    """
    reach = [round(side / REACH) if augment != "none" else 0 for side in (height, width)]
    down, across = (rng.integers(-each, each, n_samples, endpoint=True) for each in reach)
    mirrored = rng.random(n_samples) < 0.5 if augment == "shifts+mirror" else np.zeros(n_samples, bool)
    return Moves(down, across, mirrored)


def moved(images: torch.Tensor, index: np.ndarray, moves: Moves) -> torch.Tensor:
    """Some images as this epoch shows them.

    Parameters
    ----------
    images : Tensor, shape (N, height, width, channels)
    index : ndarray of int, shape (B,)
    moves : Moves
        Of all N.

    Returns
    -------
    Tensor, shape (B, channels, height, width), in memory with the channels last
    """
    height, width = images.shape[1:3]
    rows = _reflected(np.arange(height) + moves.down[index, None], height)
    columns = _reflected(np.arange(width) + moves.across[index, None], width)
    columns = np.where(moves.mirrored[index, None], width - 1 - columns, columns)
    place = torch.from_numpy(index)[:, None, None]
    found = images[place, torch.from_numpy(rows)[:, :, None], torch.from_numpy(columns)[:, None, :]]
    return found.contiguous().permute(0, 3, 1, 2)


def _reflected(places: np.ndarray, side: int) -> np.ndarray:
    """Places beyond an edge, mirrored at the outermost pixel."""
    places = np.abs(places)
    return np.where(places < side, places, 2 * (side - 1) - places)
