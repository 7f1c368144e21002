"""Where the places of the image go in a pass: each value of a map must depend on its own part of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional

from fe_gradcam import ArgumentError, explain, list_layers
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Query
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.spec.tokens import Layout, layout_of
from fe_gradcam.types import LayerRef
from tests.methods.inputs import Net

Compute = Callable[[Any, Tensor], Tensor]

CHANNELS = 6


def tokens_of(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def in_columns(net: Any, x: Tensor) -> Tensor:
    return tokens_of(net.patch(x).transpose(2, 3))


def cut(x: Tensor, h: int, w: int, *, columns: bool = False) -> Tensor:
    """Patches of h by w pixels as tokens, cut without a convolution."""
    n, c, height, width = x.shape
    x = x.reshape(n, c, height // h, h, width // w, w).permute(0, 4, 2, 1, 3, 5)
    x = x if columns else x.transpose(1, 2)
    return x.reshape(n, -1, c * h * w)


def with_others(before: int, after: int) -> Compute:
    """Tokens of no place before and behind those of the image."""

    def compute(net: Any, x: Tensor) -> Tensor:
        tokens = tokens_of(net.patch(x))
        first, last = (torch.full((len(x), count, CHANNELS), 9.0) for count in (before, after))
        return torch.cat([first, tokens, last], 1)

    return compute


def shifted_windows(net: Any, x: Tensor) -> Tensor:
    """Windows of 2 by 2 places of a rolled map, worked on by themselves, and put back in another code than Swin's."""
    maps = net.patch(x).movedim(1, -1).roll((1, -1), (1, 2))
    n, h, w, k = maps.shape
    windows = maps.view(n, h // 2, 2, w // 2, 2, k).transpose(2, 3).reshape(-1, 4, k)
    windows = net.places(windows) + windows
    back = windows.view(n, h // 2, w // 2, 2, 2, k).transpose(2, 3).reshape(n, h, w, k)
    return back.roll((-1, 1), (1, 2)).flatten(1, 2)


def merged(net: Any, x: Tensor) -> Tensor:
    """Four neighbours to one, of a map that is padded to an even number of columns."""
    maps = functional.pad(net.patch(x).movedim(1, -1)[:, :, :5], (0, 0, 0, 1))
    four = torch.cat([maps[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
    return net.merge(four.flatten(1, 2))


def attended(net: Any, x: Tensor) -> Tensor:
    """Heads side by side; each token sees itself alone, so that its place is clear."""
    tokens = tokens_of(net.patch(x))
    q, k, v = tokens.unflatten(-1, (3, 2)).transpose(1, 2)[None].expand(3, -1, -1, -1, -1).unbind(0)
    own = torch.eye(tokens.shape[1]).log()
    return ((q @ k.mT + own).softmax(-1) @ v).transpose(1, 2).reshape(tokens.shape)


class Own(torch.autograd.Function):
    """A function that no mode sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x


def in_channels_last(net: Any, x: Tensor) -> Tensor:
    return net.patch(x).movedim(1, -1)


def batched(net: Any, x: Tensor) -> Tensor:
    """Images that are written into a batch, as detectors do, and into slices of it."""
    whole, halves = torch.zeros_like(x), torch.zeros(x.shape)
    for row, image in zip(whole, x, strict=True):
        row[:, :, :24].copy_(image)
    halves[..., :12], halves[..., 12:] = whole[..., :12], whole[..., 12:]
    return tokens_of(net.patch(halves))


FORMS: dict[str, tuple[Compute, tuple[int, int]]] = {
    "rows": (lambda net, x: tokens_of(net.patch(x)), (4, 6)),
    "padded and cut": (lambda net, x: tokens_of(functional.pad(net.patch(x), (1, 2, 3, 1))[:, :, 3:-1, 1:-2]), (4, 6)),
    "a channel more and less": (
        lambda net, x: tokens_of(functional.pad(net.patch(x), (0, 0, 0, 0, 1, 0))[:, 1:]),
        (4, 6),
    ),
    "columns": (in_columns, (4, 6)),
    "patches by 8 and 4": (lambda net, x: net.eights(cut(x, 8, 4)), (2, 6)),
    "patches in columns": (lambda net, x: net.fours(cut(x, 4, 4, columns=True)), (4, 6)),
    "unfolded": (lambda net, x: net.fours(functional.unfold(x, 4, stride=4).mT), (4, 6)),
    "a class token": (with_others(1, 0), (4, 6)),
    "a class token that stands last": (with_others(0, 1), (4, 6)),
    "a class token and registers": (with_others(1, 4), (4, 6)),
    "channels last": (in_channels_last, (4, 6)),
    "channels last, wide": (lambda net, x: net.wide(x).movedim(1, -1), (4, 24)),
    "shifted windows": (shifted_windows, (4, 6)),
    "merged": (merged, (2, 3)),
    "attention": (attended, (4, 6)),
    "pooled tokens": (
        lambda net, x: tokens_of(net.patch(x)).unflatten(1, (4, 3, 2)).max(3).values.flatten(1, 2),
        (4, 3),
    ),
    "a turned image": (lambda net, x: tokens_of(net.patch(x.transpose(2, 3))), (4, 6)),
    "a turned image as a map": (lambda net, x: net.patch(x.transpose(2, 3)), (4, 6)),
    "a function of its own": (lambda net, x: tokens_of(net.own(net.patch(x))), (4, 6)),
    "positions added": (lambda net, x: net.position[:, :24] + tokens_of(net.patch(x)), (4, 6)),
    "written into a batch": (batched, (4, 6)),
    "batch second": (lambda net, x: net.places(tokens_of(net.patch(x)).transpose(0, 1)).transpose(0, 1), (4, 6)),
}


OLD = pytest.mark.xfail(torch.__version__.startswith("2.3."), reason="PyTorch 2.3: see docs/limits.md", strict=True)
EACH = [pytest.param(form, marks=OLD) if form == "attention" else form for form in FORMS]


def model_of(compute: Compute) -> Any:
    torch.manual_seed(0)

    def whole(net: Any, x: Tensor) -> Tensor:
        out = net.here(compute(net, x))
        return net.fc(out.flatten(1)[:, :36])

    net = Net(
        whole,
        patch=nn.Conv2d(3, CHANNELS, 4, stride=4),
        wide=nn.Conv2d(3, 30, (4, 1), stride=(4, 1)),
        eights=nn.Linear(96, CHANNELS),
        fours=nn.Linear(48, CHANNELS),
        merge=nn.Linear(4 * CHANNELS, CHANNELS),
        places=nn.Linear(CHANNELS, CHANNELS),
        own=Net(lambda _, x: Own.apply(x)),
        here=nn.Identity(),
        fc=nn.Linear(36, 2),
    )
    net.position = nn.Parameter(torch.randn(1, 30, CHANNELS))
    return net.eval()


def activations(model: nn.Module, images: Tensor, layer: str = "here") -> Tensor:
    backend = backend_for(model)
    (found,) = backend.run(Inputs.of(images), Query(LayerRef(layer), [resolve_target(0, len(images))], "logit"))
    return found.activations


@pytest.mark.parametrize("form", EACH)
def test_a_place_of_the_map_depends_on_its_part_of_the_image(form: str) -> None:
    compute, (h, w) = FORMS[form]
    model, image = model_of(compute), torch.randn(1, 3, 16, 24)
    plain = activations(model, image)
    assert plain.shape[2:] == (h, w)
    for row in range(h):
        for column in range(w):
            part = image.clone()
            across = slice(column * 24 // w, (column + 1) * 24 // w)
            if form == "merged":  # of five columns of four pixels, the last stands alone
                across = slice(column * 8, min(column * 8 + 8, 20))
            part[:, :, row * 16 // h : (row + 1) * 16 // h, across] += 1
            changed = (activations(model, part) - plain).abs().sum((0, 1)) > 1e-4
            assert changed.nonzero().tolist() == [[row, column]]


@pytest.mark.parametrize("form", EACH)
def test_the_layer_is_listed_with_the_size_of_its_map(form: str) -> None:
    compute, size = FORMS[form]
    infos = list_layers(model_of(compute), torch.randn(1, 3, 16, 24))
    assert [(info.shape[1:], info.spatial) for info in infos if info.name == "here"] == [(size, True)]


def test_volumes_with_channels_last() -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.fc(net.norm(net.patch(x).movedim(1, -1)).mean((1, 2, 3)))

    front = {"patch": nn.Conv3d(1, 5, (2, 4, 4), stride=(2, 4, 4)), "norm": nn.LayerNorm(5)}
    model, volume = Net(compute, **front, fc=nn.Linear(5, 2)), torch.randn(1, 1, 8, 8, 12)
    assert explain(model, volume).layer == "norm"
    plain = activations(model, volume, "norm")
    assert plain.shape == (1, 5, 4, 2, 3)
    volume[:, :, 2:4, 4:, :4] += torch.randn(2, 4, 4)
    changed = (activations(model, volume, "norm") - plain).abs().sum((0, 1)) > 1e-6
    assert changed.nonzero().tolist() == [[1, 1, 0]]


# --- what is no map of the image -------------------------------------------------------------------------


def queries(net: Any, x: Tensor) -> Tensor:
    tokens = tokens_of(net.patch(x))
    asking = net.position[:, :24].expand(len(x), -1, -1)
    return net.norm(asking + net.attention(asking, tokens, tokens)[0])


def unseen(net: Any, x: Tensor) -> Tensor:
    """In an order that nobody sees."""
    return net.norm(torch.from_numpy(tokens_of(net.patch(x)).detach().numpy()[:, ::-1].copy()))


def without_places(compute: Compute) -> Any:
    def whole(net: Any, x: Tensor) -> Tensor:
        return net.fc(compute(net, x).mean(1))

    attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
    parts = {"patch": nn.Conv2d(3, CHANNELS, 4, stride=4), "attention": attention, "norm": nn.LayerNorm(CHANNELS)}
    net = Net(whole, **parts, fc=nn.Linear(CHANNELS, 2))
    net.position = nn.Parameter(torch.randn(1, 30, CHANNELS))
    return net.eval()


NO_MAPS: dict[str, Compute] = {
    "as many queries as patches": queries,
    "half of the tokens": lambda net, x: net.norm(tokens_of(net.patch(x))[:, :12]),
    "every other token": lambda net, x: net.norm(tokens_of(net.patch(x))[:, ::2]),
    "some of the tokens": lambda net, x: net.norm(tokens_of(net.patch(x))[:, torch.tensor([0, 5, 7, 20])]),
    "places far apart in one": lambda net, x: net.norm(
        tokens_of(net.patch(x)).unflatten(1, (4, 3, 2)).amax(2).flatten(1, 2)
    ),
    "an order that is not seen": unseen,
}


@pytest.mark.parametrize("form", NO_MAPS)
def test_what_cannot_be_told_is_asked_for(form: str) -> None:
    model, image = without_places(NO_MAPS[form]), torch.randn(2, 3, 16, 24)
    with pytest.raises(ArgumentError, match=r"layer='norm' has an output of shape .*pass reshape= that makes"):
        explain(model, image, layer="norm")
    (info,) = [info for info in list_layers(model, image) if info.name == "norm"]
    assert not info.spatial
    if form != "an order that is not seen":  # behind which no gradient comes
        assert explain(model, image).layer == "patch"


def test_a_reshape_says_what_could_not_be_told() -> None:
    model, image = without_places(queries), torch.randn(2, 3, 16, 24)
    given = explain(model, image, layer="norm", reshape=lambda t: t.movedim(-1, 1).unflatten(2, (4, 6)))
    assert given.raw.shape == (2, 4, 6)


# --- the layout of positions ---------------------------------------------------------------------------


def positions(rows: list[float], columns: list[float], channels: int = 2) -> list[np.ndarray]:
    """Of tokens (T, K)."""
    return [np.repeat(np.array(each, np.float64)[:, None], channels, 1) for each in (rows, columns)]


def test_the_layout_of_tokens_by_hand() -> None:
    nan = np.nan
    row, column = [0.25, 0.25, 0.75, 0.75], [0.25, 0.75, 0.25, 0.75]
    assert layout_of(positions(row, column)) == Layout(1, (2, 2), None, 4)
    assert layout_of(positions(column, row)) == Layout(1, (2, 2), (0, 2, 1, 3), 4)
    assert layout_of(positions([nan, *row], [nan, *column])) == Layout(1, (2, 2), (1, 2, 3, 4), 5)
    assert layout_of(positions([*row, nan], [*column, nan])) == Layout(1, (2, 2), (0, 1, 2, 3), 5)
    assert layout_of(positions(row[:3], column[:3])) is None  # a place is missing
    assert layout_of(positions([0.25] * 4, column)) is None  # two stand at one place
    assert layout_of(positions([0.1, 0.1, 0.2, 0.2], column)) is None  # only the upper part of the image
    assert layout_of(positions([nan] * 4, [nan] * 4)) is None
    assert layout_of([one.T for one in positions(row, column)]) == Layout(0, (2, 2), None, 4)


def test_a_layout_makes_the_map_that_it_says() -> None:
    tokens = torch.arange(10.0).reshape(1, 5, 2)
    made = Layout(1, (2, 2), (1, 3, 2, 4), 5).map_of(tokens)
    assert_allclose(made, [[[[2, 6], [4, 8]], [[3, 7], [5, 9]]]])


# --- modules are called one by one -------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_no_layer_of_a_transformer_is_computed_in_one_piece(enabled: bool) -> None:
    """A fused layer calls none of its modules, so that nothing in it can be explained; torch's setting is put back."""
    seen: list[bool] = []

    def whole(net: Any, x: Tensor) -> Tensor:
        seen.append(torch.backends.mha.get_fastpath_enabled())
        return net.fc(net.encoder(tokens_of(net.patch(x))).mean(1))

    layer = nn.TransformerEncoderLayer(CHANNELS, 2, 8, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    model = Net(whole, patch=nn.Conv2d(3, CHANNELS, 4, stride=4), encoder=encoder, fc=nn.Linear(CHANNELS, 2)).eval()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        heatmap = explain(model, torch.randn(1, 3, 16, 24))
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert heatmap.layer == "encoder.layers.1.norm2"
    assert not any(seen)
