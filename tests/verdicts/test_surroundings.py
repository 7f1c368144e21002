"""Whether a class is told by its surroundings: hand-made networks whose answer is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from fe_gradcam import explain
from fe_gradcam.verdicts import surroundings as module
from fe_gradcam.verdicts.donors import DONORS, Swaps
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.surroundings import surroundings
from fe_gradcam.verdicts.verdict import Evidence
from tests.verdicts.coloured import (
    BLUE,
    BY_ABSENCE,
    BY_COLOUR,
    GREEN,
    GREEN_BY_MARK,
    MARK,
    NONE,
    RED,
    SIDE,
    inquiry_of,
    network,
    scenes,
)

COUNT = 12
THREE = [RED] * COUNT + [GREEN] * COUNT + [BLUE] * COUNT


def inquiry(weights: Any = GREEN_BY_MARK, classes: list[int] = THREE, marked: Any = (GREEN,), **more: Any) -> Inquiry:
    images, masks = scenes(classes, marked)
    return inquiry_of(network(weights), images, masks, labels=np.array(classes), **more)


def found(*given: Any, **more: Any) -> dict[int, Evidence]:
    of = inquiry(*given, **more)
    return surroundings(of, of.classes)


def test_a_class_told_by_a_mark_is_accused_and_no_other() -> None:
    """GREEN needs the mark: kept in marked surroundings, never in others, where only the bias of RED is left."""
    every = found()
    assert {one: evidence.code for one, evidence in every.items()} == {RED: None, GREEN: "surroundings", BLUE: None}
    evidence = every[GREEN]
    assert evidence.accuses and evidence.level == "tested" and evidence.images == COUNT
    # of the donors of other classes about half are RED, as the answer is
    assert_allclose([evidence.figures[name] for name in ("kept_same", "kept_other", "gap")], [1, 0, 1])
    assert evidence.figures["follow"] == pytest.approx(0.5, abs=0.2)
    assert evidence.figures["p"] == pytest.approx(70.0**-COUNT)
    assert "100% and 0% of them" in evidence.said and "does not show" in evidence.said
    assert evidence.rows is not None and sorted(evidence.rows) == list(range(COUNT, 2 * COUNT))


def test_a_network_that_reads_colours_is_not_accused_mark_or_no_mark() -> None:
    for evidence in found(BY_COLOUR).values():
        assert (evidence.level, evidence.code, evidence.rows) == ("tested", None, None)
        assert_allclose([evidence.figures[name] for name in ("kept_same", "gap", "follow", "p")], [1, 0, 0, 1])


def test_the_pull_of_an_accused_class_is_taken_out_of_the_others() -> None:
    """A mark turns any object GREEN: RED's gap is 1/2, half of its other donors being GREEN. Without them it is 0."""
    every = found()
    for one in (RED, BLUE):
        assert_allclose([every[one].figures[name] for name in ("kept_same", "kept_other", "follow")], [1, 1, 0])
        assert every[one].images == COUNT


def test_the_answers_are_used_again_as_far_as_they_do() -> None:
    """Each image has 4 donors of other classes, two of each: without GREEN two are left, which are enough."""
    of = inquiry()
    surroundings(of, of.classes)
    assert of.asked == 2 * DONORS * len(THREE)


def test_the_network_is_asked_again_if_donors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """If three are needed, the two that are left are made four again, for RED and for BLUE."""
    monkeypatch.setattr(module, "FEWEST_LEFT", 3)
    of, asked = inquiry(), 2 * DONORS * len(THREE)
    every = surroundings(of, of.classes)
    assert of.asked == asked + 2 * 2 * COUNT
    for one in (RED, BLUE):
        assert_allclose([every[one].figures[name] for name in ("kept_same", "kept_other")], [1, 1])
    of = inquiry(most=asked)
    later = surroundings(of, of.classes)[RED]
    assert of.asked == asked and later.level == "not tested" and f"later epoch: {2 * COUNT} more" in later.said
    few = inquiry(classes=[RED] * COUNT + [GREEN] * COUNT + [BLUE] * 2)
    assert f"themselves: {GREEN}." in surroundings(few, few.classes)[RED].said


