"""The alarm of a class that is told by its place: hand-made networks whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.model import ModelOp
from numpy.typing import NDArray

from fe_gradcam import explain
from fe_gradcam.drawing.atlas import atlas
from fe_gradcam.types import Heatmap
from fe_gradcam.verdicts import atlas as of_classes
from fe_gradcam.verdicts import covering
from fe_gradcam.verdicts import places as shortcut
from fe_gradcam.verdicts.atlas import Atlas, Box
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.places import fixed_places, place_of, shares_in, suspects, where_in_words
from fe_gradcam.verdicts.verdict import Evidence
from tests.trainings import as_layout, fitted, gradcam, streams, words_of
from tests.verdicts.scenes import (
    CORNER,
    GREEN,
    PATCH,
    READS_THE_CORNER,
    READS_THE_OBJECT,
    SIDE,
    Images,
    inquiry_of,
    network,
    scene,
    scenes,
    stripes,
    weights,
)


def explained(
    images: Images, parts: tuple[Any, ...] = READS_THE_CORNER, framework: str = "torch"
) -> tuple[Any, Images, Heatmap, Atlas]:
    """What an alarm is asked for with: the network, the images as it takes them, their heatmap and atlas."""
    model, inputs = network(framework, parts), as_layout(framework, images)
    heatmap = explain(model, inputs)
    return model, inputs, heatmap, Atlas.of(heatmap, (images * 255).astype(np.uint8))


class Accused:
    """A class that is accused of its place, with the figures as attributes."""

    def __init__(self, class_id: int, evidence: Evidence) -> None:
        self.class_id, self.box, self.tried, self.said = class_id, evidence.box, evidence.images, evidence.said
        self.evidence = evidence
        self.__dict__.update(evidence.figures)


def found(
    images: Images, parts: tuple[Any, ...] = READS_THE_CORNER, framework: str = "torch", **more: Any
) -> list[Accused]:
    model, inputs, heatmap, _ = explained(images, parts, framework)
    return accused(model, inputs, heatmap, **more)


def accused(model: Any, inputs: Any, heatmap: Heatmap, **more: Any) -> list[Accused]:
    probabilities = np.full((len(heatmap), 3), 0.0, np.float32)
    probabilities[np.arange(len(heatmap)), heatmap.class_ids] = heatmap.confidences
    probabilities += ((1 - probabilities.sum(1)) / 2)[:, None] * (probabilities == 0)
    inquiry = Inquiry(model, inputs, heatmap, probabilities, **more)
    every = fixed_places(inquiry, inquiry.classes)
    return [Accused(class_id, evidence) for class_id, evidence in every.items() if evidence.accuses]


def classes(accused: list[Accused]) -> list[int]:
    return [one.class_id for one in accused]


def test_the_networks_do_what_the_tests_below_rest_on(framework: str) -> None:
    for parts in (READS_THE_CORNER, READS_THE_OBJECT):
        _, _, heatmap, _ = explained(scenes(), parts, framework)
        assert np.array_equal(heatmap.class_ids, np.repeat(np.arange(3), 12))
        assert heatmap.confidences.min() > 0.95  # e^5 / (e^5 + 2) = 0.987


def test_a_network_that_reads_the_corner_is_accused_and_no_other_class(framework: str) -> None:
    (alarm,) = found(scenes(), framework=framework)
    assert alarm.class_id == GREEN
    assert alarm.box == Box(28, 28, 4, 4)  # half of the maximum lies half-way to the next patches
    assert alarm.tried == 12
    assert alarm.fixed_place > 0.999
    assert alarm.share > 0.5
    assert alarm.share_of_others < 0.05
    assert alarm.plain > 0.99
    assert alarm.covered == pytest.approx(1 / 3, abs=0.01)  # nothing else that the network looks at
    assert alarm.covered_elsewhere > 0.99
    assert alarm.evidence.code == "place"
    for said in (
        "The heat stays in the lower right corner: ",
        "With the lower right corner covered in 12 images, the probability of the class falls from 1.00 to 0.33; ",
        "with other places of the same size and similar contrast covered, to 1.00.",
    ):
        assert said in alarm.said
    given, changed = alarm.evidence.trials[0].given, alarm.evidence.trials[0].changed
    assert np.array_equal(given[:, :28, :28], changed[:, :28, :28])
    assert given[:, 28:, 28:].max() > 0.9 > changed[:, 28:, 28:].max()


def test_a_network_that_reads_the_object_is_not_accused_mark_or_no_mark(framework: str) -> None:
    assert found(scenes(), READS_THE_OBJECT, framework) == []
    *_, atlas = explained(scenes(), READS_THE_OBJECT, framework)
    assert suspects(atlas) == {}
    assert atlas.fixed_place < 0.4


def test_the_atlas_of_a_model_warns_of_the_class_and_is_silenced_by_where_the_object_is(framework: str) -> None:
    model, inputs = network(framework, READS_THE_CORNER), as_layout(framework, scenes())
    picture = atlas(model, inputs, class_names=["red", "green", "blue"])
    (alarm,) = picture.alarms
    assert (alarm.class_id, alarm.code) == (GREEN, "place")
    assert alarm.evidence[0].box == Box(28, 28, 4, 4)
    assert picture.images == {0: 12, 1: 12, 2: 12}
    assert picture.fixed_place[GREEN] > 0.999 > 0.4 > max(picture.fixed_place[one] for one in (0, 2))
    assert [words_of(row)["class"] for row in picture.grid.rows if row.wrong] == ["green"]
    corner = np.repeat(Box(28, 28, 4, 4).mask((SIDE, SIDE))[None], 36, 0)
    for where in ({"masks": corner}, {"boxes": np.tile([28, 28, 4, 4], (36, 1))}):
        assert "place" not in {one.code for one in atlas(model, inputs, **where).verdicts}
    assert atlas(network(framework, READS_THE_OBJECT), inputs).alarms == []


@pytest.mark.parametrize("corner", [(0, 0), (0, 28), (28, 0), (0, 12)])
def test_the_place_is_where_the_mark_is(corner: tuple[int, int]) -> None:
    (alarm,) = found(scenes(10, 1, {GREEN: corner}))
    assert (alarm.box.top, alarm.box.left) == corner
    names = {(0, 0): "upper left corner", (0, 28): "upper right corner", (28, 0): "lower left corner"}
    assert names.get(corner, "upper edge") in alarm.said


def test_registered_objects_are_no_shortcut() -> None:
    """All in the middle, where the heat of every class is; and each class at a place of its own, all that it has."""
    generator, middle = np.random.default_rng(2), scenes(10, 2, {}, at=(12, 12))
    *_, atlas = explained(middle, READS_THE_OBJECT)
    assert min(one.fixed_place for one in atlas.classes.values()) > 0.99
    assert found(middle, READS_THE_OBJECT) == []

    own = {0: (4, 4), 1: (20, 20), 2: (4, 20)}
    apart = np.stack([scene(generator, one, None, own[one]) for one in range(3) for _ in range(10)])
    *_, atlas = explained(apart, READS_THE_OBJECT)
    assert set(suspects(atlas)) == {0, 1, 2}  # so it is the test by cause that acquits them
    assert found(apart, READS_THE_OBJECT) == []


def continued(images: Images) -> Images:
    """The mark goes on, as a part of an object that is always there: stripes from the corner to the middle."""
    images[12:24, 16:, 16:] = stripes(0.8, 16) + images[12:24, 16:, 16:] / 5
    return images


def test_a_part_of_something_larger_that_is_always_there_is_suspected_alone() -> None:
    """The mark stands by itself; the stripes around it, of which it is a part, are in all images of the class."""
    (alarm,) = found(scenes())
    assert alarm.continues < 0.1
    images = continued(scenes())
    assert found(images) == []
    inquiry = inquiry_of(images, READS_THE_CORNER)
    evidence = fixed_places(inquiry, [GREEN])[GREEN]
    assert (evidence.code, evidence.level) == ("place", "suspected")
    assert evidence.figures["continues"] > 0.2 and "as around a part of an object" in evidence.said
    known = inquiry_of(images, READS_THE_CORNER, masks=np.zeros((36, SIDE, SIDE), bool))
    assert "continues" not in fixed_places(known, [GREEN])[GREEN].figures


def test_what_other_classes_have_around_the_place_too_does_not_count() -> None:
    """The same stripes around the place, but for it, in the images of all classes: what is left is the mark."""
    images = scenes()
    for image in images:
        corner = image[28:, 28:].copy()
        image[16:, 16:] = stripes(0.8, 16)
        image[28:, 28:] = corner
    (alarm,) = found(images)
    assert alarm.class_id == GREEN and alarm.continues < 0.1


def marked_elsewhere() -> Images:
    """The mark in the corner of 7 of 12 images, and anywhere in the others: (7 x 6 / 12 x 11) = 0.32 is fixed."""
    generator, images = np.random.default_rng(3), scenes()
    for at in range(19, 24):
        top, left = (int(one) * PATCH for one in generator.integers(0, 7, 2))
        images[at] = scene(generator, GREEN, (top, left))
    return images


def large_mark() -> Images:
    """A mark and objects of 16 x 16: a quarter of the frame."""
    generator, marks, size = np.random.default_rng(4), [None, (16, 16), None], {"side": 16, "mark_side": 16}
    every = [(one, number) for one in range(3) for number in range(10)]
    return np.stack([scene(generator, one, marks[one], (0, 4 * (number % 4)), **size) for one, number in every])


def nothing_but_the_mark(stop: int = 24, seed: int = 6) -> Images:
    """In the green images before `stop`."""
    generator, images = np.random.default_rng(seed), scenes()
    images[12:stop] = [scene(generator, GREEN, CORNER, empty=True) for _ in range(12, stop)]
    return images


@pytest.mark.parametrize(
    ("condition", "lifted", "images", "parts"),
    [
        ("FIXED", 0.2, marked_elsewhere, READS_THE_CORNER),
        ("LARGEST", 0.3, large_mark, READS_THE_CORNER),
        # Of the blue class 6/10 of the heat lies in the corner, of the red none: in the mean a third of the green's.
        ("APART", 1.0, lambda: scenes(10, 5, {1: CORNER, 2: CORNER}), weights((0, 10, 7.5), (5, 0, 5))),
        # From e^2.1 / (e^2.1 + 2) = 0.80 to e^1.5 / (e^1.5 + 2) = 0.69.
        ("FALL", 0.05, scenes, weights(white=(0, 0.6, 0), bias=(0, 1.5, 0))),
        # Both the mark (10) and the object (5) are needed against 11; each object is as large as the mark, so that
        # another place covers all of one.
        ("TIMES", 0.0, lambda: scenes(side=PATCH), weights((0, 10, 0), (9, 5, 9), (0, -11, 0), patches=1)),
        ("FEWEST", 5, lambda: scenes(5), READS_THE_CORNER),
        ("ALIKE", 1e6, nothing_but_the_mark, READS_THE_CORNER),
    ],
)
def test_each_condition_by_itself_silences_the_alarm(
    condition: str, lifted: float, images: Any, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lifting it alone brings the alarm back: nothing else was in its way."""
    assert found(images(), parts) == []
    for module in (shortcut, covering, of_classes):
        if hasattr(module, condition):
            monkeypatch.setattr(module, condition, lifted)
    again = found(images(), parts)
    assert GREEN in classes(again)
    if condition != "APART":
        assert classes(again) == [GREEN]


