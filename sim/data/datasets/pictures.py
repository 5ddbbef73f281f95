"""PNG and JPEG images as arrays of one size: upright, without transparency, grey where all of them are."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image, ImageOps

from sgdphases.estimators.errors import DataWarning, InputError
from sgdphases.sim.data.datasets.checks import some
from sgdphases.sim.storage.arrays import check_memory

FORMATS = ("PNG", "JPEG")
LARGEST_SIDE = 64  # pixels up to which images that are alike keep their size
USUAL_SIZE = 32  # pixels across and down of all others: what small networks learn from in reasonable time
MOST_PIXELS = 89_000_000  # of one image, as Pillow advises: more are likely to be a decompression bomb
P = ParamSpec("P")
T = TypeVar("T")
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)


def _silent(function: Callable[P, T]) -> Callable[P, T]:
    """A function during which Pillow does not warn, of large images and odd marks: what matters is refused."""

    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            return function(*arguments, **named)

    return run


@dataclass(frozen=True)
class Picture:
    """An image file: where it is, or its bytes, and what messages call it."""

    file: Path | bytes
    name: str

    def opened(self) -> Image.Image:
        """The image, header read and pixels not; raises an error of any kind where it is damaged."""
        image = Image.open(io.BytesIO(self.file) if isinstance(self.file, bytes) else self.file, formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
        return image


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images as numbers.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, 1 or 3, height, width)
    sound : ndarray of int, shape (n,)
        Which of the files they are: all, but for damaged ones that were to be skipped.
    damaged : tuple of str
        What is wrong with the others.
    found : tuple of (int, int)
        Smallest and largest width and height of the files, where they had to be resized; else empty.
    """

    pixels: np.ndarray
    sound: np.ndarray
    damaged: tuple[str, ...]
    found: tuple[tuple[int, int], ...] = ()

    def warn(self, where: str, size: int | None) -> None:
        """Say in warnings what was left out, and what was resized where no ``size`` was asked for."""
        if self.damaged:
            text = f"{where}: {len(self.damaged)} damaged images are left out: {some(self.damaged)}"
            warnings.warn(text, DataWarning, 4)
        if self.found and size is None:
            smallest, largest = ("x".join(map(str, each)) for each in self.found)
            between = smallest if smallest == largest else f"{smallest} to {largest}"
            across = self.pixels.shape[-1]
            warnings.warn(
                f"{where}: images of {between} pixels are resized to {across}x{across}; -o size={2 * across} keeps "
                "more detail, and takes longer",
                DataWarning,
                4,
            )


@_silent
def decode(pictures: Sequence[Picture], where: str, size: int | None = None, skip_damaged: bool = False) -> Decoded:
    """Read images into one array.

    Images that all have one size, of at most `LARGEST_SIDE` pixels a side, keep it; all others are resized to
    `USUAL_SIZE` pixels across and down, or to ``size``: nothing is cut off, so proportions may change. Orientation
    marks of cameras are followed, transparency is laid on white, 16 bits become 8 (by one factor for all images, so
    that the brightest value of 12 bits in 16 is not near black), and images whose colours are all grey become one
    channel, unless others are coloured.

    Parameters
    ----------
    pictures : sequence of Picture
    where : str
        The folder or file they belong to, for messages.
    size : int, optional
    skip_damaged : bool
        Leave out what cannot be read, instead of refusing all.

    Raises
    ------
    InputError
        Naming the images that are damaged, and how many they are; or if the array would not fit into memory.
    """
    sizes, wrong = _sizes(pictures)
    alike = {each for each in sizes if each is not None}
    keeps = size is None and len(alike) == 1 and max(next(iter(alike))) <= LARGEST_SIDE
    across, down = next(iter(alike)) if keeps else ((size or USUAL_SIZE,) * 2)
    try:
        check_memory(3 * across * down * len(pictures) * 5)  # bytes, and single precision
    except ValueError as error:
        raise InputError(f"{where}: {len(pictures)} images are too many ({error}); choose a smaller size") from None
    arrays: list[np.ndarray] = []
    sound = []
    for number, picture in enumerate(pictures):
        if sizes[number] is None:
            continue
        try:
            with picture.opened() as image:
                arrays.append(_pixels(image, (across, down)))
            sound.append(number)
        except Exception as error:  # a damaged file may raise anything
            wrong[number] = error
    damaged = tuple(f"{pictures[number].name} ({_reason(wrong[number])})" for number in sorted(wrong))
    if damaged and not (skip_damaged and arrays):
        raise InputError(
            f"{where}: {len(damaged)} of {len(pictures)} images cannot be read: {some(damaged)}; replace or remove "
            "them, or leave them out with -o damaged=skip"
        )
    found = () if alike <= {(across, down)} else (min(alike), max(alike))
    return Decoded(_stacked(arrays), np.array(sound, dtype=np.int64), damaged, found)


@_silent
def looked_at(picture: Picture, side: int) -> Image.Image:
    """An image to be looked at, with about so many pixels on its longer side, or fewer if it has no more."""
    with picture.opened() as image:
        image.draft(None, (side, side))
        found = opaque(upright(image))
        found.load()
        found.thumbnail((side, side))
        return found


def upright(image: Image.Image) -> Image.Image:
    """As its camera was held; a damaged mark is taken for none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # what cameras write there is often broken, and the image sound
        return image


def opaque(image: Image.Image) -> Image.Image:
    """In shades of grey ("L", or 16 bits) or in colours ("RGB"), transparency laid on white."""
    if image.mode.startswith("I"):
        return image
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _sizes(pictures: Sequence[Picture]) -> tuple[list[tuple[int, int] | None], dict[int, Exception]]:
    """Width and height of each image held upright, None where it cannot be read, and why."""
    sizes: list[tuple[int, int] | None] = []
    wrong: dict[int, Exception] = {}
    for number, picture in enumerate(pictures):
        try:
            with picture.opened() as image:
                across, down = image.size
                sizes.append((down, across) if _lies_on_its_side(image) else (across, down))
        except Exception as error:  # a damaged file may raise anything
            wrong[number] = error
            sizes.append(None)
    return sizes, wrong


def _lies_on_its_side(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except Exception:
        return False


def _pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """One image of this width and height: (height, width) if grey, else (height, width, 3); uint8, or uint16."""
    image.draft(None, (2 * max(size), 2 * max(size)))  # a large JPEG is unpacked at a fraction of its size
    image = opaque(upright(image))
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.float32)
        if image.size != size:
            deep = np.asarray(Image.fromarray(deep).resize(size, Image.Resampling.BILINEAR))
        return np.clip(np.rint(deep), 0, 65535).astype(np.uint16)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    found = np.asarray(image)
    is_grey = found.ndim == 3 and (found[..., :1] == found[..., 1:]).all()
    return found[..., 0].copy() if is_grey else found


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    deepest = max((int(each.max(initial=0)) for each in arrays if each.dtype == np.uint16), default=0)
    shift = max(deepest.bit_length() - 8, 0)
    colours = 3 if any(each.ndim == 3 for each in arrays) else 1
    pixels = np.empty((len(arrays), colours, *arrays[0].shape[:2]), np.uint8)
    for place, each in enumerate(arrays):
        shallow = (each >> shift).astype(np.uint8) if each.dtype == np.uint16 else each
        pixels[place] = shallow if shallow.ndim == 2 else shallow.transpose(2, 0, 1)
        arrays[place] = pixels[place, 0]  # frees what is no longer needed
    return pixels


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "no PNG or JPEG image"
    return str(error) or type(error).__name__
