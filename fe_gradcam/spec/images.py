"""The inputs of a model in either framework: one or several, of which one is the picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError
from fe_gradcam.types import Images


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a model: one or several; one of them is the picture, over which heatmaps are drawn."""

    parts: tuple[Any, ...]
    at: int
    """The position of the picture: the first input with two or more axes of space, or else the first input."""

    @classmethod
    def of(cls, images: Images) -> Inputs:
        """The inputs that a user passed: an array or tensor, or several in a tuple or list."""
        parts = tuple(images) if isinstance(images, (tuple, list)) else (images,)
        return cls(parts, next((at for at, part in enumerate(parts) if len(_shape_of(part)) >= 4), 0))

    @classmethod
    def stacked(cls, rows: Sequence[Sequence[Any]]) -> Inputs:
        """The inputs made of rows; each row is a sequence of arrays or tensors, one for each input."""
        return cls.of(tuple(_stacked(arrays) for arrays in zip(*rows, strict=True)))

    @cached_property
    def picture(self) -> Any:
        """The input over which heatmaps are drawn."""
        return self.parts[self.at]

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each input for one row."""
        return tuple(tuple(part.shape)[1:] for part in self.parts)

    def __len__(self) -> int:
        return int(self.picture.shape[0])

    def checked(self) -> Inputs:
        """The same inputs, in a form that all frameworks know; raises ArgumentError if they are no batch of images."""
        shapes = [_shape_of(part) for part in self.parts]
        if (
            not shapes
            or any(len(shape) < 1 or None in shape for shape in shapes)
            or len({shape[0] for shape in shapes}) != 1
        ):
            raise ArgumentError(
                f"images holds shapes {shapes}. Pass an array (N, C, H, W) or (N, H, W, C), in the layout of the "
                "model, or a tuple of arrays with the same N if the model has several inputs."
            )
        if len(shapes[self.at]) not in (4, 5):
            raise ArgumentError(
                f"images has shape {shapes[self.at]}; (N, C, H, W) for PyTorch or (N, H, W, C) for Keras is needed, "
                "with a depth before H for volumes. Add the batch axis to a single image: images[None]."
            )
        if len(self) == 0:
            raise ArgumentError("images is empty; at least one image is needed.")
        if 0 in shapes[self.at]:
            raise ArgumentError(
                f"images has shape {shapes[self.at]}, which holds no pixels; a length of 1 or more is needed in every "
                "axis. Pass whole pictures."
            )
        return Inputs(tuple(_numbers(part, at == self.at) for at, part in enumerate(self.parts)), self.at)

    def given(self) -> Images:
        """The inputs as the model takes them: an array or tensor, or several in a tuple."""
        return self.parts if len(self.parts) > 1 else self.parts[0]

    def size(self, *, channels_first: bool) -> tuple[int, ...]:
        """(H, W) of a picture (N, C, H, W) or (N, H, W, C); for volumes (D, H, W)."""
        shape = tuple(self.picture.shape)
        return shape[2:] if channels_first else shape[1:-1]

    def check_maps(self, maps: Iterable[Sequence[int]], *, channels_first: bool) -> None:
        """Raises ArgumentError if the sizes of a network's maps say that the channels are in another axis.

        They do if one is larger than the picture as it is read, and none is if its channels are in the other axis.
        """
        own, other = (self.size(channels_first=first) for first in (channels_first, not channels_first))
        if _hold(own, maps) or not _hold(other, maps):
            return
        axes = _other_layout(len(own) + 2, channels_first=channels_first)
        raise ArgumentError(
            Argument("images"),
            f" has shape {tuple(self.picture.shape)}, and this model takes {_LAYOUTS[not channels_first]}, as the "
            f"sizes of its maps show; {_LAYOUTS[channels_first]} are needed. Wrap the model in one that first moves "
            f"the axes, and pass {_moved(self.picture, 'images', axes)}.",
        )

    def rows(self, which: slice) -> Inputs:
        """Some of the rows."""
        return Inputs(tuple(part[which] for part in self.parts), self.at)

    def in_torch(self) -> Inputs:
        """The same inputs as tensors of PyTorch, detached from their graph."""
        return Inputs(tuple(in_torch(part) for part in self.parts), self.at)

    def seen(self, *, channels_first: bool) -> Tensor:
        """The picture (N, C, *S), float32; the inputs must be tensors of PyTorch."""
        picture: Tensor = self.picture.float()
        return picture if channels_first else picture.movedim(-1, 1)

    def with_picture(self, new: Any) -> Inputs:
        """The same inputs with another picture."""
        return Inputs((*self.parts[: self.at], new, *self.parts[self.at + 1 :]), self.at)

    def remedies(self, *, channels_first: bool) -> Iterator[tuple[Inputs, str]]:
        """Other forms of one row that a model may take if it fails on these inputs, each with a hint for the user."""
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
        """Inputs with other pictures (B, C, *S), in this layout, and the other parts of `rows` (B,).

        The pictures have the dtype of this one, or float32 if it is a shorter float: what lies between its numbers
        would be lost.
        """
        own = self.picture.dtype
        dtype = torch.promote_types(own, torch.float32) if own.is_floating_point else own
        new = in_dtype(pictures if channels_first else pictures.movedim(1, -1), dtype)
        others = (part[rows.to(part.device)] if at != self.at else new for at, part in enumerate(self.parts))
        return Inputs(tuple(others), self.at)


def _shape_of(part: Any) -> tuple[int, ...]:
    """The shape of an array or tensor; () for what has none, as a list, or a tensor of rows of several sizes."""
    try:
        return tuple(part.shape)
    except Exception:  # of the user's object
        return ()


NUMBERS = frozenset(
    (
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float16", "bfloat16", "float32", "float64"),
    )
)
"""The names of the dtypes that images may have."""


def _numbers(part: Any, is_picture: bool) -> Any:
    """An input as it is, or cast where nothing is lost; raises ArgumentError if it does not hold plain numbers.

    A picture of truth values is cast to float32, so that it can be made darker; an array of foreign byte order, or of
    a dtype that NumPy does not know by itself, to one that every framework takes.
    """
    if not isinstance(part, (Tensor, np.ndarray)) and not _can_be_read(part):
        said = f" is a {type(part).__name__}, and its numbers cannot be read. Pass an array or tensor with its values."
        raise ArgumentError(Argument("images"), said)
    if not hasattr(type(part), "__len__"):  # a variable of TensorFlow
        part = part.numpy()
    name = getattr(part.dtype, "name", str(part.dtype).removeprefix("torch."))
    if name not in NUMBERS:
        raise ArgumentError(
            Argument("images"),
            f" holds {name}; accepted are numbers: floats of 16, 32 or 64 bits, integers, truth values. Pass the "
            "pixels as an array of such numbers, for example of float32, in the range in which the model was trained.",
        )
    if isinstance(part, Tensor) and part.is_meta:
        raise ArgumentError(
            Argument("images"),
            " is a tensor on the meta device and holds no numbers. Pass images with their values.",
        )
    if isinstance(part, Tensor) and part.layout != torch.strided:
        told = f" is a tensor of layout {part.layout}; accepted are dense ones. Pass images.to_dense()."
        raise ArgumentError(Argument("images"), told)
    if isinstance(part, np.ndarray):
        if name == "bfloat16":
            return part.astype(np.float32)
        part = part.astype(part.dtype.newbyteorder("="), copy=False)
    if name == "bool" and is_picture:
        return _as_floats(part)
    return part


def _can_be_read(part: Any) -> bool:
    """Whether the numbers of a tensor of TensorFlow, or of something like it, are there."""
    try:
        return tuple(np.shape(np.array(part[:1]))) == (1, *_shape_of(part)[1:]) and hasattr(part, "dtype")
    except Exception:  # of the user's object
        return False


def _as_floats(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.float()
    return part.astype(np.float32) if isinstance(part, np.ndarray) else in_torch(part).float().numpy()


_LAYOUTS = {True: "the channels in the second axis", False: "the channels in the last axis"}
"""The layout of a backend in words, by whether its channels come first."""


def _hold(size: Sequence[int | None], maps: Iterable[Sequence[int]]) -> bool:
    """Whether no map is larger than a picture of this size."""
    return all(
        whole is None or side <= whole
        for sides in maps
        if len(sides) == len(size)
        for side, whole in zip(sides, size, strict=True)
    )


def _other_layout(axes: int, *, channels_first: bool) -> tuple[int, ...]:
    """The order of axes that brings images from the other layout into the layout of the backend."""
    return (0, axes - 1, *range(1, axes - 1)) if channels_first else (0, *range(2, axes), 1)


def _moved(picture: Any, called: str, axes: tuple[int, ...]) -> str:
    """The code with which a user reorders the axes of an array or tensor."""
    if isinstance(picture, np.ndarray):
        return f"{called}.transpose{axes}"
    return f"{called}.permute{axes}" if isinstance(picture, Tensor) else f"tf.transpose({called}, {axes})"


def _floated(picture: Any, called: str, dtype: torch.dtype) -> str:
    """The code with which a user turns an array or tensor of integers into floats."""
    kinds = {np.ndarray: f"{called}.astype('float32')", Tensor: f"{called}.float()"}
    floats = next((how for kind, how in kinds.items() if isinstance(picture, kind)), f"tf.cast({called}, tf.float32)")
    scaled = " / 255" * (dtype == torch.uint8)
    return f"{floats}{scaled}, normalised with the mean and std that the model was trained with."


def _stacked(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], Tensor):
        return torch.stack([array.detach() for array in arrays])
    return np.stack([array if isinstance(array, np.ndarray) else array.numpy() for array in arrays])


def in_torch(part: Any) -> Tensor:
    """An array or tensor as a tensor of PyTorch, detached from its graph."""
    if isinstance(part, Tensor):
        return part.detach()
    array = np.array(part)
    return torch.from_numpy(array.astype(np.float32) if array.dtype.name == "bfloat16" else array)


def host_rows(value: Any, rows: slice | None = None) -> Any:
    """Rows of a tensor, by default all, as a new NumPy array; rows of a list, as a list."""
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
    """Images in the given dtype; for integers rounded and clipped to the range of the dtype."""
    if dtype.is_floating_point or dtype == torch.bool:
        return images.to(dtype)
    reach = torch.iinfo(dtype)
    return images.round().clamp(reach.min, reach.max).to(dtype)
