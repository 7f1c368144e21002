"""Follows the places of the image through one forward pass: which axes of each tensor they are, and in which order.

Nothing is computed with the values. Beside a tensor goes, for each axis of space, one of the same shape that holds the
position of each value in the image. A function that only moves values moves the positions in the same way; one that
computes with them leaves the positions as they are, or is known to mix places.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from enum import Enum
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from fe_gradcam.spec.tokens import Layout, layout_of


class Unplaced(Enum):
    """Why it is not known where the values of a tensor stand in the image."""

    NOTHING = "computed from no image"
    FOREIGN = "one value, or row of values, for each of something else, such as of learned queries"
    LOST = "computed from the image in a way that was not followed"


Positions: TypeAlias = "tuple[Tensor, ...]"
"""For each axis of space a tensor of positions; NaN where a value belongs to no place, as a class token does."""

State: TypeAlias = "Positions | Unplaced"

MOVING = frozenset(
    (
        "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "permute",
        "transpose", "swapaxes", "swapdims", "t", "adjoint", "movedim", "moveaxis", "rot90", "contiguous", "expand",
        "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "__getitem__", "select", "narrow",
        "index_select", "chunk", "split", "tensor_split", "split_with_sizes", "unbind", "roll", "flip", "fliplr",
        "flipud", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "gather", "take_along_dim",
        "__get__",
    )
)  # fmt: skip
"""Functions that only move, repeat or drop the values of their first input; `__get__` is an attribute such as `.T`."""

CHOOSING = frozenset({"__getitem__", "select", "narrow", "index_select", "gather", "take_along_dim"})
"""Those of them that can drop some of the tokens."""

JOINING = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})

ARITHMETIC = frozenset(
    (
        "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "rsub", "__rsub__", "mul", "mul_", "__rmul__",
        "multiply", "div", "div_", "__rtruediv__", "true_divide", "where", "lerp", "addcmul", "maximum", "minimum",
    )
)  # fmt: skip
"""Functions whose inputs are all of one layout."""

SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})

REDUCING = frozenset({"mean", "sum", "nanmean", "max", "amax", "min", "amin", "median", "logsumexp"})
"""Functions that make one value of those along some axes; it stands in the middle of them."""

CONTRACTING = frozenset(
    {"linear", "matmul", "__matmul__", "bmm", "mm", "einsum", "glu", "scaled_dot_product_attention"}
)
"""Functions that compute the last axis anew, and leave the others as in their first input."""


NEAR = 1e-5
"""Positions no further apart than this are one."""


def only_pools(name: str) -> bool:
    """Whether this function of PyTorch pools."""
    return "pool" in name and "unpool" not in name


class Follower:
    """What is known of the tensors of one pass; `follow` is called for every function, in order.

    Args:
        model: Its parameters and buffers are computed from no image.
        picture: The images (N, C, *S) as the model gets them.
    """

    def __init__(self, model: nn.Module, picture: Tensor) -> None:
        self._axes = picture.dim() - 2
        self._states: MutableMapping[Tensor, State] = WeakTensorKeyDictionary()
        for own in (*model.parameters(), *model.buffers()):
            self._states[own] = Unplaced.NOTHING
        self._states[picture] = self._fresh(picture.shape)

    def of(self, tensor: Tensor) -> State:
        """The positions of a tensor's values."""
        return self._states.get(tensor, Unplaced.LOST)

    def bridge(self, given: Sequence[Any], output: Tensor) -> None:
        """If a module lost the places but not the shape of its first input, they are taken to be the same."""
        first = next((each for each in given if isinstance(each, Tensor)), None)
        if first is not None and self.of(output) is Unplaced.LOST and first.shape == output.shape:
            self._states[output] = self.of(first)

    def follow(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Notes what a call of `func` put out."""
        outputs = [out] if isinstance(out, Tensor) else out if isinstance(out, (tuple, list)) else ()
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if not writes and not any(isinstance(each, Tensor) for each in outputs):
            return
        given = list(_tensors((args, kwargs)))
        states = [self.of(each) for each in given]
        if writes and states and states[0] is Unplaced.NOTHING and set(states) != {Unplaced.NOTHING}:
            self._written(name, given, states)
            return
        if all(state is Unplaced.NOTHING for state in states) or name.endswith("_like") or name.startswith("new_"):
            found: list[State] = [Unplaced.NOTHING] * len(outputs)
        else:
            try:
                found = self._found(func, name, args, kwargs, out, given, states)
            except (RuntimeError, TypeError, IndexError, ValueError):  # positions do not go through the function
                found = [Unplaced.LOST] * len(outputs)
        for each, state in zip(outputs, found, strict=True):
            if isinstance(each, Tensor):
                self._states[each] = state

    def _written(self, name: str, given: Sequence[Tensor], states: Sequence[State]) -> None:
        """Notes that something of the image was written into a tensor, and so into the one that it is a view of."""
        whole = name == "copy_" and given[0].shape == given[1].shape
        self._states[given[0]] = states[1] if whole else Unplaced.LOST
        if given[0]._base is not None:
            self._states[given[0]._base] = Unplaced.LOST

    def _found(
        self, func: Any, name: str, args: Any, kwargs: Any, out: Any, given: Sequence[Tensor], states: Sequence[State]
    ) -> list[State]:
        """The states of the outputs, in their order."""
        if name in JOINING:
            return [_joined(func, args, kwargs, given, states)]
        if name == "pad":
            return [_padded(func, args, kwargs, states[0])]
        if name in REDUCING and states[0] is not Unplaced.NOTHING and (len(given) == 1):
            return _reduced(args, kwargs, out, states[0])
        if name in MOVING:
            return _moved(func, name, args, kwargs, out, states[0])
        return [self._computed(name, given, states, each) for each in ([out] if isinstance(out, Tensor) else out)]

    def _computed(self, name: str, given: Sequence[Tensor], states: Sequence[State], out: Any) -> State:
        """The state of an output that was computed with the values of the inputs."""
        if not isinstance(out, Tensor):
            return Unplaced.LOST
        first, state = given[0], states[0]
        shape, of_maps = tuple(out.shape), out.dim() == self._axes + 2
        if of_maps and ("conv" in name or "pool" in name or "interpolate" in name or "upsample" in name):
            return self._fresh(shape) if state is Unplaced.LOST else self._resized(state, shape)
        if name in ARITHMETIC:
            return _of_equals(given, states, shape)
        mixed = state is Unplaced.NOTHING
        if first.shape == out.shape and not mixed:
            if state is Unplaced.LOST and of_maps and name in ("batch_norm", "group_norm", "instance_norm"):
                return self._fresh(shape)
            return state
        if name in CONTRACTING and first.shape[:-1] == out.shape[:-1]:
            return Unplaced.FOREIGN if mixed else _contracted(state, shape)
        return Unplaced.FOREIGN if mixed and first.shape == out.shape else Unplaced.LOST

    def _fresh(self, shape: Sequence[int]) -> Positions:
        """The positions in maps (N, K, *S), with the axes of space in their order."""
        return tuple(_along(at + 2, _centres(side), shape) for at, side in enumerate(shape[2:]))

    def _resized(self, state: State, shape: Sequence[int]) -> State:
        """The positions in maps that a convolution or a pooling made of maps."""
        if isinstance(state, Unplaced) or state[0].dim() != len(shape):
            return state if isinstance(state, Unplaced) else Unplaced.LOST
        means = [_averaged(positions, 1) for positions in state]
        if any(_varies_along(mean, 0) for mean in means):  # rows of windows, not of images
            return _in_each_row(means, shape)
        profiles: dict[int, tuple[int, Tensor]] = {}
        for at, mean in enumerate(means):
            of_places = mean[0]
            found = [axis for axis in range(self._axes) if _varies_along(of_places, axis)]
            if len(found) > 1 or (found and found[0] in profiles):
                return Unplaced.LOST  # no map with axes of its own
            if found:
                others = [axis for axis in range(self._axes) if axis != found[0]]
                profile = of_places
                for axis in reversed(others):
                    profile = _averaged(profile, axis)
                profiles[found[0]] = (at, profile)
        free = [at for at in range(len(state)) if at not in {own for own, _ in profiles.values()}]
        made: list[tuple[int, Tensor]] = []
        for axis in range(self._axes):
            if axis in profiles:
                at, profile = profiles[axis]
                made.append((at, _along(axis + 2, _resampled(profile, shape[axis + 2]), shape)))
            else:
                made.append((free.pop(0), _along(axis + 2, _centres(shape[axis + 2]), shape)))
        return tuple(positions for _, positions in sorted(made, key=lambda one: one[0]))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _at_hand(arguments: Any) -> Any:
    """Arguments with their tensors on the CPU, where the positions are."""
    return tree_map(lambda each: each.cpu() if isinstance(each, Tensor) else each, arguments)


def _moved(func: Any, name: str, args: Any, kwargs: dict[str, Any], out: Any, state: State) -> list[State]:
    """The states of the outputs of a function that moves values."""
    if isinstance(state, Unplaced):
        return [state] * (1 if isinstance(out, Tensor) else len(out))
    more = {key: value for key, value in _at_hand(kwargs).items() if key not in ("input", "self")}
    func = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}.get(name, func)  # positions are strided otherwise
    moved = [func(positions, *_at_hand(args[1:]), **more) for positions in state]
    if isinstance(out, Tensor):
        moved = [(each,) for each in moved]
    found = [tuple(parts) for parts in zip(*moved, strict=True)]
    return [Unplaced.LOST if name in CHOOSING and _fewer_tokens(state, each) else each for each in found]


def _fewer_tokens(before: Positions, after: Positions) -> bool:
    """Whether only some of the tokens of a whole map are left; these are no map of the whole image."""
    whole, part = (layout_at(each) if each[0].dim() == 3 else None for each in (before, after))
    if whole is None or part is None or whole.tokens is None or part.tokens is None:
        return False
    return prod(part.grid) < prod(whole.grid)


def layout_at(positions: Positions) -> Layout | None:
    """The layout of a tensor for one image."""
    return layout_of([each[0].numpy() for each in positions])


def _reduced(args: Any, kwargs: dict[str, Any], out: Any, state: State) -> list[State]:
    """The states of the outputs of a function that makes one value of many."""
    count = 1 if isinstance(out, Tensor) else len(out)
    rest = dict(zip(("dim", "keepdim"), args[1:], strict=False)) | kwargs
    axes = rest.get("dim", rest.get("axis"))
    if isinstance(state, Unplaced) or axes is None:
        return [state if isinstance(state, Unplaced) else Unplaced.LOST] * count
    averaged = [positions.nanmean(axes, keepdim=bool(rest.get("keepdim", False))) for positions in state]
    return [tuple(averaged)] * count


def _padded(func: Any, args: Any, kwargs: dict[str, Any], state: State) -> State:
    """The state of padded maps; a constant that is added stands at no place."""
    if isinstance(state, Unplaced):
        return state
    rest = {"mode": "constant", "value": None} | dict(zip(("pad", "mode", "value"), args[1:], strict=False)) | kwargs
    rest.pop("input", None)
    if rest["mode"] == "constant":
        rest["value"] = float("nan")
    if len(rest["pad"]) > 2 * (state[0].dim() - 2) or any(positions.stride(1) for positions in state):
        return tuple(func(positions, **rest) for positions in state)
    count = state[0].shape[1]  # all channels are alike, and only their places are padded: one will do
    one = (func(positions[:, :1], **rest) for positions in state)
    return tuple(positions.expand(-1, count, *positions.shape[2:]) for positions in one)


def _joined(func: Any, args: Any, kwargs: dict[str, Any], given: Any, states: Sequence[State]) -> State:
    """The state of joined tensors; those of no place among them are NaN."""
    if any(state is Unplaced.LOST for state in states):
        return Unplaced.LOST
    placed = [state for state in states if not isinstance(state, Unplaced)]
    if not placed:
        return Unplaced.FOREIGN
    nowhere = [torch.full((), torch.nan, dtype=torch.float32, device="cpu").expand(each.shape) for each in given]
    more = {key: value for key, value in kwargs.items() if key not in ("tensors", "out")}
    return tuple(
        func([nan if isinstance(state, Unplaced) else state[at] for nan, state in zip(nowhere, states, strict=True)],
             *args[1:], **more)
        for at in range(len(placed[0]))
    )  # fmt: skip


def _of_equals(given: Sequence[Tensor], states: Sequence[State], shape: Sequence[int]) -> State:
    """The state of what is computed of tensors of one layout, of which some may be broadcast."""
    placed = [(each, state) for each, state in zip(given, states, strict=True) if not isinstance(state, Unplaced)]
    whole = [state for each, state in placed if each.shape == torch.Size(shape)]
    if whole:
        return whole[0]
    for _, state in placed:
        try:
            return tuple(positions.expand(tuple(shape)) for positions in state)
        except RuntimeError:  # it is broadcast in another way
            continue
    left = [state for state in states if isinstance(state, Unplaced)]
    return Unplaced.LOST if Unplaced.LOST in left or not left else Unplaced.FOREIGN


def _contracted(state: State, shape: Sequence[int]) -> State:
    """The state of a tensor whose last axis was computed anew from the last axis of another."""
    if isinstance(state, Unplaced):
        return state
    means = [_averaged(positions, -1) for positions in state]
    finite = [mean[mean.isfinite()] for mean in means]
    if len(finite[0]) and not any(bool(mean.max() - mean.min() > NEAR) for mean in finite):
        return Unplaced.LOST  # places were mixed, not channels
    return tuple(mean[..., None].expand(tuple(shape)) for mean in means)


def _in_each_row(means: Sequence[Tensor], shape: Sequence[int]) -> State:
    """The positions in maps (N, K, *S), made of those (N, *S) of maps that are no smaller; each row has its own."""
    if any(new > old for new, old in zip(shape[2:], means[0].shape[1:], strict=True)):
        return Unplaced.LOST
    pool: Any = nn.functional.adaptive_avg_pool2d if len(shape) == 4 else nn.functional.adaptive_avg_pool3d
    return tuple(pool(mean[:, None], tuple(shape[2:])).expand(tuple(shape)) for mean in means)


def _along(axis: int, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor that holds the values along one axis, whatever the others; it takes no more memory than these."""
    return values.reshape([-1 if at == axis else 1 for at in range(len(shape))]).expand(tuple(shape))


def _centres(count: int) -> Tensor:
    """Where `count` places stand that cover [0, 1]."""
    return (torch.arange(count, dtype=torch.float32, device="cpu") + 0.5) / max(count, 1)


def _resampled(profile: Tensor, count: int) -> Tensor:
    """Positions along an axis of which `count` places were made."""
    known = profile.isfinite().nonzero()[:, 0]
    if len(known) < 2:
        return _centres(count)
    wanted = (torch.arange(count, dtype=torch.float32, device="cpu") + 0.5) * len(profile) / count - 0.5
    below = (torch.searchsorted(known.float(), wanted.contiguous()) - 1).clamp(0, len(known) - 2)
    start, end = known[below], known[below + 1]
    slope = (profile[end] - profile[start]) / (end - start)
    return profile[start] + slope * (wanted - start)


def _varies_along(positions: Tensor, axis: int) -> bool:
    """Whether positions differ along an axis; not along one of those that were expanded."""
    if positions.shape[axis] < 2 or positions.stride(axis) == 0:
        return False
    steps = positions.diff(dim=axis).abs()
    steps = steps[steps.isfinite()]
    return bool(steps.numel()) and bool(steps.max() > NEAR)


def _averaged(positions: Tensor, axis: int) -> Tensor:
    """The mean along an axis of what stands at places."""
    if positions.stride(axis) == 0 or positions.shape[axis] == 1:  # nothing to compute
        return positions.select(axis, 0)
    return positions.nanmean(axis)
