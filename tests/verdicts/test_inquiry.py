"""What tests of a class start from, over a network whose answers are the brightness of two halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam.explaining.route import explained
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.verdicts.inquiry import Inquiry

LEFT, RIGHT, BOTH, NONE = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)


class Halves(nn.Module):
    """The logits of "the left half is bright" and of the right one, 8 or -8; as they are, or through sigmoids."""

    def __init__(self, *, several: bool) -> None:
        super().__init__()
        self.conv, self.several = nn.Conv2d(1, 1, 1, bias=False), several
        nn.init.ones_(self.conv.weight)

    def forward(self, x: Any) -> Any:
        x = self.conv(x).relu()
        logits = torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1) * 16 - 8
        return logits.sigmoid() if self.several else logits


def images(*halves: tuple[float, float]) -> torch.Tensor:
    rows = torch.tensor(halves)
    return rows.repeat_interleave(4, 1)[:, None, None].expand(-1, -1, 8, -1).contiguous()


def inquiry(x: torch.Tensor, *, several: bool = False, **more: Any) -> Inquiry:
    model = Halves(several=several).eval()
    done = explained(model, x, Settings(), methods=("grad_cam",), layers=("conv",), targets=(None,))
    explains = lambda rows, class_id: explained(  # noqa: E731
        model, x[rows], Settings(), methods=("grad_cam",), layers=("conv",), targets=(class_id,)
    ).heatmaps[0]
    return Inquiry(model, x, done.heatmaps[0], done.probabilities, explains=explains, **more)


def test_an_image_counts_for_the_class_that_it_is_told_to_be_of() -> None:
    one = inquiry(images(LEFT, RIGHT, LEFT))
    assert not one.several
    assert one.classes == [0, 1]
    assert one.rows_of(0).tolist() == [0, 2]
    assert one.size == (8, 8)
    assert one.heat_of(0).shape == (2, 8, 8)


def test_of_images_with_labels_only_those_count_that_are_told_rightly() -> None:
    one = inquiry(images(LEFT, RIGHT, LEFT, RIGHT), labels=np.array([0, 0, 1, -1]))
    assert one.rows_of(0).tolist() == [0]
    assert one.rows_of(1).tolist() == []
    assert one.classes == [0, 1]


def test_with_sigmoids_an_image_may_be_of_several_classes_or_of_none() -> None:
    one = inquiry(images(LEFT, BOTH, NONE), several=True)
    assert one.several
    assert one.rows_of(0).tolist() == [0, 1]
    assert one.rows_of(1).tolist() == [1]
    heat = one.heat_of(1)[0]  # of the label, not of the class that is the most probable
    assert heat[:, 4:].min() > 0
    labelled = inquiry(images(LEFT, BOTH, NONE), several=True, labels=np.array([[1, 0], [0, 1], [0, 0]]))
    assert labelled.rows_of(0).tolist() == [0]


def test_answers_are_those_of_the_changed_images_and_are_counted() -> None:
    one = inquiry(images(LEFT, RIGHT), most=5)
    assert one.affords(5)
    found = one.answers([0, 1, 1], images(RIGHT, LEFT, BOTH).numpy())
    assert_allclose(found, [[0, 1], [1, 0], [0.5, 0.5]], atol=1e-5)
    assert one.told(found)[:2].tolist() == [[False, True], [True, False]]
    assert one.asked == 3
    assert one.affords(2)
    assert not one.affords(3)
    assert one.answers([], np.zeros((0, 1, 8, 8), np.float32)).shape == (0, 2)
    assert one.asked == 3


@pytest.mark.parametrize("several", [False, True])
def test_pictures_are_the_images_with_channels_first(several: bool) -> None:
    x = images(LEFT, RIGHT)
    assert_allclose(inquiry(x, several=several).pictures, x.numpy())


def test_an_image_whose_answer_is_not_finite_is_told_to_be_of_no_class() -> None:
    x = images(LEFT, RIGHT)
    x[0, 0, 0, 0] = torch.nan
    one = inquiry(x)
    assert one.classes == [1]
    assert one.told(np.array([[np.nan, np.nan], [0.25, 0.75]], np.float32)).tolist() == [[False, False], [False, True]]


def test_a_label_below_zero_is_no_class_of_the_image() -> None:
    one = inquiry(images(BOTH, BOTH, BOTH), several=True, labels=np.array([[1, -1], [-1, 1], [0, 1]]))
    assert one.rows_of(0).tolist() == [0]
    assert one.rows_of(1).tolist() == [1, 2]