def test_what_is_known_of_a_class_leaves_it_out_as_a_donor() -> None:
    alone = surroundings(inquiry(), [RED])[RED]
    assert alone.figures["kept_other"] == pytest.approx(0.5, abs=0.1)  # GREEN pulls, and nobody knows of it
    assert (alone.level, alone.code, alone.accuses) == ("suspected", "surroundings", False)
    assert f"lost in the surroundings of class {GREEN} alone" in alone.said  # one of two classes: it may be either
    assert surroundings(inquiry(accused=[GREEN]), [RED])[RED].figures["gap"] == 0
    assert surroundings(inquiry(), [GREEN])[GREEN].accuses  # it has the mark itself


class Table(torch.nn.Module):
    """Says the class that a table has for an object (the green at its middle) in surroundings (the red of a corner)."""

    def __init__(self, told: NDArray[np.int64]) -> None:
        super().__init__()
        self.conv, self.told = torch.nn.Conv2d(3, 4, 1), torch.from_numpy(told)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.told[(x[:, 1, 10, 10] * 4).round().long(), (x[:, 0, 0, 0] * 4).round().long()]
        return 0 * self.conv(x).mean((2, 3)) + 5 * torch.eye(4)[seen]


def by_table(lost: Mapping[int, Collection[int]]) -> dict[int, Evidence]:
    """Four classes, of which objects of some are told to be of the next in the surroundings of some."""
    told = np.repeat(np.arange(4)[:, None], 4, 1)
    for one, where in lost.items():
        told[one, list(where)] = (one + 1) % 4
    labels, masks = np.repeat(np.arange(4), COUNT), np.zeros((4 * COUNT, SIDE, SIDE), bool)
    masks[:, 7:14, 7:14] = True
    images = np.repeat((labels / 4)[:, None, None, None], 3, 1) * np.ones((SIDE, SIDE))
    of = inquiry_of(Table(told).eval(), images.astype(np.float32), masks, labels=labels)
    return surroundings(of, of.classes)


def test_a_class_that_loses_in_those_of_one_class_alone_is_cleared_and_that_class_suspected() -> None:
    """A third of the other surroundings is lost: the gap is 1/3, and in the rest of them 0."""
    every = by_table({0: [3], 2: [3]})
    for one in (0, 2):
        assert every[one].figures["gap"] == pytest.approx(1 / 3, abs=0.05) and every[one].figures["p"] < 1e-4
        assert (every[one].level, every[one].code, every[one].rows) == ("tested", None, None)
        assert "They are lost in the surroundings of class 3 alone" in every[one].said
    assert (every[3].level, every[3].code) == ("suspected", "surroundings")
    assert "Objects of class 0, 2 are lost in its surroundings: something there pulls." in every[3].said
    assert (every[1].level, every[1].code) == ("tested", None) and "pull" not in every[1].said


@pytest.mark.parametrize("where", [[1, 2], [1, 3], [1, 2, 3]])
def test_a_class_that_loses_in_those_of_most_classes_is_accused(where: list[int]) -> None:
    """Without the surroundings of one of them it still loses a half or all."""
    every = by_table({0: where})
    assert [one for one, its in every.items() if its.code] == [0] and every[0].accuses
    assert "pull" not in every[0].said


def test_with_two_classes_it_says_that_it_may_be_either() -> None:
    every = found(classes=[RED] * COUNT + [GREEN] * COUNT)
    accused = [one for one, evidence in every.items() if evidence.accuses]
    assert len(accused) == 1 and "may be in either" in every[accused[0]].said
    (other,) = set(every) - set(accused)
    assert every[other].level == "not tested" and f"themselves: {accused[0]}." in every[other].said


