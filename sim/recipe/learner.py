"""The network of the recipe in training: steps, probabilities, and its state as two vectors."""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.models import moved as on_device
from sgdphases.estimators.errors import TrainingDiverged, UsageError
from sgdphases.sim.data.scaling import centre_and_spread
from sgdphases.sim.recipe.augment import Moves, draw_moves, moved, view_moves
from sgdphases.sim.recipe.choose import check_recipe
from sgdphases.sim.recipe.network import recipe_network
from sgdphases.sim.recipe.schedule import batches, one_cycle
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream

WEIGHT_DECAY, PLAIN_WEIGHT_DECAY = 5e-3, 5e-4
LOSS_POWER = 0.5  # q of the loss: 0 would be cross-entropy, 1 the probability of another class than the label
_MOMENT_SAMPLES = 5_000  # from which mean and deviation of each channel are taken
_SMALL = 1e-30  # deviations below which single precision would not do
_PIXELS_AT_ONCE = 100 * 32 * 32  # in one forward pass without gradients


class ImageLearner:
    """A network, the images it learns, and where it stands.

    Nothing random is carried along: the order and the moves of an epoch are fixed by the seed and its number, rates by
    the step, so weights, running means and momenta are all there is to keep.

    Parameters
    ----------
    settings : RunSettings
        Of `sgdphases.sim.recipe.choose.recipe_settings`.
    x : ndarray, shape (N, height, width) or (N, channels, height, width)
    y : ndarray of int, shape (N,)
        Labels 0..K-1.
    n_classes : int
        K.
    is_plain : bool
        Learn by cross-entropy and a tenth of the weight decay, not by `generalised_cross_entropy`. So learn networks
        that labels are held against: two that share no sample agree with one another as often as with right labels
        then. Those that believe less do so more often (5,000 CIFAR-10 images: 72 % and 69 %, five standard errors).

    Attributes
    ----------
    step : int
        SGD steps done.
    per_epoch, n_steps : int
        Steps of an epoch, and of the whole run.

    Raises
    ------
    UsageError
        As `check_recipe` does; for fewer than two classes, and for a device that is not there.
    """

    def __init__(
        self, settings: RunSettings, x: np.ndarray, y: np.ndarray, n_classes: int, *, is_plain: bool = False
    ):
        check_recipe(settings, x.shape[1:], len(x))
        if n_classes < 2:
            raise UsageError("all labels are the same: give samples of two classes at least.")
        self.settings, self.n_samples = settings, len(x)
        self.per_epoch = steps_per_epoch(len(x), settings.batch_size)
        self.n_steps, self.step = self.per_epoch * settings.epochs, 0
        images = _with_channels(x)
        some = images[:: -(-len(x) // _MOMENT_SAMPLES)].transpose(0, 2, 3, 1).reshape(-1, images.shape[1])
        self._images = _tensor(images).permute(0, 2, 3, 1)
        centre, spread = centre_and_spread(some)
        exact = torch.float64 if spread.min() < _SMALL else self._images.dtype
        self._centre, self._spread = (torch.from_numpy(each).to(exact)[:, None, None] for each in (centre, spread))
        self._labels = torch.from_numpy(np.asarray(y, dtype=np.int64))
        made = recipe_network(images.shape[1:], n_classes, stream(settings.seed, "weights"))
        self._net = on_device(made, settings.dtype, settings.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        first = next(self._net.parameters())
        self._device, self._dtype = first.device, first.dtype
        self._loss = F.cross_entropy if is_plain else generalised_cross_entropy
        decay = PLAIN_WEIGHT_DECAY if is_plain else WEIGHT_DECAY
        self._optimiser = torch.optim.SGD(
            self._net.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=decay
        )
        for parameter in self._net.parameters():  # there from the start, so that the state always has one shape
            self._optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._rates, self._momenta = one_cycle(self.n_steps, settings.learning_rate)
        self._drawn: tuple[int, list[np.ndarray], Moves] | None = None

    @property
    def state(self) -> np.ndarray:
        """Weights, and BatchNorm's running means and variances, in one vector; a copy."""
        return _joined(self._state_tensors())

    @property
    def momentum(self) -> np.ndarray:
        """The optimiser's momenta, in one vector; a copy."""
        return _joined(self._momentum_tensors())

    def load(self, step: int, state: np.ndarray, momentum: np.ndarray) -> None:
        """Go back, or forward, to where these were taken."""
        _fill(self._state_tensors(), state)
        _fill(self._momentum_tensors(), momentum)
        self.step = step

    def advance(self, stop: int) -> None:
        """Train as far as a step of the present epoch, at most to its end."""
        epoch, first = divmod(self.step, self.per_epoch)
        parts, moves = self._plan(epoch)
        self._net.train()
        with flushed_denormals():
            for index in parts[first : first + stop - self.step]:
                group = self._optimiser.param_groups[0]
                group["lr"], group["momentum"] = float(self._rates[self.step]), float(self._momenta[self.step])
                answers = self._net(self._ready(moved(self._images, index, moves)))
                loss = self._loss(answers, self._labels[torch.from_numpy(index)].to(self._device))
                self._optimiser.zero_grad()
                loss.backward()
                self._optimiser.step()
                self.step += 1

    def log_probabilities(self, x: np.ndarray, view: int = 0) -> np.ndarray:
        """Logarithm of the probability of every class, shape (M, K), float32, as the network stands.

        Parameters
        ----------
        x : ndarray, shape (M, height, width) or (M, channels, height, width)
        view : int
            Which of many views of the images is asked about, see `sgdphases.sim.recipe.augment.view_moves`. 0: the
            images as they are.

        Raises
        ------
        TrainingDiverged
            If one is not finite.
        """
        images = _tensor(_with_channels(x)).permute(0, 2, 3, 1)
        number, height, width = images.shape[:3]
        moves = view_moves(view, number, height, width, self.settings.augment)
        at_once = max(16, _PIXELS_AT_ONCE // (height * width))
        parts = np.array_split(np.arange(number), max(1, -(-number // at_once)))
        self._net.eval()
        with torch.no_grad(), flushed_denormals():
            asked = (self._ready(moved(images, part, moves)) for part in parts)
            answers = torch.cat([F.log_softmax(self._net(each), dim=1).float().cpu() for each in asked]).numpy()
        if not np.isfinite(answers).all():
            bad = np.count_nonzero(~np.isfinite(answers).all(axis=1))
            raise TrainingDiverged(
                f"at step {self.step} {bad} losses are not finite: training diverged; lower the learning rate (now "
                f"{self.settings.learning_rate}), or scale the inputs."
            )
        return answers

    def _plan(self, epoch: int) -> tuple[list[np.ndarray], Moves]:
        """Batches and moves of an epoch."""
        if self._drawn is None or self._drawn[0] != epoch:
            seed, (height, width) = self.settings.seed, self._images.shape[1:3]
            moves = draw_moves(stream(seed, "augment", epoch), self.n_samples, height, width, self.settings.augment)
            self._drawn = epoch, batches(seed, epoch, self.n_samples, self.settings.batch_size), moves
        return self._drawn[1:]

    def _ready(self, images: torch.Tensor) -> torch.Tensor:
        """Images with every channel of mean 0 and variance 1 over the training set, where the network is."""
        scaled = (images - self._centre) / self._spread
        return scaled.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)

    def _state_tensors(self) -> list[torch.Tensor]:
        every = itertools.chain(self._net.parameters(), self._net.buffers())
        return [each.detach() for each in every if each.is_floating_point()]

    def _momentum_tensors(self) -> list[torch.Tensor]:
        return [self._optimiser.state[each]["momentum_buffer"] for each in self._net.parameters()]


def generalised_cross_entropy(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of (1 - p^q)/q over samples, p the probability of the label: a scalar.

    Its gradient is that of cross-entropy times p^q, so labels that the network goes on finding improbable pull less
    (Zhang & Sabuncu 2018, "Generalized cross entropy loss for training deep neural networks with noisy labels").

    Parameters
    ----------
    answers : Tensor, shape (B, K)
        Logits.
    labels : Tensor of int64, shape (B,)
    """
    return -torch.expm1(-LOSS_POWER * F.cross_entropy(answers, labels, reduction="none")).mean() / LOSS_POWER


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let numbers too small for full precision be 0, which processors are much quicker with; as before afterwards."""
    before = float(torch.tensor(1e-39) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _tensor(x: np.ndarray) -> torch.Tensor:
    """An array as a tensor that shares its memory, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(x))


def _with_channels(x: np.ndarray) -> np.ndarray:
    return x[:, None] if x.ndim == 3 else x


def _joined(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([each.detach().reshape(-1) for each in tensors]).cpu().numpy()


def _fill(tensors: list[torch.Tensor], values: np.ndarray) -> None:
    start = 0
    with torch.no_grad():
        for each in tensors:
            each.copy_(torch.from_numpy(values[start : start + each.numel()]).reshape(each.shape))
            start += each.numel()
