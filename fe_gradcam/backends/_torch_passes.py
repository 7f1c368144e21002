"""One pass of a PyTorch model past the explained place, and the gradient that it leaves there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fe_gradcam.backends._shared import HALF_PRECISION_FACTOR, not_called
from fe_gradcam.backends._torch_recorder import Recorder
from fe_gradcam.types import LayerRef

_times_reached: WeakKeyDictionary[nn.Module, dict[LayerRef, int]] = WeakKeyDictionary()


def expect(model: nn.Module, layer: LayerRef, times: int) -> None:
    """Notes how many times a pass comes by a place."""
    _times_reached.setdefault(model, {})[layer] = times


def observe(
    model: nn.Module,
    inputs: Sequence[Tensor],
    layer: LayerRef,
    take: Callable[[Tensor], Tensor],
    *,
    whole_graph: bool,
) -> tuple[Any, Recorder]:
    """Calls the model once under a Recorder.

    Args:
        model: The module to call.
        inputs: Its positional arguments.
        layer: The place that `take` gets the tensor of.
        take: See Recorder.
        whole_graph: Whether autograd is on from the start.

    Returns:
        The model's output and the recorder.

    Raises:
        ArgumentError: The pass never came to the place.
    """
    times = _times_reached.setdefault(model, {})
    module = model.get_submodule(layer.name)
    recorder = Recorder(layer, take, skip=times.get(layer, 1) - 1)
    with torch.set_grad_enabled(whole_graph), recorder.watching(module):
        output = model(*(part.clone() for part in inputs))  # some write to what they get
    if 0 < recorder.reached < times.get(layer, 1):  # called fewer times than before: nothing was taken
        recorder = Recorder(layer, take, skip=recorder.reached - 1)
        with torch.set_grad_enabled(whole_graph), recorder.watching(module):
            output = model(*(part.clone() for part in inputs))
    if not recorder.reached:
        raise not_called(layer)
    times[layer] = recorder.reached
    return output, recorder


def gradient_at(leaf: Tensor, scores: Tensor, *, retain_graph: bool) -> Tensor | None:
    """∂(Σ scores)/∂leaf in float32, or None where the scores were not computed from the leaf."""
    if not scores.requires_grad:
        return None
    factors = (HALF_PRECISION_FACTOR, 1.0) if leaf.dtype == torch.float16 else (1.0,)
    for factor in factors:
        keep = retain_graph or factor != factors[-1]
        (gradient,) = torch.autograd.grad(
            scores, leaf, torch.full_like(scores, factor), retain_graph=keep, allow_unused=True
        )
        if gradient is None:
            return None
        gradient = gradient.detach().float() / factor
        if bool(gradient.isfinite().all()):
            break
    return gradient