def test_classes_are_called_by_their_names_where_there_are_any() -> None:
    of = inquiry(names={RED: "rose", GREEN: "leaf"})
    every = surroundings(of, of.classes)
    assert {trial.done for trial in every[GREEN].trials} == {
        f"in the surroundings of an image of class {one}" for one in ("rose", "leaf", BLUE)
    }
    alone = inquiry(names={RED: "rose", GREEN: "leaf"})
    assert "lost in the surroundings of class leaf alone" in surroundings(alone, [RED])[RED].said


def test_the_trials_show_the_images_that_lost_most_and_one_in_its_own_surroundings() -> None:
    of = inquiry()
    trials = surroundings(of, of.classes)[GREEN].trials
    assert len(trials) == 4 and len({trial.row for trial in trials[:3]}) == 3
    for trial in trials:
        assert_array_equal(trial.given, of.pictures[trial.row])
        assert trial.before == pytest.approx(of.probabilities[trial.row, GREEN])
        assert trial.outline is not None and of.masks is not None
        assert_array_equal(trial.outline, of.masks[trial.row])
        assert trial.after == pytest.approx(of.answers([trial.row], trial.changed[None])[0, GREEN], abs=1e-5)
        assert_allclose(trial.changed[:, trial.outline], trial.given[:, trial.outline], atol=1e-6)
    marked = [bool((trial.changed[:, -MARK:, -MARK:] == 1).all()) for trial in trials]
    assert marked == [False, False, False, True]
    assert trials[3].done == f"in the surroundings of an image of class {GREEN}" and trials[3].row == trials[0].row
    assert {trial.done[-1] for trial in trials[:3]} <= {str(RED), str(BLUE)}


def test_masks_that_cut_off_what_is_needed_are_no_accusation() -> None:
    """Masks lack one row of six, which fades to 2/3: so 5 2/3 rows are pasted, and the network needs 5.8."""
    images, masks = scenes(THREE)
    lower = np.roll(masks, 5, axis=1)
    net = network([[6, 0, 0, 0], [0, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, 0]], (0, 0, 0, 5.8))
    of = inquiry_of(net, images, masks & ~lower)
    for evidence in surroundings(of, [RED, GREEN, BLUE]).values():
        assert evidence.level == "not tested" and "rather too large" in evidence.said
        assert evidence.figures["kept_same"] < 0.7 and evidence.code is None


def test_an_accusation_says_if_masks_may_have_left_something_of_the_donor() -> None:
    """Masks of one pixel leave nearly all of it: so all answers follow the donor."""
    images, masks = scenes(THREE)
    corner = masks & ~np.roll(masks, 1, axis=1) & ~np.roll(masks, 1, axis=2)
    evidence = surroundings(inquiry_of(network(BY_COLOUR), images, corner), [RED])[RED]
    assert evidence.figures["follow"] == 1 and "rather too large" in evidence.said
    assert "rather too large" not in found()[GREEN].said


def test_what_cannot_be_tested_says_why() -> None:
    images, masks = scenes(THREE)
    few = inquiry(classes=[RED] * COUNT + [GREEN] * 5)
    assert "6 images that are told to be of it are needed, and there are 5" in surroundings(few, [GREEN])[GREEN].said
    alone = inquiry(classes=[RED] * COUNT)
    assert "No other class" in surroundings(alone, [RED])[RED].said
    blind = inquiry_of(network(BY_COLOUR), images, None)
    assert "masks= or boxes=" in surroundings(blind, [RED])[RED].said
    masks[:5], masks[5:8] = True, False
    partly = inquiry_of(network(BY_COLOUR), images, masks)
    said = surroundings(partly, [RED])[RED].said
    assert "Only 4 of its 12 images" in said and "fills the frame" in said
    for of, one in ((few, GREEN), (alone, RED), (blind, RED), (partly, RED)):
        evidence = surroundings(of, [one])[one]
        assert (evidence.level, evidence.code, evidence.images) == ("not tested", None, 0)