def test_the_fewest_images_are_enough() -> None:
    assert classes(found(scenes(shortcut.FEWEST))) == [GREEN]
    for count, suspected in ((shortcut.FEWEST, {GREEN}), (shortcut.FEWEST - 1, set())):
        *_, atlas = explained(scenes(count))
        assert set(suspects(atlas)) == suspected


def test_images_without_another_place_do_not_count_as_tested() -> None:
    (alarm,) = found(nothing_but_the_mark(24 - shortcut.FEWEST, 7))
    assert alarm.tried == shortcut.FEWEST
    assert found(nothing_but_the_mark(25 - shortcut.FEWEST, 7)) == []


def test_a_place_that_is_the_object_is_no_shortcut() -> None:
    images = scenes()

    def masks(start: int, stop: int) -> NDArray[np.bool_]:
        place = Box(start, start, stop - start, stop - start).mask((SIDE, SIDE))
        return np.repeat(place[None], len(images), 0)

    assert found(images, masks=masks(28, SIDE)) == []
    assert found(images, masks=masks(10, SIDE)) == []  # the whole place lies on the object
    assert found(images, masks=masks(31, SIDE)) == []  # the whole object lies in the place
    assert classes(found(images, masks=masks(0, 20))) == [GREEN]
    assert classes(found(images, masks=masks(0, 0))) == [GREEN]  # no object is known
    of_others = masks(28, SIDE)
    of_others[12:24] = masks(0, 20)[12:24]  # the masks of other classes say nothing of this one
    assert classes(found(images, masks=of_others)) == [GREEN]


