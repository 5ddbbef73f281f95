"""How one sample looks in the review: a picture as a data address, or names and values."""

import base64
import io

import numpy as np
from PIL import Image

from sgdphases.sim.cleansing.data import LabelledData

LARGEST = 320  # pixels of a picture's longer side
SMALL = 100  # pixels up to which every one is kept as it is, as PNG


def picture_address(labelled: LabelledData, sample: int) -> str | None:
    """A ``data:`` address of a sample's picture, at most `LARGEST` pixels a side; None where it is no image."""
    image = None if labelled.source is None else labelled.source.picture(int(labelled.index[sample]), LARGEST)
    if image is None:
        image = _drawn(labelled.given[sample])
    if image is None:
        return None
    if image.mode not in ("L", "RGB"):
        image = _drawn(np.asarray(image)) or image.convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    content, is_small = io.BytesIO(), max(image.size) <= SMALL
    image.save(content, "PNG" if is_small else "JPEG", **({"optimize": True} if is_small else {"quality": 85}))
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def shown_row(labelled: LabelledData, sample: int) -> list[tuple[str, str]]:
    """A sample's features by name, or by number where they have no names."""
    row = [] if labelled.source is None else labelled.source.row(int(labelled.index[sample]))
    if row:
        return row
    given = labelled.given[sample]
    return [
        (", ".join(map(str, place)), f"{given[place]:.6g}" if given.dtype.kind == "f" else str(given[place]))
        for place in np.ndindex(given.shape)
    ]


def _drawn(array: np.ndarray) -> Image.Image | None:
    """Numbers of shape (height, width), (1, height, width) or (3, height, width) as a picture; None for others."""
    if array.ndim == 3 and len(array) in (1, 3):
        array = array.transpose(1, 2, 0)
    elif array.ndim != 2:
        return None
    if min(array.shape[:2]) < 2:
        return None
    if array.dtype != np.uint8:
        values = array.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        array = np.rint(255 * (values - low) / (high - low or 1)).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