def test_a_class_without_an_object_is_left_to_the_other_test() -> None:
    images, masks = scenes([*THREE, *[NONE] * COUNT])
    of = inquiry_of(network(BY_COLOUR, BY_ABSENCE), images, masks)
    assert list(surroundings(of, of.classes)) == [RED, GREEN, BLUE]


def test_the_budget_is_kept_and_what_is_left_is_said() -> None:
    """16 images are 128 questions, 12 are 96: of 100 the first class takes 96, the others wait."""
    classes = [RED] * 20 + [GREEN] * 20 + [BLUE] * 20
    of = inquiry(BY_COLOUR, classes, most=100)
    every = surroundings(of, [BLUE, RED, GREEN])
    assert of.asked == 96 and every[BLUE].images == 12
    for one in (RED, GREEN):
        assert every[one].level == "not tested" and "later epoch: 96 more images" in every[one].said
    of = inquiry(BY_COLOUR, classes)
    assert surroundings(of, [BLUE])[BLUE].images == 16


def test_the_same_seed_gives_the_same_result() -> None:
    first, second = found(seed=3), found(seed=3)
    assert all(first[one].figures == second[one].figures for one in first)
    other = found(seed=4)
    assert [trial.row for trial in first[GREEN].trials] != [trial.row for trial in other[GREEN].trials]


def test_an_image_may_be_of_several_classes_and_then_no_mark_pulls_its_object_away() -> None:
    """With sigmoids BLUE stays BLUE beside a mark, and is GREEN too; GREEN without the mark is nothing."""
    images, masks = scenes(THREE, [GREEN])
    model = torch.nn.Sequential(network(2 * np.array(GREEN_BY_MARK), (-5, -5, -5, -5)), torch.nn.Sigmoid())
    with torch.no_grad():
        probabilities = model(torch.from_numpy(images)).numpy()
    of = Inquiry(
        model, images, explain(model, images), probabilities, masks=masks, labels=np.eye(4)[THREE].astype(bool)
    )
    assert of.several
    every = surroundings(of, of.classes)
    assert [one for one, evidence in every.items() if evidence.accuses] == [GREEN]
    assert_allclose([every[GREEN].figures[name] for name in ("kept_same", "kept_other", "follow")], [1, 0, 0])
    assert every[BLUE].figures["kept_other"] == 1
    alone = surroundings(of, [BLUE])[BLUE].figures  # GREEN is not known to be told by the mark
    assert alone["gap"] == 0 and alone["follow"] == pytest.approx(0.5, abs=0.1)


def test_one_odd_image_of_another_class_accuses_nobody() -> None:
    """All objects become RED in the surroundings of the one red image, for it alone is what they are all asked in."""
    classes = [RED] + [GREEN] * COUNT
    one = found(GREEN_BY_MARK, classes)[GREEN]
    assert one.level == "not tested"
    assert "Only 1 images of other classes have surroundings that could be used, and 6 are needed." in one.said
    assert found(GREEN_BY_MARK, [RED] * 6 + classes[1:])[GREEN].accuses


def test_classes_that_pull_are_those_in_whose_surroundings_a_quarter_is_lost() -> None:
    """An image of class 0 in the surroundings of 15 other classes: lost in those of 1 to 4, which is more than 1/4.

    A third of 15 classes may pull, and nothing is lost in the fifth.
    """
    others = np.arange(1, 16)
    kept = np.append(others > 4, True)
    donors, own = np.append(others, 0), np.append(np.zeros(15, bool), True)
    swaps = Swaps(np.zeros(16, np.int64), donors, own, kept, ~kept, kept.astype(np.float32))
    pools: Any = SimpleNamespace(of=lambda one: np.array([one]), classes_of=lambda rows: sorted(set(rows.tolist())))
    judged = module._Judged(0, swaps)
    assert judged.gap == pytest.approx(4 / 15)
    assert module._pullers(pools, judged) == [1, 2, 3, 4]
