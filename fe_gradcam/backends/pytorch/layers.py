"""The modules of a PyTorch model as one forward pass met them, and by their names."""

from __future__ import annotations

import torch
from torch import nn

from fe_gradcam.backends.pytorch.recorder import Lister
from fe_gradcam.backends.pytorch.state import uncompiled, unwrapped
from fe_gradcam.spec.layers import name_among, only_pools
from fe_gradcam.spec.tokens import Seen, as_map, token_grid
from fe_gradcam.types import Layer, LayerInfo


def layer_infos(lister: Lister, count: int, size: tuple[int, ...]) -> list[LayerInfo]:
    """What a Lister met, in that order.

    Args:
        lister: After the pass.
        count: The number of images.
        size: (H, W) of the images.
    """
    seen = seen_by(lister, size)
    counts = {shape[1] for _, shape in lister.met if len(shape) == 3 and shape[2] > 1}
    tokens = {each for each in counts if token_grid(each, seen.maps, size)}
    infos: list[LayerInfo] = []
    for position, (module, shape) in enumerate(lister.met):
        own = shape[1:]
        of_tokens = shape[1] if len(shape) == 3 and shape[2] > 1 and shape[1] in tokens else None
        source = lister.same_as.get(position)
        attention = len(own) == 3 and own[1] == own[2] and own[1] in tokens and own[1:] not in seen.maps
        if of_tokens or len(own) == len(size) + 1:
            output = torch.empty(shape, device="meta")
            own = tuple(as_map(output, "", size, lambda: seen, None, channels_first=True).shape[1:])
        infos.append(
            LayerInfo(
                lister.names[module],
                type(module).__name__,
                own,
                spatial=len(own) == len(size) + 1 and max(own[1:]) > 1 and shape[0] == count and not attention,
                activation=lister.activations.get(position),
                tokens=of_tokens,
                convolution=_is_convolution(module),
                relu=module in lister.rectified,
                pooled=_only_pools(module) or (source is not None and infos[source].pooled),
            )
        )
    return infos


def _only_pools(module: nn.Module) -> bool:
    return not module._modules and only_pools(type(module).__name__)


def seen_by(lister: Lister, size: tuple[int, ...]) -> Seen:
    """What the pass showed about the layout of the layers' outputs."""
    of_maps = [(module, shape) for module, shape in lister.met if len(shape) == len(size) + 2]
    return Seen(
        tuple(shape[2:] for module, shape in of_maps if _is_convolution(module)),
        any(isinstance(module, (nn.Linear, nn.LayerNorm)) for module, _ in of_maps),
    )


def name_of(model: nn.Module, layer: Layer) -> str:
    """See `name_among`; inside torch.compile and DataParallel names are those of the module within."""
    if isinstance(layer, nn.Module):
        layer = unwrapped(layer)
    with uncompiled(list(model.modules())):
        named: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        if isinstance(layer, str):
            layer = layer.replace("_orig_mod.", "")
            layer = next((name for name in (layer, layer.removeprefix("module.")) if name in named), layer)
        return name_among(layer, named, [name for name, _ in model.named_modules()])


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)
