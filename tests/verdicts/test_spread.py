"""Cues that lie all over the frame, and heat that means nothing: hand-made networks whose answer is known."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam.verdicts import spread
from fe_gradcam.verdicts.atlas import Box, Upsampling
from fe_gradcam.verdicts.spread import FilledIn, _kept, artefacts, hottest, nothing_local, patched
from tests.verdicts.scenes import (
    CORNER,
    GREEN,
    READS_THE_CORNER,
    READS_THE_OBJECT,
    SIDE,
    Images,
    inquiry_of,
    scenes,
    weights,
)


def tinted(class_id: int = GREEN, count: int = 12) -> Images:
    """Without marks; those of one class are brighter by 0.5 all over, so that every patch gives a bit of white."""
    images = scenes(count, marks={})
    images[class_id * count : (class_id + 1) * count] += 0.5
    return images


READS_THE_TINT = weights((0, 2, 0), (5, 0, 5))


def test_a_class_that_is_told_by_the_whole_frame_is_accused_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others keep a half: without masks this difference is too small to accuse."""
    inquiry = inquiry_of(tinted(), READS_THE_TINT)
    unsure = nothing_local(inquiry_of(tinted(), READS_THE_TINT), [0, 1, 2])[GREEN]
    assert (unsure.level, unsure.code, unsure.accuses) == ("suspected", "nothing_local", False)
    monkeypatch.setattr(spread, "SURELY_KEPT", 0.5)
    evidence = nothing_local(inquiry, [0, 1, 2])
    assert [one.code for one in evidence.values()] == [None, "nothing_local", None]
    green = evidence[GREEN]
    assert (green.test, green.level, green.accuses, green.images) == ("nothing_local", "tested", True, 12)
    assert green.figures == {"kept": 1, "kept_by_others": pytest.approx(0.5), "others_become": 0, "told_alone": 1}
    assert evidence[0].figures["others_become"] == 0.75  # blue images all do, green ones do not
    assert "100% of 12 images are still told" in green.said
    assert "With all other pixels covered instead, 100% are." in green.said
    assert inquiry.asked == 36 + 12
    first = green.trials[0]
    assert first.outline is not None
    assert first.outline.mean() == pytest.approx(0.3, abs=0.001)
    assert not (first.given != first.changed).any(0)[~first.outline].any()
    assert first.after > 0.9


def test_what_every_image_without_an_object_becomes_is_told_by_no_cue() -> None:
    """With its object covered, each image gives equal scores, and the first class is inferred: red keeps its own."""
    evidence = nothing_local(inquiry_of(scenes(marks={}), READS_THE_OBJECT), [0, 1, 2])
    assert evidence[0].figures == {"kept": 1, "kept_by_others": 0, "others_become": 1}
    assert [one.code for one in evidence.values()] == [None] * 3


@pytest.mark.parametrize(("sharing", "found"), [(0, True), (2, True), (3, False)])
def test_a_few_classes_may_share_the_cue(sharing: int, found: bool) -> None:
    """By hand, of ten classes: with it alone in sight, the first is told of all images of those that share it."""
    eye = np.eye(10, dtype=np.float32)
    inquiry: Any = SimpleNamespace(
        told=lambda table: table > 0.5,
        probabilities=np.repeat(eye, 6, 0),
        masks=None,
        pictures=np.zeros((60, 1, 2, 2), np.float32),
        affords=lambda count: True,
        answers=lambda rows, pictures: eye[np.zeros(len(rows), int)],
    )
    filled: dict[int, FilledIn | None] = {}
    for one in range(10):
        answers = np.repeat(eye[[0 if one <= sharing else 9]], 6, 0)
        rows = np.arange(6 * one, 6 * one + 6)
        filled[one] = FilledIn(rows, np.ones((6, 2, 2), bool), inquiry.pictures[rows], answers)
    evidence = _kept(inquiry, filled, 0)
    assert (evidence.figures["kept"], evidence.code == "nothing_local") == (1, found)
    assert _kept(inquiry, filled, 9).code is None  # of most images it is told