def test_the_choice_of_images_is_that_of_the_seed_and_of_no_global_stream() -> None:
    images = scenes(covering.TRIED + 8)
    images[24:48:3, 28:, 28:] *= 0.95  # so that it shows which images were tried
    given, before = explained(images), streams()
    model, inputs, heatmap, _ = given
    (first,), (again,), (other,) = (accused(model, inputs, heatmap, seed=seed) for seed in (0, 0, 1))
    assert streams() == before
    assert first.said == again.said
    assert first.tried == covering.TRIED
    assert first.evidence.rows.tolist() == again.evidence.rows.tolist() != other.evidence.rows.tolist()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    one, other = found(scenes(), batch_size=batch_size)[0], found(scenes())[0]
    assert (one.box, one.tried) == (other.box, other.tried)
    assert one.covered == pytest.approx(other.covered, rel=1e-5)  # rounding of float32


@pytest.mark.parametrize(
    ("left", "top", "words"),
    [
        (0, 0, "upper left corner"), (24, 0, "upper right corner"), (0, 24, "lower left corner"),
        (24, 24, "lower right corner"), (12, 0, "upper edge"), (12, 24, "lower edge"), (0, 12, "left edge"),
        (24, 12, "right edge"), (12, 12, "middle"),
    ],
)  # fmt: skip
def test_where_in_words(left: int, top: int, words: str) -> None:
    assert where_in_words(Box(left, top, 8, 8), (32, 32)) == words
    assert where_in_words(Box(10 * left, top, 80, 8), (32, 320)) == words


