"""An object in the surroundings of another image: the other's own object is filled in, and this one pasted over it.

The idea of exchanging what an object stands in is that of ImageNet-9 (Xiao 2021, arXiv:2006.09994) and of SPIRE (Plumb
2022, arXiv:2106.02112).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from fe_gradcam.metrics.imputation import interpolated

FEATHER = 2
"""Over how many pixels outside of its mask an object fades into its new surroundings."""

MARGIN = 2
"""How many pixels around its mask are filled in with an object: a mask of ink leaves a rim that would give it away."""

FRAME_FILLED = 0.8
"""An object fills the frame if it has this share of it, MARGIN included: then it has no surroundings."""


Empty = Literal["unknown", "no object"]
"""What an empty mask says. Unknown: nothing, so the image stays as it is, and gives no surroundings. No object: that it
shows none; then its surroundings are the whole image, and what it becomes in others are these alone."""


def fills_frame(mask: NDArray[np.bool_]) -> bool:
    """Whether an object (H, W) leaves too little around it to be filled in from, or to be exchanged."""
    return bool(_around(mask).mean() >= FRAME_FILLED)


def ground_of(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The surroundings of an object: the image (C, H, W) with what its mask (H, W) covers filled in.

    See `fe_gradcam.metrics.imputation.interpolated`. An empty mask changes nothing.

    Raises:
        ArgumentError: The object fills the whole frame; see `fills_frame`.
    """
    return interpolated(image, _around(mask))


def pasted(image: NDArray[np.float32], mask: NDArray[np.bool_], ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """The object of an image (C, H, W) at its place in other surroundings (C, H, W).

    With d the distance of a pixel to the mask (H, W), the result is a · image + (1 - a) · ground, and a is
    1 - d / (FEATHER + 1), at least 0: 1 on the object, 0 from FEATHER + 1 pixels on. With an empty mask it is the
    ground.
    """
    if not mask.any():
        return ground
    distance: NDArray[np.float32] = distance_transform_edt(~mask).astype(np.float32)
    return np.asarray(ground + np.maximum(1 - distance / (FEATHER + 1), 0) * (image - ground))


def swappable(masks: NDArray[np.bool_], *, empty: Empty = "unknown") -> NDArray[np.int64]:
    """(n,) which of the masks (N, H, W) belong to images that can get other surroundings, and give theirs.

    These are all but those whose object fills the frame, and those of which nothing is known; see `Empty`.
    """
    fitting = [(empty == "no object" or mask.any()) and not fills_frame(mask) for mask in masks]
    return np.flatnonzero(np.array(fitting, bool))


def drawn_donors(
    rows: NDArray[np.int64], givers: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """(n,) for each of the rows (n,) another one that gives it surroundings, drawn from givers (m,).

    Every giver is as likely as any other, but no row is its own. It is if there is no other.
    """
    if not len(givers):
        return rows
    own = rows[:, None] == givers
    among = len(givers) - own.any(1)
    drawn = (generator.random(len(rows)) * among).astype(np.int64)
    drawn += own.any(1) & (drawn >= own.argmax(1))
    return np.where(among > 0, givers[np.minimum(drawn, len(givers) - 1)], rows)


class Grounds:
    """The surroundings of the objects of many images, each filled in once, when it is first asked for.

    Args:
        pictures: (N, C, H, W).
        masks: (N, H, W), where the objects are.
    """

    def __init__(self, pictures: NDArray[np.float32], masks: NDArray[np.bool_]) -> None:
        self.pictures, self.masks = pictures, masks
        self._filled: dict[int, NDArray[np.float32]] = {}

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """(C, H, W), the surroundings of an image's object."""
        if row not in self._filled:
            self._filled[row] = ground_of(self.pictures[row], self.masks[row])
        return self._filled[row]

    def swapped(self, row: int, donor: int) -> NDArray[np.float32]:
        """(C, H, W), the object of one image in the surroundings of another; in its own, the image as it is."""
        if row == donor:
            return np.asarray(self.pictures[row])
        return pasted(self.pictures[row], self.masks[row], self[donor])


def _around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and MARGIN pixels around it; an empty one stays empty."""
    return np.asarray(distance_transform_edt(~mask) <= MARGIN) if mask.any() else mask