def test_a_class_whose_heat_misses_its_object_is_told_by_something_local() -> None:
    """What is covered is a corner without the object, as if heat had lain there; the corner alone tells nothing."""
    inquiry = inquiry_of(scenes(marks={}), READS_THE_OBJECT)
    corner = np.zeros((36, SIDE, SIDE), bool)
    corner[:, -4:, -4:] = True
    corner &= ~(np.ptp(inquiry.pictures, axis=1) > 0.2)

    def covered(class_id: int, where: NDArray[np.bool_]) -> FilledIn:
        rows = inquiry.rows_of(class_id)
        return spread._filled(inquiry, rows, where[rows], patched)

    filled: dict[int, FilledIn | None] = {GREEN: covered(GREEN, corner), 2: covered(2, ~corner)}
    evidence = _kept(inquiry, filled, GREEN)
    assert evidence.figures == {"kept": 1, "kept_by_others": 0, "others_become": 0, "told_alone": 0}
    assert (evidence.level, evidence.code) == ("tested", None)
    assert evidence.said.endswith("So the hottest pixels missed what tells it, and what tells it is local.")
    poor = inquiry_of(scenes(marks={}), READS_THE_OBJECT, most=0)
    left = _kept(poor, filled, GREEN)
    assert (left.level, left.code, "later epoch" in left.said) == ("suspected", "nothing_local", True)