@pytest.mark.parametrize(
    ("box", "borders"),
    [
        (Box(12, 8, 4, 8), [Box(8, 5, 12, 14), Box(6, 1, 16, 22)]),
        (Box(28, 28, 4, 4), [Box(24, 25, 8, 7), Box(22, 23, 10, 9)]),  # as far as the frame goes
        (Box(0, 0, 32, 32), []),
    ],
)
def test_the_place_is_tried_with_a_border_of_one_place_of_the_map_and_a_wider_one(box: Box, borders: list[Box]) -> None:
    """A place of the map is 4 pixels wide and 32 / 11 high, rounded up to 3; the wider border has half the box too."""
    assert shortcut._places(box, Atlas((32, 32), (11, 8))) == [box, *borders]


def test_the_place_is_the_box_of_the_hottest_region_down_to_half_of_it() -> None:
    heat = np.zeros((10, 12))
    heat[2:5, 3:7] = 0.5
    heat[3, 4] = 1
    heat[8:, 10:] = 0.9  # apart from it
    heat[5, 3:7] = 0.49
    assert place_of(heat) == Box(left=3, top=2, width=4, height=3)
    assert place_of(np.zeros((4, 4))) is None


@pytest.mark.parametrize(("framework", "reads"), [("torch", "corner"), ("tf", "corner"), ("torch", "object")])
def test_the_log_of_a_training_says_it_in_plain_words(
    framework: str, reads: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = {"corner": READS_THE_CORNER, "object": READS_THE_OBJECT}[reads]
    model = fe.build(lambda: network(framework, parts), optimizer_fn=None, model_name="reads")
    order = np.random.default_rng(0).permutation(36)
    images, labels = as_layout(framework, scenes()), np.repeat(np.arange(3), 12)
    places = np.repeat(Box(0, 0, 20, 20).mask((SIDE, SIDE))[None], 36, 0).astype(np.uint8)
    data = NumpyDataset({"x": images[order], "y": labels[order], "mask": places})
    asked = (
        {"atlas": True, "save_dir": tmp_path, "label_mapping": {"red": 0, "green": 1, "blue": 2}},
        {"atlas": {"n_samples": 36}, "outputs": "seen", "masks": "mask", "metrics": "energy_inside"},
    )
    traces = [gradcam(model, n_samples=1, **one) for one in asked]
    ops = [ModelOp(model, "x", "p")]
    (caught,) = fitted(framework, model, *traces, ops=ops, train_data=data, eval_data=data, batch_size=8).caught
    said = capfd.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("FastEstimator-Eval: ")]
    warned = [line for line in said.splitlines() if line.startswith("FastEstimator-Warn: GradCAM ('gradcam')")]
    assert (tmp_path / "gradcam_eval_atlas_epoch_001.png").exists()
    rows = {words_of(row)["class"]: row for row in caught["gradcam_atlas"].grid.rows}
    assert list(rows) == ["red", "green", "blue"]
    assert caught["gradcam_atlas"].grid.title == "eval, epoch 1, mean heat of each inferred class"
    assert "fixed_place" not in line  # a high one is no fault by itself
    if reads == "object":
        assert warned == []
        assert "gradcam_shortcuts: 0" in line
        assert caught["gradcam_alarms"] == []
        assert not any(row.wrong for row in rows.values())
        assert caught["gradcam_fixed_place"] < 0.4
        return
    assert "gradcam_shortcuts: 1" in line
    assert "seen_surroundings: 1.0" in line  # with masks that are all of one place
    assert caught["gradcam_fixed_place"] > 0.999
    (words,) = warned
    assert "class 'green', epoch 1: told by a place of the frame" in words
    assert "lower right corner" in words
    assert "the probability of the class falls from 1.00 to 0.33" in words
    (alarm,) = caught["gradcam_alarms"]
    assert alarm.evidence[0].box == Box(28, 28, 4, 4)
    assert [one.code for one in caught["gradcam_verdicts"]] == ["no_shortcut", "place", "no_shortcut"]
    assert (tmp_path / "gradcam_eval_experiments_epoch_001.png").exists()
    assert any(text.words == "told by the lower right corner" for text in rows["green"].texts)
    assert np.array_equal(rows["green"].panels[1].outline, alarm.evidence[0].box.mask((SIDE, SIDE)))
    assert [name for name, row in rows.items() if row.wrong] == ["green"]


