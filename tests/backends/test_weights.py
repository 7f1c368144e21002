"""The weights of a model as one number."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch

from fe_gradcam.backends import weights
from fe_gradcam.backends.weights import weights_sha256
from tests.models.toys import SmallTorch, small_keras

nn = torch.nn


def test_the_hash_of_one_layer_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0]])
    by_hand = hashlib.sha256(b"weight torch.float32 (1, 2)" + np.array([1, -2], "<f4").tobytes()).hexdigest()
    assert weights_sha256(layer) == by_hand


@pytest.mark.parametrize("build", [SmallTorch, small_keras], ids=["torch", "keras"])
def test_it_stays_if_nothing_changes_and_changes_with_any_weight(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    before = weights_sha256(model)
    assert before is not None and weights_sha256(model) == before
    if isinstance(model, nn.Module):
        next(model.parameters()).data[0] += 1e-3
    else:
        first, *others = model.get_weights()
        model.set_weights([first + 1e-3, *others])
    assert weights_sha256(model) not in (before, None)


def test_the_hash_is_that_of_copies_of_the_bytes() -> None:
    """With weights of no, one and two axes, without elements, of half precision, and not in one piece."""
    torch.manual_seed(0)
    net, found = nn.Module(), hashlib.sha256()
    parts = [torch.tensor(2.0), torch.zeros(0, 3), torch.randn(3).bfloat16(), torch.randn(4, 6).t()[::2]]
    for at, value in enumerate(parts):
        net.register_buffer(f"w{at}", value)
        data = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
        found.update(f"w{at} {value.dtype} {tuple(value.shape)}".encode() + data.tobytes())
    assert weights_sha256(net) == found.hexdigest()
    model, found = small_keras(), hashlib.sha256()
    for at, one in enumerate(model.get_weights()):
        found.update(f"{at} {one.dtype} {one.shape}".encode() + one.tobytes())
    assert weights_sha256(model) == found.hexdigest()


@pytest.mark.parametrize(("dtype", "words"), [("float16", [0x3C00, 0xC000]), ("bfloat16", [0x3F80, 0xC000])])
def test_keras_of_half_precision(dtype: str, words: list[int]) -> None:
    model = SimpleNamespace(weights=[tf.Variable(tf.cast([1.0, -2.0], dtype))])
    by_hand = f"0 {dtype} (2,)".encode() + np.array(words, "<u2").tobytes()
    assert weights_sha256(model) == hashlib.sha256(by_hand).hexdigest()


def test_buffers_and_other_dtypes_count() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1).bfloat16())
    before = weights_sha256(model)
    model[0].num_batches_tracked += 1
    assert weights_sha256(model) not in (before, None)


def test_none_without_weights_for_large_ones_and_for_those_on_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_sha256(nn.ReLU()) is None
    with torch.device("meta"):
        assert weights_sha256(nn.Linear(2, 2)) is None
    monkeypatch.setattr(weights, "MOST_HASHED", 15)
    assert weights_sha256(nn.Linear(2, 2, bias=False)) is None
