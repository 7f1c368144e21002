"""Which layer is explained, among those that a backend lists, and which of their outputs are maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fe_gradcam.errors import LIST_LAYERS, Argument, ArgumentError, UnknownNameError, in_short, nearest
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import Layer, LayerInfo, LayerRef

MOST_TRIED = 8
"""How many layers are tried one after another for one that the score depends on."""


def with_maps(
    infos: Sequence[LayerInfo], seen: Seen, size: tuple[int, ...], *, channels_first: bool
) -> list[LayerInfo]:
    """The layers, with the shapes that a pass met turned into those of maps: tokens recognised, channels first."""
    counts = {info.shape[0] for info in infos if len(info.shape) == 2}
    done = []
    for info in infos:
        own, tokens = info.shape, None
        sides = own[1:] if channels_first else own[:-1]
        layout = seen.layout_of(info.name, own, size) if channels_first or len(own) == 2 else None
        unplaced = layout is None and seen.followed
        between = len(own) == 3 and own[1] == own[2] and own[1] in counts and sides not in seen.maps
        attention = between and seen.of_tokens(own[1], size) is not None
        if layout is not None:
            tokens, own = layout.tokens, (own[layout.channels], *layout.grid)
        elif not channels_first:
            own = (*own[-1:], *own[:-1])
        of_image = info.spatial and len(own) == len(size) + 1 and not attention and not unplaced
        spatial = of_image and any(side != 1 for side in own[1:])
        done.append(replace(info, shape=own, tokens=tokens, spatial=spatial))
    return done


def default_layer(
    infos: Sequence[LayerInfo], reaches: Callable[[LayerRef], bool], *, of_pixels: bool
) -> tuple[LayerRef, bool]:
    """The last map larger than 1x1 before a pooling, taken behind the activation function applied directly to it.

    This was chosen by measurement (benchmarks/default_layer.py): behind the activation function, more of grad_cam's
    heat falls on the object than at the convolution's own output, and a pooling after that makes the map coarser.

    Only a layer is taken on whose pixels the score depends, so none of an auxiliary head whose output is not explained.
    Tokens are explained at the last normalisation, or the last sum that ends a block, whose places the score depends
    on: in a transformer whose head reads the class token alone, the last normalisation before the last attention.

    Args:
        infos: The layers in the order of execution.
        reaches: Says whether the score depends on the pixels, or tokens, of a layer's output.
        of_pixels: Whether a segmentation is explained. If so, the last convolution that the score depends on computes
            the scores themselves, and the default layer lies before it.

    Returns:
        The place, and whether the score depends on it. If it does not, for example because the weights of the head are
        all zero, the default may be another one once the weights have changed.

    Raises:
        ArgumentError: No layer has an output that is a map.
    """
    if of_pixels:
        convolutions = [at for at, info in enumerate(infos) if info.convolution]
        refs = {LayerRef(infos[at].name, "convolution"): at for at in convolutions}
        scoring = _first_reached(list(reversed(refs)), reaches)
        last_convolution = max(convolutions, default=len(infos)) if scoring is None else refs[scoring]
        classes = infos[last_convolution].shape[0] if convolutions else None
        infos = [info for info in infos[:last_convolution] if not _scores(info, classes)]
    spatial = [info for info in reversed(infos) if info.spatial]
    if not spatial:
        raise ArgumentError(
            Argument("layer", "None"),
            " finds no layer whose output is a map (K, h, w) larger than 1x1, so no heatmap can be drawn. Pass ",
            Argument("layer", ""),
            " with the name of a layer that keeps the height and width of the image; if its output holds tokens of the "
            "image, pass reshape= that makes (N, K, h, w) of them.",
        )
    # a map of one channel is an attention gate, whose sign means nothing; the others keep their order
    spatial.sort(key=lambda info: info.pooled or info.shape[0] == 1)
    last = spatial[0]
    of_tokens = [info for info in spatial if info.tokens is not None]
    between = [info for info in of_tokens if info.summed or "norm" in info.kind.lower()]
    first = [last] if last.tokens is None else []
    choices = dict.fromkeys(_ref_at(info) for info in [*first, *between, *of_tokens, *spatial])
    found = _first_reached(list(choices), reaches)
    return (_ref_at(last), False) if found is None else (found, True)


def _scores(info: LayerInfo, classes: int | None) -> bool:
    """Whether a convolution makes scores too, which are added to those of the last, as of another resolution."""
    return info.convolution and info.activation is None and info.shape[0] == classes


def _first_reached(refs: Sequence[LayerRef], reaches: Callable[[LayerRef], bool]) -> LayerRef | None:
    """The first of the places that the score depends on, or None.

    After some that it does not depend on, places further and further on are tried, and if one counts, the first such
    place is looked for by halves: as a rule all count that lie nearer to the image.
    """
    for ref in refs[:MOST_TRIED]:
        if reaches(ref):
            return ref
    missed, at = MOST_TRIED - 1, MOST_TRIED
    while at < len(refs) and not reaches(refs[at]):
        missed, at = at, min(2 * at, len(refs) - 1) if at < len(refs) - 1 else len(refs)
    if at >= len(refs):
        return None
    while at - missed > 1:
        middle = (missed + at) // 2
        missed, at = (missed, middle) if reaches(refs[middle]) else (middle, at)
    return refs[at]


def _ref_at(info: LayerInfo) -> LayerRef:
    return LayerRef(info.name, "output" if info.activation is None else "activation")


def convolution_layer(infos: Sequence[LayerInfo], name: str | None, conv_only: bool) -> LayerRef:
    """The place that HALCON's operator explains: the output of the last or named convolution, or of its ReLU.

    Raises:
        ArgumentError: The network has no such convolution, the layer is no convolution, or no ReLU follows it.
    """
    convolutions = [info for info in infos if info.convolution and info.spatial]
    names = list(dict.fromkeys(info.name for info in convolutions))
    if not convolutions:
        said = "the model has no convolution layer with an output larger than 1x1. fe_gradcam.explain takes any layer."
        raise ArgumentError(f"target_conv_layer: {said}")
    chosen = [info for info in convolutions if name is None or info.name == name]
    if not chosen:
        raise ArgumentError(
            f"target_conv_layer={name!r} is no convolution layer with an output larger than 1x1. Accepted: "
            f"{', '.join(names)}. (fe_gradcam.explain takes any layer.)"
        )
    if conv_only:
        return LayerRef(chosen[-1].name, "convolution")
    if not chosen[-1].relu:
        followed = list(dict.fromkeys(info.name for info in convolutions if info.relu))
        raise ArgumentError(
            f"use_conv_only='false': no ReLU follows the convolution {chosen[-1].name!r}, directly or behind its batch "
            f"normalisation. Pass 'true', or a target_conv_layer that a ReLU follows: {', '.join(followed) or 'none'}."
        )
    return LayerRef(chosen[-1].name, "relu")


def name_among(layer: Layer, named: Mapping[str, Any], names: Sequence[str]) -> str:
    """The name of a layer that is given by its name or its index, or as the layer itself.

    Args:
        layer: The layer as the user gave it.
        named: The model's layers by name; a layer may stand under several names.
        names: One name for each layer, in the order of the indices.
    """
    if isinstance(layer, str) and layer in named:
        return layer
    if isinstance(layer, int) and not isinstance(layer, bool) and -len(names) <= layer < len(names):
        return names[layer]
    for name, its in named.items():
        if its is layer:
            return name
    said = layer if isinstance(layer, (str, int)) else type(layer).__name__
    raise UnknownNameError(
        Argument("layer", in_short(said)),
        f" is no layer of this model{nearest(said, named)} Accepted: the name or index of one of its {len(named)} "
        "layers, or the module itself; ",
        LIST_LAYERS,
        " lists them with their shapes.",
    )
