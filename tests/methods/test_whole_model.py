"""The rules that look at more than one layer: what they sum to, and which networks they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import METHODS, UnsupportedModelError, explain
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Query
from fe_gradcam.backends.pytorch.passes import Front
from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.probe import ModelProbe
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.types import BiasGradients
from tests.methods.inputs import A0, A1, Net, inputs_of, small, stacked
from tests.models.kerases import KERASES
from tests.models.toys import FRAMEWORKS, TOYS, twins

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("framework", TOYS)
def test_the_parts_of_full_grad_sum_to_the_score(framework: str) -> None:
    """Completeness: input and biases, with what a tanh adds to its tangent; of logits behind a softmax too."""
    model, images, layer = twins()[framework]
    backend = backend_for(model)
    inputs = Inputs.of(images)
    query = Query(backend.resolve(layer, inputs), [resolve_target(1, 3)], "logit")
    (first,) = backend.run(inputs, query)
    probe = ModelProbe(backend, inputs, query, first, Settings())
    parts = probe.bias_gradients()
    total = parts.elsewhere + sum(term.flatten(1).sum(1) for term in (parts.of_input, *parts.of_biases))
    assert_allclose(total, parts.scores, rtol=1e-4, atol=1e-5)
    assert_allclose(parts.scores, first.scores, rtol=1e-5)
    assert parts.of_input.shape == (3, 3, 6, 8)
    assert len(parts.of_biases) == 2


def test_full_grad_by_hand() -> None:
    """Each channel by itself is brought to [0, 1]; one that is constant but for rounding says nothing about where."""
    parts = torch.tensor(np.stack([A0, -A1, 1 + A0 * 2.0**-22, A1 * 0, A1 * 0 - 3])[None], dtype=torch.float32)
    scores = parts.double().flatten(1).sum(1).float()
    inputs = inputs_of(0, 1, 2, 2, 3)
    split = BiasGradients(parts[:, :2], [parts[:, 2:4], parts[:, 4:]], torch.zeros(1), scores, 2.0**-23)
    inputs.probe.bias_gradients = lambda: split
    assert_allclose(METHODS["full_grad"](inputs)[0], A0 / 5 + A1 / 2, rtol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_full_grad_takes_batch_norm_and_refuses_attention_to_channels(framework: str) -> None:
    model, images = small(framework, softmax=True)
    if framework == "torch":
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.bias.data.uniform_(-1, 1)
    else:
        norm = next(layer for layer in model.layers if "batch" in layer.name)
        norm.set_weights([np.random.rand(8), np.random.randn(8), np.random.randn(8), np.random.rand(8) + 0.5])
    raw = explain(model, images, method="full_grad", layer="conv2").raw
    assert raw.shape == (2, 9, 12) and (raw >= 0).all()
    if framework == "torch":

        def gate(net: Any, x: torch.Tensor) -> torch.Tensor:
            maps = net.conv2(x)
            return net.fc((maps * torch.sigmoid(maps.mean((2, 3), keepdim=True))).mean((2, 3)))

        gated: Any = Net(gate, conv2=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 5))
    else:
        keras = KERASES[framework]
        inputs, layers = keras.Input((9, 12, 3)), keras.layers
        maps = layers.Conv2D(4, 3, name="conv2")(inputs)
        gate = layers.Activation("sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(maps))
        pooled = layers.GlobalAveragePooling2D()(layers.Multiply()([maps, gate]))
        gated = keras.Model(inputs, layers.Dense(5)(pooled))
    with pytest.raises(UnsupportedModelError, match=r"full_grad.*piecewise linear.*Use method="):
        explain(gated, images, method="full_grad", layer="conv2")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strength", [1, 4])
def test_full_grad_refuses_attention(seed: int, strength: float) -> None:
    torch.manual_seed(seed)

    def attend(net: Any, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.relu(net.conv(x)).flatten(2).transpose(1, 2)
        return net.fc(net.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    for parameter in attention.parameters():
        parameter.data *= strength
    model = Net(attend, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4), attention=attention).eval()
    with pytest.raises(UnsupportedModelError, match="full_grad"):
        explain(model, torch.randn(2, 3, 9, 9), method="full_grad", layer="conv")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_full_grad_takes_a_relu6_and_refuses_bytes(framework: str) -> None:
    model, images, _ = stacked(framework, (9, 9), "relu6", 3, pooled=True)
    if framework == "torch":
        nn.init.constant_(model[0].bias, 6.0)  # half of the values lie beyond
    else:
        model.layers[0].bias.assign(np.full(4, 6.0))
    assert explain(model, 3 * images, method="full_grad").raw.any()
    if framework == "torch":
        model = nn.Sequential(Net(lambda net, x: x.float()), *model)
    with pytest.raises(ArgumentError, match=r"full_grad.*Pass them as floats"):
        explain(model, images.astype(np.uint8), method="full_grad")


def test_what_lies_in_front_of_a_place_is_computed_once_and_repeated_for_every_row() -> None:
    image, front = torch.rand(1, 2, 3, 4), Front()

    def computed(x: torch.Tensor) -> torch.Tensor:
        return torch.sum(nn.functional.pad(x, pad=(1, 0), value=5.0), dim=1, keepdim=True)

    with front:
        first = computed(image)
    assert torch.equal(first, computed(image))
    with front.again(3):
        repeated = computed(0 * image)
        front.left = True
        behind = computed(0 * image)
    assert torch.equal(repeated, first.expand(3, -1, -1, -1))
    assert torch.equal(behind, computed(0 * image))