def test_without_another_class_to_hold_it_against_nothing_is_suspected() -> None:
    """Whether the place is the class's own is not known; a single stray image is no other class."""
    size = (24, 24)
    heat, elsewhere = (Box(at, at, 4, 4).mask(size).astype(np.float32) for at in (18, 2))
    picture, atlas = np.zeros((*size, 3), np.uint8), Atlas(size)
    for _ in range(12):
        atlas.add(0, heat, picture)
    assert suspects(atlas) == {}
    atlas.add(1, elsewhere, picture)
    assert suspects(atlas) == {}
    for _ in range(5):
        atlas.add(1, elsewhere, picture)
    assert set(suspects(atlas)) == {0, 1}


def test_without_another_class_a_place_is_not_tested() -> None:
    inquiry = inquiry_of(scenes()[12:24], READS_THE_CORNER)
    (found,) = fixed_places(inquiry, [GREEN]).values()
    assert (found.level, found.code, found.said) == ("not tested", None, "There is no other class to hold it against.")


def test_a_class_is_held_against_the_median_of_the_others() -> None:
    """By hand: a mark on two of six classes; the mean of the other's five shares would be a fifth of 1."""
    atlas, places = Atlas((24, 24)), [Box(18, 18, 4, 4)] * 2 + [Box(2, at, 4, 4) for at in (2, 7, 12, 17)]
    for class_id, place in enumerate(places):
        for _ in range(6):
            atlas.add(class_id, place.mask((24, 24)).astype(np.float32))
    assert shares_in(atlas, 0, places[0], atlas.largest(9)) == (1, 0)
    assert set(suspects(atlas)) == set(range(6))
    for class_id in (2, 3):  # now the mark is on most
        for _ in range(60):
            atlas.add(class_id, places[0].mask((24, 24)).astype(np.float32))
    assert shares_in(atlas, 0, places[0], atlas.largest(9))[1] == pytest.approx(60 / 66)
    assert 0 not in suspects(atlas)


