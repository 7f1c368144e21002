"""Objects in exchanged surroundings while a network trains, for FastEstimator pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, get_args

import numpy as np
from fastestimator.op.numpyop.numpyop import NumpyOp
from fastestimator.util.traceability_util import traceable
from numpy.typing import NDArray

from fe_gradcam.errors import Argument, ArgumentError
from fe_gradcam.integrations.fastestimator import compat
from fe_gradcam.integrations.fastestimator.checked import (
    checked_datasets,
    checked_key,
    checked_modes,
    says_what_cannot_be_recorded,
)
from fe_gradcam.parameters import fraction, one_of
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.verdicts.swap import Empty, Grounds, drawn_donors, swappable

compat.apply()

MOST_CHANNELS = 4
"""An axis of at most so many places holds the channels, if the other axis holds more."""


FEWEST_DONORS, SHARED_BY = 8, 4
"""A quarter of a batch gives surroundings, and at least so many images: filling them in takes most of the time."""


@says_what_cannot_be_recorded
@traceable()
class SwapSurroundings(NumpyOp):
    """Pastes the objects of a batch into each other's surroundings, so that these say nothing of the class.

    It needs donors, so it stands behind `Batch()` in a pipeline. The donor may be of any class, or of the same. Its own
    object is filled in, which takes about 10 ms for an image of 64 pixels and 70 ms for one of 224; so a quarter of a
    batch gives surroundings to all, and the pipeline's processes share the work. All random choices come from the
    generator of NumPy that the host seeds, so a run with `fe.enable_deterministic` can be repeated. Labels, masks and
    boxes stay valid: the object stays at its place.

    Args:
        inputs: Key of the images, (N, H, W, C), (N, C, H, W) or (N, H, W).
        outputs: Key for the images with exchanged surroundings, of the same shape and dtype.
        mode: What mode(s) to execute this Op in, as for every FastEstimator op.
        ds_id: What dataset id(s) to execute this Op in, as for every FastEstimator op.
        masks: Key of the masks of the objects, (N, h, w), also with an axis of one channel.
        boxes: Key of the boxes of the objects, (N, 4) or (N, M, 4): left, top, width and height in pixels. With both,
            an object is where a mask and a box are. Rather too large than too small.
        probability: With which an image gets other surroundings, 0 to 1.
        empty: What an empty mask, or no box, says. "unknown": nothing, and the image stays as it is. "no object": that
            the image shows none, as in a class "good part"; it then becomes the surroundings of another image.
        channels_first: Whether images are (N, C, H, W); None finds out by the axis of at most 4 channels.

    Raises:
        ArgumentError: Neither masks nor boxes are given, or an argument has a value that is not accepted.
    """

    def __init__(
        self,
        inputs: str,
        outputs: str,
        mode: str | Iterable[str] | None = None,
        ds_id: str | Iterable[str] | None = None,
        *,
        masks: str | None = None,
        boxes: str | None = None,
        probability: float = 0.5,
        empty: Empty = "unknown",
        channels_first: bool | None = None,
    ) -> None:
        keys = {"inputs": inputs, "outputs": outputs, "masks": masks, "boxes": boxes}
        for name, key in keys.items():
            if key is not None or name in ("inputs", "outputs"):
                checked_key(name, key)
        if masks is None and boxes is None:
            raise ArgumentError(
                "SwapSurroundings does not know where the objects are. Pass a key of the batch as ",
                Argument("masks", ""),
                " or ",
                Argument("boxes", ""),
                ".",
            )
        fraction("probability", probability)
        one_of("empty", empty, get_args(Empty))
        if channels_first is not None:
            one_of("channels_first", channels_first, (True, False))
        read = [inputs, *(key for key in (masks, boxes) if key is not None)]
        when = {"mode": checked_modes(mode), "ds_id": checked_datasets(ds_id)}
        super().__init__(inputs=read, outputs=outputs, **when)
        self.masks, self.boxes = masks, boxes
        self.probability, self.empty, self.channels_first = probability, empty, channels_first

    def forward(self, data: list[NDArray[Any]], state: dict[str, Any]) -> NDArray[Any]:
        """See NumpyOp.

        Raises:
            ArgumentError: Always: a single image has no donors.
        """
        raise ArgumentError(
            "SwapSurroundings exchanges the surroundings of a batch, and got a single image. Put Batch() before it in "
            "the ops of the pipeline: ops=[..., Batch(), SwapSurroundings(...)]."
        )

    def forward_batch(self, data: list[NDArray[Any]], state: dict[str, Any]) -> NDArray[Any]:
        """See NumpyOp; returns the images."""
        images, found = np.asarray(data[0]), dict(zip(self._named, data[1:], strict=True))
        axis = self._channels(images)
        pictures = images[:, None] if axis is None else np.moveaxis(images, axis, 1)
        pictures = pictures.astype(np.float32)
        given = found.get("masks"), found.get("boxes")
        known = object_masks(*given, pictures.shape[2:], len(pictures), may_be_outside=True)
        masks = cast("NDArray[np.bool_]", known)  # one of them is given
        generator = np.random.default_rng(np.random.randint(2**31))
        rows = swappable(masks, empty=self.empty)
        chosen = rows[generator.random(len(rows)) < self.probability]
        grounds, swapped = Grounds(pictures, masks), pictures.copy()
        givers = generator.permutation(rows)[: max(FEWEST_DONORS, len(rows) // SHARED_BY)]
        for row, donor in zip(chosen, drawn_donors(chosen, givers, generator), strict=True):
            swapped[row] = grounds.swapped(int(row), int(donor))
        if images.dtype.kind in "ui":
            swapped = np.rint(swapped)
        swapped = swapped[:, 0] if axis is None else np.moveaxis(swapped, 1, axis)
        return np.ascontiguousarray(swapped, images.dtype)

    @property
    def _named(self) -> list[str]:
        """What the inputs behind the images are."""
        return [name for name in ("masks", "boxes") if getattr(self, name) is not None]

    def _channels(self, images: NDArray[Any]) -> int | None:
        """The axis of the channels, or None if there is none."""
        if images.ndim == 3:
            return None
        few = [axis for axis in (1, 3) if images.ndim == 4 and images.shape[axis] <= MOST_CHANNELS]
        if self.channels_first is not None and images.ndim == 4:
            return 1 if self.channels_first else 3
        if len(few) == 1:
            return few[0]
        raise ArgumentError(
            Argument("inputs", repr(self.inputs[0])),
            f" holds images of shape {images.shape}. Accepted: (N, H, W, C), (N, C, H, W) or (N, H, W). If the "
            "channels are not the one axis of 1 to 4, say where they are: ",
            Argument("channels_first", "True"),
            " or False.",
        )