def test_objects_that_outlive_it_are_no_cue() -> None:
    """Half of each frame has the colour of the class, so all classes are kept."""
    images = scenes(8, marks={})
    for row, image in enumerate(images):
        image[:, : SIDE // 2] = 0.6
        image[:, : SIDE // 2, row // 8] = 1
    evidence = nothing_local(inquiry_of(images, READS_THE_OBJECT), [0, 1, 2])
    assert [one.figures["kept"] for one in evidence.values()] == [1, 1, 1]
    assert [one.code for one in evidence.values()] == [None] * 3


def test_with_masks_the_object_is_filled_in_too() -> None:
    masks = np.zeros((36, SIDE, SIDE), bool)
    masks[:, :, :24] = True
    inquiry = inquiry_of(tinted(), READS_THE_TINT, masks=masks)
    green = nothing_local(inquiry, [GREEN])[GREEN]
    first = green.trials[0]
    assert first.outline is not None
    assert first.outline[:, :24].all()
    assert "pixels and the object covered" in green.said
    masks[:, :, :31] = True  # nothing is left to fill in from
    assert nothing_local(inquiry_of(tinted(), READS_THE_TINT, masks=masks), [GREEN])[GREEN].level == "not tested"


def test_the_fewest_classes_are_asked_that_a_class_can_be_held_against() -> None:
    inquiry = inquiry_of(tinted(), READS_THE_TINT, most=30)
    evidence = nothing_local(inquiry, [GREEN])
    assert inquiry.asked == 24  # its own and one other class; a third is beyond what may be asked
    assert evidence[GREEN].level == "tested"
    poor = inquiry_of(tinted(), READS_THE_TINT, most=12)
    green = nothing_local(poor, [GREEN])[GREEN]
    assert (green.level, "later epoch" in green.said, poor.asked) == ("not tested", True, 12)
    broke = inquiry_of(tinted(), READS_THE_TINT, most=3)
    assert "later epoch" in nothing_local(broke, [GREEN])[GREEN].said
    alone = nothing_local(inquiry_of(tinted()[12:24], READS_THE_TINT), [GREEN])[GREEN]
    assert (alone.level, "no other class" in alone.said) == ("not tested", True)
    assert nothing_local(inquiry_of(tinted(count=5), READS_THE_TINT), [GREEN])[GREEN].level == "not tested"


def test_labels_of_sigmoids_are_judged_one_by_one() -> None:
    """Half of the images with the red object are tinted: the label green is told by the tint, red by its object."""
    images = scenes(12, marks={})
    images[:6] += 0.5
    images[12:24] += 0.5
    inquiry = inquiry_of(images, weights((0, 2, 0), (10, 0, 10), (-5, -5, -5)), several=True)
    assert [len(inquiry.rows_of(one)) for one in range(3)] == [12, 18, 12]
    evidence = nothing_local(inquiry, [0, GREEN])
    assert evidence[GREEN].code == "nothing_local"
    assert evidence[0].code is None


def test_the_hottest_pixels_hold_together() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    few = hottest(heat, Upsampling((4, 4), (16, 16)), 0.1)
    assert few.sum() == round(0.1 * 256)
    assert few[4:8, 8:12].sum() >= 16  # all of its own place; the rest is around it
    more = hottest(heat, Upsampling((4, 4), (16, 16)), 0.3)
    assert more.sum() == round(0.3 * 256)
    assert more[few].all()
    rows, columns = np.nonzero(more)
    assert np.hypot(rows - 5.5, columns - 9.5).max() < 8


def test_what_is_covered_goes_on_with_the_texture_of_the_image() -> None:
    """By hand: stripes 4 pixels apart, and a shift of 8 rows brings each pixel under one like it."""
    stripes = np.repeat((np.arange(32) % 4 < 2)[None, :, None], 32, 2).astype(np.float32)
    given, missing = stripes.copy(), np.zeros((32, 32), bool)
    missing[8:14, 4:20] = True
    given[0, missing] = 9
    covered = patched(given, missing)
    assert np.array_equal(covered[:, ~missing], given[:, ~missing])
    assert covered.max() == 1  # nothing of what was there
    assert set(np.unique(covered[:, missing])) == {0, 1}  # nor anything smooth
    most = np.ones((32, 32), bool)
    most[:2] = False  # what no shift reaches is filled in from its surroundings
    assert np.isfinite(patched(given, most)).all()
    assert patched(given, most).max() == 1


def marked_all(*classes: int) -> Images:
    return scenes(12, marks=dict.fromkeys(classes, CORNER))


def test_heat_that_means_nothing_is_called_an_artefact_and_accuses_nobody() -> None:
    """The mark adds the same to every class, so it changes no probability."""
    inquiry = inquiry_of(marked_all(0, 1, 2), weights((20, 20, 20), (5, 5, 5)))
    evidence = artefacts(inquiry, [0, 1, 2])
    for one in evidence.values():
        assert (one.test, one.level, one.code, one.accuses) == ("artefact", "tested", "artefact", False)
        assert one.box == Box(28, 28, 4, 4)
        assert one.figures["share"] > 0.3
        assert one.figures["due"] == 16 / 1024
        assert one.figures["change"] < 0.01
        assert_allclose([trial.after for trial in one.trials], [trial.before for trial in one.trials], atol=0.01)
    assert "lower right corner" in evidence[0].said
    assert inquiry.asked == 36


def test_heat_that_means_something_is_no_artefact() -> None:
    """Red and green need the mark against the bias of blue, whose images have none."""
    evidence = artefacts(inquiry_of(marked_all(0, 1), weights((10, 10, 0), (5, 5, 5), (0, 0, 9))), [0, 1, 2])
    assert [one.code for one in evidence.values()] == [None] * 3
    assert evidence[0].figures["change"] > 0.9
    assert "means something" in evidence[0].said
    assert "this one has not" in evidence[2].said


def test_without_a_place_that_is_hot_in_most_classes_nothing_is_asked() -> None:
    for images, parts in ((scenes(), READS_THE_CORNER), (scenes(marks={}), READS_THE_OBJECT)):
        inquiry = inquiry_of(images, parts)
        assert [one.code for one in artefacts(inquiry, [0, 1, 2]).values()] == [None] * 3
        assert inquiry.asked == 0
    poor = inquiry_of(marked_all(0, 1, 2), weights((20, 20, 20), (5, 5, 5)), most=11)
    assert artefacts(poor, [0])[0].level == "not tested"
    assert (
        artefacts(inquiry_of(marked_all(0, 1, 2)[:5], weights((20, 20, 20), (5, 5, 5))), [0])[0].level == "not tested"
    )


@pytest.mark.parametrize("size", [(16, 16), (30, 47), (5, 9)])
def test_the_shifts_that_are_tried_first_leave_the_fewest_pixels(size: tuple[int, int]) -> None:
    """Held against trying them all: what is covered after one pass is as much as the best shift can cover."""
    generator = np.random.default_rng(0)
    missing = generator.random(size) < 0.3
    image = np.arange(missing.size, dtype=np.float32).reshape(1, *size)
    tried = product(*(range(0, side, max(1, side // 16)) for side in size))
    most = max(int((missing & ~np.roll(missing, shift, (0, 1))).sum()) for shift in tried)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "SHIFTS", 1)
        patch.setattr(spread, "interpolated", lambda covered, left: np.stack([*covered, left]))
        covered, left = patched(image, missing)
    assert (missing & ~left.astype(bool)).sum() == most
    assert_allclose(covered[~missing], image[0][~missing])
