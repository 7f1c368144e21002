"""The dtype in which a PyTorch model takes its images is asked of the model, once, and only where it is in doubt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from fe_gradcam import ArgumentError, explain
from fe_gradcam.backends import backend_for

GOT: list[torch.dtype] = []
"""What the models of this module got; not kept by them, since their attributes are put back."""


class Reads(nn.Module):
    """A convolution and a linear head in one dtype, behind what `front` does; notes in GOT which dtypes it got."""

    def __init__(self, dtype: torch.dtype, front: Callable[[Any, torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.front = front
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv, self.fc = nn.Conv2d(3, 4, 3).to(dtype), nn.Linear(4, 3).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        GOT.append(x.dtype)
        x = x if self.front is None else self.front(self, x)
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Heated(Reads):
    """Its first parameter is a temperature of another dtype."""

    def __init__(self, dtype: torch.dtype, temperature: torch.dtype) -> None:
        super().__init__(dtype)
        self._parameters = {"temperature": nn.Parameter(torch.tensor(2.0, dtype=temperature)), **self._parameters}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / self.temperature.to(self.fc.weight.dtype)


class Stemmed(Reads):
    """A stem in bfloat16 stands first among the parameters, and behind a front in float32."""

    def __init__(self) -> None:
        super().__init__(torch.float32, lambda net, x: net.stem(net.mix(x).bfloat16()).float())
        modules = {"stem": nn.Conv2d(3, 3, 1).bfloat16(), "mix": nn.Conv2d(3, 3, 1), **self._modules}
        self._modules = modules


def images_of(dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float32).to(dtype)


F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("model", "given", "taken"),
    [
        (Reads(F32), F32, F32),
        (Reads(F32), F64, F32),
        (Reads(F32), BF16, F32),
        (Reads(F16), F32, F16),
        (Reads(BF16), F32, BF16),
        (Reads(F64), F32, F64),
        (Heated(F32, F64), F32, F32),
        (Heated(F32, F64), F64, F32),
        (Heated(BF16, F32), F32, BF16),
        (Heated(BF16, F32), F64, BF16),
        (Stemmed(), F32, F32),
        (Stemmed(), F64, F32),
        # a front without parameters: nothing is rounded before the model rounds it itself
        (Reads(BF16, lambda net, x: (x * 255).to(BF16)), F32, F32),
        (Reads(F32, lambda net, x: (x * 255).float()), F64, F64),
    ],
)
def test_images_are_cast_only_if_the_model_does_not_take_them(
    model: Reads, given: torch.dtype, taken: torch.dtype
) -> None:
    images = images_of(given)
    found = explain(model, images, layer="conv", target=1)
    assert GOT[-1] == taken
    assert_allclose(found.scores, model.eval()(images.to(taken))[:, 1].float().detach(), rtol=1e-6)
    if given != F16 and given != BF16:
        again = explain(model, images.numpy(), layer="conv", target=1)
        assert_array_equal(again.raw, found.raw)


def test_a_model_of_no_parameters_takes_images_as_they_are() -> None:
    net = nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    for dtype in (F32, F64, BF16):
        images = images_of(dtype)
        assert_allclose(explain(net, images, layer="0", target=1).scores, net(images)[:, 1].float())


def test_the_model_is_asked_once_and_not_where_all_is_of_one_dtype() -> None:
    plain = Reads(F32)
    GOT.clear()
    explain(plain, images_of(F32), layer="conv", target=1)
    assert GOT == [F32]  # the pass itself
    for _ in range(2):
        GOT.clear()
        explain(plain, images_of(F64), layer="conv", target=1)
    assert GOT == [F32]


def test_what_was_learnt_does_not_outlive_the_dtype_of_the_parameters() -> None:
    net = Reads(F32)
    explain(net, images_of(F64), layer="conv", target=1)
    net.to(BF16)
    explain(net, images_of(F64), layer="conv", target=1)
    assert GOT[-1] == BF16
    assert {one.dtype for one in net.parameters()} == {BF16}


def test_images_of_another_layout_do_not_decide_the_dtype() -> None:
    """With these the model fails whatever the dtype, which must not be taken for an answer."""
    net = Reads(BF16, lambda outer, x: (x * 255).to(BF16))
    with pytest.raises(ArgumentError, match=r"images\.permute\(0, 3, 1, 2\)"):
        explain(net, images_of(F32).permute(0, 2, 3, 1), layer="conv", target=1)
    explain(net, images_of(F32), layer="conv", target=1)
    assert GOT[-1] == F32


def test_other_inputs_stay_integers() -> None:
    class Both(Reads):
        def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            GOT.append(ids.dtype)
            return super().forward(x) + self.fc.weight.sum() * ids[:, None]

    net = Both(F32)
    explain(net, (images_of(F64), torch.tensor([1, 2])), layer="conv", target=1)
    assert GOT[-2:] == [torch.int64, F32]


def test_the_precision_is_that_of_the_coarsest_numbers() -> None:
    assert backend_for(Heated(BF16, F64)).precision == 2.0**-7
    assert backend_for(nn.Sequential(nn.ReLU())).precision == np.finfo(np.float32).eps