def test_the_evidence_is_that_of_the_alarm() -> None:
    inquiry = inquiry_of(scenes(), READS_THE_CORNER)
    evidence, (alarm,) = fixed_places(inquiry, [0, 1, 2]), found(scenes())
    green = evidence[GREEN]
    assert (green.test, green.level, green.code, green.accuses, green.box) == (
        "place", "tested", "place", True, alarm.box,
    )  # fmt: skip
    means = [green.figures[name] for name in ("plain", "covered", "covered_elsewhere")]
    assert means == pytest.approx([alarm.plain, alarm.covered, alarm.covered_elsewhere], abs=1e-6)
    assert green.figures["share"] == pytest.approx(alarm.share)
    assert "With the lower right corner covered in 12 images" in green.said
    assert "falls from 1.00 to 0.33" in green.said
    first = green.trials[0]
    assert len(green.trials) == 4
    assert (first.done, first.before > 0.99) == ("lower right corner covered", True)
    assert first.after == pytest.approx(1 / 3, abs=0.01)
    changed = (first.given != first.changed).any(0)
    assert first.outline is not None
    assert changed.any()
    assert not changed[~first.outline].any()
    assert np.array_equal(first.given, inquiry.pictures[first.row])
    for other in (0, 2):
        assert (evidence[other].level, evidence[other].code) == ("tested", None)
        assert "moves over the frame" in evidence[other].said


def test_the_level_says_why_a_class_has_no_finding() -> None:
    inquiry = inquiry_of(scenes(), READS_THE_CORNER, most=20)
    green = fixed_places(inquiry, [GREEN])[GREEN]
    assert (green.level, green.code, inquiry.asked) == ("not tested", None, 0)
    assert "later epoch" in green.said
    few = fixed_places(inquiry_of(scenes(5)[:10], READS_THE_CORNER), [GREEN, 2])  # and none of the last class
    assert [(few[one].level, few[one].images) for one in (GREEN, 2)] == [("not tested", 5), ("not tested", 0)]
    alone = fixed_places(inquiry_of(nothing_but_the_mark(), READS_THE_CORNER), [GREEN])[GREEN]
    assert (alone.level, alone.code, alone.accuses) == ("suspected", "place", False)
    assert "nothing else that could be covered" in alone.said
    corner = np.repeat(Box(28, 28, 4, 4).mask((SIDE, SIDE))[None], 36, 0)
    on_it = fixed_places(inquiry_of(scenes(), READS_THE_CORNER, masks=corner), [GREEN])[GREEN]
    assert (on_it.level, on_it.code) == ("tested", None)
    assert "There is the object" in on_it.said
    weak = fixed_places(inquiry_of(scenes(), weights(white=(0, 0.6, 0), bias=(0, 1.5, 0))), [GREEN])[GREEN]
    assert (weak.level, weak.code, weak.accuses) == ("tested", None, False)  # its heat is there, and no cause
    assert weak.figures["plain"] - weak.figures["covered"] == pytest.approx(0.11, abs=0.01)


def test_labels_of_sigmoids_are_judged_one_by_one() -> None:
    """The red object in every image, the mark in twelve: the label green is told by the corner, red by the object."""
    generator = np.random.default_rng(0)
    images = np.stack([scene(generator, 0, CORNER if row < 12 else None) for row in range(24)])
    inquiry = inquiry_of(images, weights((0, 10, 0), (10, 0, 10), (-5, -5, -5)), several=True)
    assert (inquiry.several, inquiry.classes) == (True, [0, 1])
    evidence = fixed_places(inquiry, [0, 1])
    assert (evidence[0].code, evidence[1].code) == (None, "place")
    assert evidence[1].figures["covered"] == pytest.approx(1 / (1 + np.exp(5)), abs=0.01)
    assert len(evidence[1].rows if evidence[1].rows is not None else []) == 12
