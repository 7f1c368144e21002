"""What is explained on a GPU is what is explained on the CPU; without a GPU nothing can be looked at here.

On a machine with a GPU and no FastEstimator: pytest --noconftest tests/backends/pytorch/test_gpu.py
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fe_gradcam import METHODS, Contrast, Rank, Segmentation, check_model, explain, explain_many, list_layers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WITHOUT_ATTENTION = sorted(name for name in METHODS if name != "le_grad")


class Net(nn.Module):
    """Convolutions with a normalisation, functional activations, and a softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.fc = nn.Conv2d(8, 12, 3, padding=1, stride=2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x))
        return self.fc(x.mean((2, 3)) * 8).softmax(1)


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    """Convolutions in float32, and not in the shorter numbers that PyTorch allows by default."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def agree(found: Any, expected: Any, within: float = 1e-3) -> None:
    """The same heat, relative to the largest value of each image, and the same class."""
    assert (found.class_ids == expected.class_ids).all()
    assert (found.blank == expected.blank).all()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=within, atol=within)
    for raw, its in zip(found.raw, expected.raw, strict=True):
        assert np.abs(raw - its).max() <= within * max(np.abs(its).max(), 1e-6)


@pytest.mark.parametrize("method", WITHOUT_ATTENTION)
def test_every_method_gives_what_it_gives_on_the_cpu(method: str, images: Tensor) -> None:
    model = Net().eval()
    expected = explain(model, images, method=method)
    on_gpu = copy.deepcopy(model).cuda()
    for _ in range(2):  # the second relies on what the first one learnt
        for given in (images.cuda(), images, images.numpy()):
            agree(explain(on_gpu, given, method=method), expected)


@pytest.mark.parametrize(
    "target",
    [None, 3, [0, 1, 2, 3], Rank(1), Contrast(1, 2), lambda out: out[:, 1] * 2],
    ids=["inferred", "one", "each", "rank", "contrast", "callable"],
)
@pytest.mark.parametrize("score", ["logit", "output"])
def test_every_target_is_explained_where_the_model_is(target: Any, score: Any, images: Tensor) -> None:
    model = Net().eval()
    target = np.array(target) if isinstance(target, list) else target
    expected = explain(model, images, target=target, score=score)
    agree(explain(copy.deepcopy(model).cuda(), images.cuda(), target=target, score=score), expected)


def test_scores_of_pixels(images: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    mask = np.zeros((4, 24, 24), bool)
    mask[:, 5:9, 3:20] = True
    for target in (Segmentation(2), Segmentation(2, mask)):
        expected = explain(model, images, target=target)
        agree(explain(copy.deepcopy(model).cuda(), images.cuda(), target=target), expected)


def test_views_layers_and_batches(images: Tensor) -> None:
    model = Net().eval()
    on_gpu = copy.deepcopy(model).cuda()
    for more in ({"smooth": "augment"}, {"smooth": "eigen"}, {"layer": ["first", "second"]}, {"batch_size": 3}):
        agree(explain(on_gpu, images.cuda(), **more), explain(model, images, **more))
    many: dict[str, Any] = {"methods": ["grad_cam", "score_cam"], "layers": ["first", "second"], "targets": [None, 1]}
    for found, expected in zip(
        explain_many(on_gpu, images.cuda(), **many), explain_many(model, images, **many), strict=True
    ):
        agree(found, expected)
    assert [info.name for info in list_layers(on_gpu, images)] == [info.name for info in list_layers(model, images)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype, images: Tensor) -> None:
    model = Net().eval()
    found = explain(copy.deepcopy(model).to("cuda", dtype), images.cuda())
    agree(found, explain(model, images, target=found.class_ids), within=1e-3 if dtype == torch.float64 else 0.1)


def test_channels_last_mixed_precision_and_compiled(images: Tensor) -> None:
    model = Net().eval()
    expected = explain(model, images)
    on_gpu = copy.deepcopy(model).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        agree(explain(on_gpu, images.cuda()), expected, within=0.1)
    last = copy.deepcopy(on_gpu).to(memory_format=torch.channels_last)
    agree(explain(last, images.cuda().contiguous(memory_format=torch.channels_last)), expected)
    compiled = torch.compile(on_gpu)
    with torch.inference_mode():
        compiled(images.cuda())
    agree(explain(compiled, images.cuda()), expected)


def test_a_model_on_a_gpu_is_left_as_it_was(images: Tensor) -> None:
    model = Net().cuda()  # in training mode
    before = copy.deepcopy(model.state_dict())
    stream = torch.cuda.get_rng_state()
    explain(model, images.cuda(), method="score_cam")
    assert model.training and all(part.training for part in model.modules())
    assert torch.equal(stream, torch.cuda.get_rng_state())
    for name, value in model.state_dict().items():
        assert value.is_cuda and torch.equal(value, before[name])


def test_dropout_on_a_gpu_draws_as_if_nothing_had_been_explained(images: Tensor) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 22 * 22, 3)
    ).cuda()
    torch.manual_seed(1)
    expected = model(images.cuda())
    torch.manual_seed(1)
    explain(model, images.cuda())
    assert torch.equal(model(images.cuda()), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_check_finds_no_fault(images: Tensor) -> None:
    assert check_model(Net().eval().cuda(), images.cuda()).passed
