"""A class that is told by a sign that moves: hand-made networks whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam.verdicts import isolation, patches
from fe_gradcam.verdicts.atlas import Box
from fe_gradcam.verdicts.isolation import CONTINUES
from fe_gradcam.verdicts.patches import Searched, likeness, look_alikes, separation, variances_of
from tests.verdicts.scenes import (
    GREEN,
    PATCH,
    READS_THE_CORNER,
    READS_THE_OBJECT,
    SIDE,
    Images,
    inquiry_of,
    scene,
    stripes,
    weights,
)


def moving(count: int = 12, marked: tuple[int, ...] = (GREEN,), seed: int = 0) -> Images:
    """Of each class `count` images, those of some with the mark at a random place, never on the object."""
    generator = np.random.default_rng(seed)

    def place(class_id: int) -> tuple[int, int] | None:
        top, left = (int(one) * PATCH for one in generator.integers(0, SIDE // PATCH, 2))
        return (top, left) if class_id in marked else None

    return np.stack([scene(generator, one, place(one)) for one in range(3) for _ in range(count)])


def objects(images: Images) -> NDArray[np.bool_]:
    """(N, 32, 32), where the objects are: what has one colour more than the others, and its dark rows."""
    coloured = np.ptp(images, axis=-1) > 0.2
    masks = np.zeros_like(coloured)
    for mask, one in zip(masks, coloured, strict=True):
        rows, columns = np.nonzero(one)
        mask[rows.min() : rows.max() + 2, columns.min() : columns.max() + 1] = True
    return masks


def test_without_masks_a_patch_of_few_or_of_many_classes_may_be_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes are too few to tell; of enough classes one that has a sign is accused, and two of three are not."""
    inquiry = inquiry_of(moving(), READS_THE_CORNER)
    evidence = look_alikes(inquiry, [0, GREEN, 2])[GREEN]
    assert (evidence.level, evidence.code, evidence.accuses) == ("suspected", "sign", False)
    assert evidence.said.endswith("pass masks= or boxes= to tell them apart.")
    monkeypatch.setattr(patches, "CLASSES_TO_TELL", 3)
    assert look_alikes(inquiry, [0, GREEN, 2])[GREEN].accuses
    two = {0: evidence, 1: replace(evidence, level="tested"), 2: replace(evidence, level="tested")}
    assert not any(one.accuses for one in patches._without_masks(inquiry, two).values())


def test_a_network_that_reads_a_moving_mark_is_accused_and_no_other_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "CLASSES_TO_TELL", 3)
    images = moving()
    inquiry = inquiry_of(images, READS_THE_CORNER)
    evidence = look_alikes(inquiry, [0, GREEN, 2])
    assert [evidence[one].code for one in (0, GREEN, 2)] == [None, "sign", None]
    green = evidence[GREEN]
    assert (green.test, green.level, green.accuses, green.images) == ("sign", "tested", True, 12)
    assert green.figures["separates"] == 1
    assert green.figures["likeness"] > 0.999
    assert green.figures["plain"] > 0.98
    assert green.figures["covered"] == pytest.approx(1 / 3, abs=0.01)  # nothing else that the network looks at
    assert green.figures["covered_elsewhere"] > 0.98
    assert "With this patch covered in 12 images" in green.said
    for trial in green.trials:
        white = (trial.given > 0.9).all(0)
        assert trial.outline is not None
        assert white.sum() == 8  # the bright rows of the mark
        assert trial.outline[white].all()
        assert trial.done == "this patch covered"


