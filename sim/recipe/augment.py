"""Images moved and mirrored at random, a new way in every epoch."""

from dataclasses import dataclass

import numpy as np
import torch

REACH = 8  # images are shifted by up to 1/8 of their side: 4 pixels of 32
_SHIFTS = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1))  # of views


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


def view_moves(number: int, n_samples: int, height: int, width: int, augment: str) -> Moves:
    """One of many views, the same for all images, so that what is answered of one depends on no other.

    Views take turns: nine shifts, each at most half as far as in training, the first of nothing; where images are
    mirrored in training, every other view is.

    Parameters
    ----------
    number : int
        Which view; 0 is the image as it is.
    n_samples, height, width, augment
        As for `draw_moves`.
    """
    furthest = [round(side / REACH / 2) if augment != "none" else 0 for side in (height, width)]
    shift = [step * each for step, each in zip(_SHIFTS[number % len(_SHIFTS)], furthest, strict=True)]
    is_mirrored = augment == "shifts+mirror" and number % 2 == 1
    down, across = (np.full(n_samples, each) for each in shift)
    return Moves(down, across, np.full(n_samples, is_mirrored))


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
