"""The modules of a PyTorch model, in the order of one forward pass and by their names."""

from __future__ import annotations

from math import prod

from torch import nn
from torch.fx import GraphModule

from fe_gradcam.backends.interrupts import HeldBack
from fe_gradcam.backends.keras.version import KERAS_CONVOLUTIONS, is_a
from fe_gradcam.backends.pytorch.following import Unplaced
from fe_gradcam.backends.pytorch.recorder import Lister
from fe_gradcam.backends.pytorch.state import uncompiled, unwrapped
from fe_gradcam.spec.layers import name_among
from fe_gradcam.spec.tokens import Layout, Seen
from fe_gradcam.types import Layer, LayerInfo


def layer_infos(lister: Lister, count: int) -> list[LayerInfo]:
    """The layers that a Lister met in a pass of `count` images, in that order."""
    infos: list[LayerInfo] = []
    for position, (module, shape) in enumerate(lister.met):
        source = lister.same_as.get(position)
        outer = any(not isinstance(one, nn.ParameterDict) for one in module._modules.values())
        passes = source is not None and (not outer or infos[source].pooled)
        infos.append(
            LayerInfo(
                lister.names[module],
                type(module).__name__,
                shape[1:],
                spatial=shape[:1] == (count,),
                activation=lister.activations.get(position),
                convolution=_is_convolution(module),
                relu=module in lister.rectified,
                pooled=passes or lister.made_by[position] == "pool",
                summed=lister.made_by[position] == "sum",
            )
        )
    return infos


def seen_by(lister: Lister, size: tuple[int, ...], *, channels_first: bool) -> Seen:
    """The layout of the layers' outputs that the pass shows."""
    largest = max((prod(shape[1:]) for _, shape in lister.met), default=0)
    of_maps = [(module, shape) for module, shape in lister.met if len(shape) == len(size) + 2]
    if not channels_first:  # of Keras: its layers have one layout, and what is followed begins with another one
        return Seen(tuple(shape[1:-1] for module, shape in of_maps if _is_convolution(module)), largest=largest)
    layouts: dict[tuple[str, tuple[int, ...]], Layout | None] = {}
    for (module, shape), layout in zip(lister.met, lister.layouts, strict=True):
        if layout is not Unplaced.LOST:
            layouts[lister.names[module], shape[1:]] = None if isinstance(layout, Unplaced) else layout
    return Seen(
        tuple(shape[2:] for module, shape in of_maps if _is_convolution(module)),
        any(isinstance(module, (nn.Linear, nn.LayerNorm)) for module, _ in of_maps),
        layouts,
        followed=True,
        largest=largest,
    )


def has_layers(traced: GraphModule) -> bool:
    """Whether a traced program with weights calls the modules of these; those of torch.export use the weights alone.

    One without weights, in which quantised modules keep theirs for themselves, calls whatever it has.
    """
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    return not has_weights(traced) or any(has_weights(traced.get_submodule(name)) for name in called)


def has_weights(module: nn.Module) -> bool:
    """Whether a module has parameters."""
    return next(module.parameters(), None) is not None


def name_of(model: nn.Module, layer: Layer) -> str:
    """See `name_among`; the names are those of the module inside torch.compile and DataParallel."""
    if isinstance(layer, nn.Module):
        layer = unwrapped(layer)
    with HeldBack(), uncompiled(list(model.modules())):
        named: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        if isinstance(layer, str):
            layer = layer.replace("_orig_mod.", "")
            layer = next((name for name in (layer, layer.removeprefix("module.")) if name in named), layer)
        return name_among(layer, named, [name for name, _ in model.named_modules()])


def kind_of(model: nn.Module, name: str) -> str:
    """The name of a layer's class; empty if there is no layer of that name."""
    for part in name.split(".") if name else ():
        inner = model._modules.get(part)
        if inner is None:
            return ""
        model = unwrapped(inner) if "_orig_mod" in inner._modules else inner
    return type(model).__name__


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) or is_a(module, *KERAS_CONVOLUTIONS)