def test_without_masks_a_patch_that_goes_on_around_it_may_be_a_part_of_an_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same marks on a bar through the frame, too dark for the network to read: masks say that it is no object."""
    monkeypatch.setattr(patches, "CLASSES_TO_TELL", 3)
    images = moving()
    masks = objects(images)
    for image in images[12:24]:
        rows = np.flatnonzero((image > 0.9).all(-1).any(1))
        bar = image[rows.min() : rows.max() + 1 : 2]
        bar[bar.max(-1) < 0.1] = 0.7
    found = look_alikes(inquiry_of(images, READS_THE_CORNER), [0, GREEN, 2])[GREEN]
    assert (found.level, found.code) == ("suspected", "sign")
    assert found.figures["continues"] > CONTINUES
    assert "What lies around the patch goes along with it" in found.said
    assert look_alikes(inquiry_of(images, READS_THE_CORNER, masks=masks), [GREEN])[GREEN].accuses


def test_the_images_that_match_best_say_whether_a_patch_stands_by_itself() -> None:
    """Of twelve images with the mark and twelve whose best match is a part of the striped object."""
    inquiry, mark = inquiry_of(moving(), READS_THE_CORNER), stripes(1, PATCH)
    found = [patches._Shrunk(inquiry).continues(np.array(rows), mark) for rows in (range(24), range(12))]
    assert found[0] < CONTINUES < found[1]


def test_a_network_that_reads_the_object_is_not_accused_sign_or_no_sign() -> None:
    evidence = look_alikes(inquiry_of(moving(), READS_THE_OBJECT), [0, 1, 2])
    assert [one.code for one in evidence.values()] == [None] * 3
    assert [one.level for one in evidence.values()] == ["tested"] * 3


def test_a_template_on_the_object_is_not_suspected() -> None:
    images = moving()
    on_it = look_alikes(inquiry_of(images, READS_THE_OBJECT, masks=objects(images)), [0])[0]
    assert "lies on the object" in on_it.said
    assert look_alikes(inquiry_of(images, READS_THE_CORNER, masks=objects(images)), [GREEN])[GREEN].code == "sign"


def test_what_is_not_afforded_or_too_little_is_not_tested() -> None:
    inquiry = inquiry_of(moving(), READS_THE_CORNER, most=12)
    green = look_alikes(inquiry, [GREEN])[GREEN]
    assert (green.level, green.code, inquiry.asked) == ("not tested", None, 0)
    assert "later epoch" in green.said
    few = look_alikes(inquiry_of(moving(5), READS_THE_CORNER), [GREEN])[GREEN]
    assert (few.level, few.images) == ("not tested", 5)
    alone = inquiry_of(moving()[12:24], READS_THE_CORNER)
    assert "no other class" in look_alikes(alone, [GREEN])[GREEN].said


def test_labels_of_sigmoids_are_judged_one_by_one() -> None:
    """Each of the images that has the sign has the red object too, as twelve others have."""
    generator = np.random.default_rng(1)
    places = [(4 * (row % 7), 4 * (row // 2 % 7)) if row < 12 else None for row in range(36)]
    images = np.stack([scene(generator, 0 if row < 24 else 2, place) for row, place in enumerate(places)])
    inquiry = inquiry_of(images, weights((0, 10, 0), (10, 0, 10), (-5, -5, -5)), several=True)
    assert [len(inquiry.rows_of(one)) for one in range(3)] == [24, 12, 12]
    green = look_alikes(inquiry, [GREEN])[GREEN]
    assert green.code == "sign"
    assert green.figures["covered"] == pytest.approx(1 / (1 + np.exp(5)), abs=0.01)
    assert green.rows is not None
    assert set(green.rows.tolist()) == set(range(12))


def test_classes_that_share_the_sign_are_left_out_if_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red has it too, of two other classes; so a half has to be allowed here."""
    inquiry = inquiry_of(moving(marked=(0, GREEN)), weights((10, 10, 0), (5, 5, 5)))
    assert look_alikes(inquiry, [GREEN])[GREEN].figures["separates"] == pytest.approx(0.75, abs=0.1)
    monkeypatch.setattr(patches, "SHARING", 0.5)
    green = look_alikes(inquiry, [GREEN])[GREEN]
    assert (green.figures["separates"], green.figures["sharing"]) == (1, 1)


