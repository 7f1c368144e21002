"""The images that a model takes, whatever their framework: one input or several, one of them the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.types import Images


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model takes: one input or several, one of them the picture, that is drawn on."""

    parts: tuple[Any, ...]
    at: int
    """Which of them is the picture: the first with two axes of space or more, or else the first."""

    @classmethod
    def of(cls, images: Images) -> Inputs:
        """Those that a user passed: an array or tensor, or several in a tuple or list."""
        parts = tuple(images) if isinstance(images, (tuple, list)) else (images,)
        return cls(parts, next((at for at, part in enumerate(parts) if len(getattr(part, "shape", ())) >= 4), 0))

    @classmethod
    def stacked(cls, rows: Sequence[Sequence[Any]]) -> Inputs:
        """Those whose rows are given, each as the arrays or tensors of its inputs, in their own framework."""
        return cls.of(tuple(_stacked(arrays) for arrays in zip(*rows, strict=True)))

    @property
    def picture(self) -> Any:
        """The input that is drawn on."""
        return self.parts[self.at]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each input for one row."""
        return tuple(tuple(part.shape[1:]) for part in self.parts)

    def __len__(self) -> int:
        return len(self.picture)

    def checked(self) -> Inputs:
        """The same; an ArgumentError if they are no batch of images."""
        shapes = [tuple(getattr(part, "shape", ())) for part in self.parts]
        if not shapes or any(len(shape) < 1 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
            raise ArgumentError(
                f"images holds shapes {shapes}; an array (N, C, H, W) or (N, H, W, C) as the model takes it is needed, "
                "or a tuple of arrays with the same N for a model with several inputs."
            )
        if len(shapes[self.at]) not in (4, 5):
            raise ArgumentError(
                f"images has shape {shapes[self.at]}; (N, C, H, W) for PyTorch or (N, H, W, C) for Keras is needed, of "
                "volumes with a depth before H. Add the batch axis to a single image: images[None]."
            )
        if len(self) == 0:
            raise ArgumentError("images is empty; at least one image is needed.")
        return self

    def given(self) -> Images:
        """What the model takes: an array or tensor, or several in a tuple."""
        return self.parts if len(self.parts) > 1 else self.parts[0]

    def size(self, *, channels_first: bool) -> tuple[int, ...]:
        """(H, W) of the picture, (N, C, H, W) or (N, H, W, C), or (D, H, W) of volumes."""
        shape = tuple(self.picture.shape)
        return shape[2:] if channels_first else shape[1:-1]

    def rows(self, which: slice) -> Inputs:
        """Some of the rows."""
        return Inputs(tuple(part[which] for part in self.parts), self.at)

    def in_torch(self) -> Inputs:
        """The same as tensors of PyTorch, without their history."""
        return Inputs(tuple(in_torch(part) for part in self.parts), self.at)

    def seen(self, *, channels_first: bool) -> Tensor:
        """The picture (N, C, *S), float32; of inputs in PyTorch."""
        picture: Tensor = self.picture.float()
        return picture if channels_first else picture.movedim(-1, 1)

    def with_picture(self, new: Any) -> Inputs:
        """Another picture, and the other inputs as they are."""
        return Inputs((*self.parts[: self.at], new, *self.parts[self.at + 1 :]), self.at)

    def remedies(self, *, channels_first: bool) -> Iterator[tuple[Inputs, str]]:
        """Other forms of one row that a model may take where it fails on this one, each with what to say of it."""
        row, whole = in_torch(self.picture[:1]), self.rows(slice(1))
        called = "" if len(self.parts) == 1 else f"[{self.at}]"
        axes = _other_layout(row.dim(), channels_first=channels_first)
        as_floats = None if row.is_floating_point() else row.float()
        moved = f"{called} has shape {tuple(self.picture.shape)}, and the model takes {_LAYOUTS[channels_first]}: pass "
        moved += _moved(self.picture, f"images{called}", axes)
        floats = f"{called} holds {str(row.dtype).removeprefix('torch.')}, and the model takes floats: pass "
        floats += _floated(self.picture, f"images{called}", row.dtype)
        if as_floats is not None:
            yield whole.with_picture(as_floats), floats
        yield whole.with_picture(row.permute(axes)), f"{moved}."
        if as_floats is not None:
            yield whole.with_picture(as_floats.permute(axes)), f"{moved}. images{floats}"

    def asked(self, pictures: Tensor, rows: Tensor, *, channels_first: bool) -> Inputs:
        """Other pictures (B, C, *S), in the layout and dtype of this one, with the other inputs of their rows (B,)."""
        new = in_dtype(pictures if channels_first else pictures.movedim(1, -1), self.picture.dtype)
        others = (part[rows.to(part.device)] if at != self.at else new for at, part in enumerate(self.parts))
        return Inputs(tuple(others), self.at)


_LAYOUTS = {True: "the channels in the second axis", False: "the channels in the last axis"}
"""Where a backend has them, by whether they come first."""


def _other_layout(axes: int, *, channels_first: bool) -> tuple[int, ...]:
    """How the axes of images in the other layout are put in order."""
    return (0, axes - 1, *range(1, axes - 1)) if channels_first else (0, *range(2, axes), 1)


def _moved(picture: Any, called: str, axes: tuple[int, ...]) -> str:
    """How a user puts the axes of an array or tensor in order."""
    if isinstance(picture, np.ndarray):
        return f"{called}.transpose{axes}"
    return f"{called}.permute{axes}" if isinstance(picture, Tensor) else f"tf.transpose({called}, {axes})"


def _floated(picture: Any, called: str, dtype: torch.dtype) -> str:
    """How a user makes floats of an array or tensor of integers."""
    kinds = {np.ndarray: f"{called}.astype('float32')", Tensor: f"{called}.float()"}
    floats = next((how for kind, how in kinds.items() if isinstance(picture, kind)), f"tf.cast({called}, tf.float32)")
    scaled = " / 255" * (dtype == torch.uint8)
    return f"{floats}{scaled}, normalised with the mean and std that the model was trained with."


def _stacked(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], Tensor):
        return torch.stack([array.detach() for array in arrays])
    return np.stack([array if isinstance(array, np.ndarray) else array.numpy() for array in arrays])


def in_torch(part: Any) -> Tensor:
    """An array or tensor as one of PyTorch, without its history."""
    return part.detach() if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def host_rows(value: Any, rows: slice | None = None) -> Any:
    """Rows of a tensor, all of them by default, as a NumPy array of its own; of a list, a list."""
    chosen = value[rows or slice(None)]
    if isinstance(chosen, torch.Tensor):
        kept = chosen.detach().cpu()
        return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy().copy()
    if hasattr(chosen, "numpy"):
        return np.array(chosen.numpy())
    if isinstance(chosen, np.ndarray):
        return chosen.copy()
    return list(chosen)


def in_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in a dtype that a model may go by: of integers rounded, and within their range."""
    if dtype.is_floating_point or dtype == torch.bool:
        return images.to(dtype)
    reach = torch.iinfo(dtype)
    return images.round().clamp(reach.min, reach.max).to(dtype)