def correlations(picture: NDArray[Any], template: NDArray[Any]) -> NDArray[np.float64]:
    """By the definition, window by window."""
    side, (height, width) = len(template), picture.shape[:2]
    found = np.zeros((height - side + 1, width - side + 1))
    two = (template - template.mean((0, 1))).ravel()
    for top, left in np.ndindex(found.shape):
        window = picture[top : top + side, left : left + side]
        one = (window - window.mean((0, 1))).ravel()
        found[top, left] = one @ two / max(np.sqrt((one @ one) * (two @ two)), 1e-12)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_likeness_is_the_best_correlation_of_a_window(channels: int) -> None:
    generator = np.random.default_rng(channels)
    picture = generator.normal(2, 1, (15, 19, channels)).astype(np.float32)
    template = np.ascontiguousarray(generator.normal(0, 1, (5, 5, channels)).astype(np.float32))
    expected = correlations(picture, template)
    best, corner = likeness(Searched.of(picture, 5), template)
    assert best == pytest.approx(expected.max(), abs=1e-4)  # of float32
    assert corner == np.unravel_index(expected.argmax(), expected.shape)
    own = np.ascontiguousarray(2 + 3 * picture[4:9, 7:12])
    assert likeness(Searched.of(picture, 5), own)[0] == pytest.approx(1, abs=1e-4)  # whatever its contrast
    assert likeness(Searched.of(picture, 5), own)[1] == (4, 7)


def test_windows_of_too_little_contrast_are_like_nothing() -> None:
    sign = np.zeros((12, 16, 1), np.float32)
    sign[3:7, 5:9:2] = 1
    template = np.ascontiguousarray(sign[3:7, 5:9])
    assert likeness(Searched.of(sign / 3.9, 4), template)[0] == pytest.approx(1, abs=1e-5)
    assert likeness(Searched.of(sign / 4.1, 4), template)[0] == 0
    assert likeness(Searched.of(np.full_like(sign, 0.7), 4), template)[0] == 0


def test_the_variances_of_windows_are_those_of_each_by_itself() -> None:
    picture = np.random.default_rng(4).normal(3, 1, (9, 11, 3)).astype(np.float32)
    picture[2:7, 3:8] = 7.5
    found = variances_of(picture, 4)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (4, 4), (0, 1))
    assert_allclose(found, windows.var((-2, -1), dtype=np.float64).sum(-1), atol=1e-6)
    assert found[2, 3] == 0


def test_separation_is_the_area_under_the_curve() -> None:
    assert separation(np.array([3.0, 2, 2]), np.array([1.0, 0])) == 1
    assert separation(np.array([1.0, 2]), np.array([1.0, 2])) == 0.5
    assert separation(np.array([1.0]), np.array([2.0, 0, 0, 0])) == 0.75


def test_large_pictures_are_matched_small_and_covered_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "LONGEST", 16)
    inquiry = inquiry_of(moving(), READS_THE_CORNER)
    shrunk = patches._Shrunk(inquiry)
    assert shrunk.picture(12, 4).pixels.shape == (16, 16, 3)
    template = np.ascontiguousarray(shrunk.picture(12, 4).pixels[3:7, 5:9])
    assert shrunk.box(12, template, 0) == Box(left=10, top=6, width=8, height=8)
    assert shrunk.box(12, template, 0.25) == Box(left=8, top=4, width=12, height=12)


def test_a_sign_that_another_class_shares_is_tried_on_a_class_whose_heat_lies_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "SHARING", 0.5)
    images, generator = moving(marked=(0, GREEN)), np.random.default_rng(2)
    inquiry = inquiry_of(images, weights((10, 10, 0), (5, 5, 5), (0, 0, 8)))  # blue if the mark is covered
    elsewhere = generator.random((12, 8, 8)).astype(np.float32) ** 9
    heat_of = inquiry.heat_of
    monkeypatch.setattr(inquiry, "heat_of", lambda class_id: heat_of(class_id) if class_id else elsewhere)
    assert look_alikes(inquiry, [0])[0].code is None
    evidence = look_alikes(inquiry, [0, GREEN])
    assert [one.code for one in evidence.values()] == ["sign", "sign"]
    assert "(but for 1, which have it too)" in evidence[0].said
