"""All tests together, over networks whose answers are known, and what `find_shortcuts` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, UnknownNameError, UnsupportedModelError, draw_verdicts, find_shortcuts
from fe_gradcam.verdicts import find
from fe_gradcam.verdicts.donors import DONORS
from fe_gradcam.verdicts.find import TESTS, judged
from fe_gradcam.verdicts.verdict import Evidence, Verdict
from tests.verdicts.coloured import BLUE, BY_COLOUR, GREEN, GREEN_BY_MARK, RED, inquiry_of, network, scenes

pytestmark = pytest.mark.threads

COUNT = 12
CLASSES = [RED] * COUNT + [GREEN] * COUNT + [BLUE] * COUNT
NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def marked() -> Any:
    return scenes(CLASSES, (GREEN,))


def found(marked: Any, weights: Any = GREEN_BY_MARK, **more: Any) -> list[Verdict]:
    images, masks = marked
    given = {"masks": masks, "class_names": NAMES, **more}
    return find_shortcuts(network(weights), torch.from_numpy(images), np.array(CLASSES), **given)


def test_a_class_is_accused_by_name_and_the_others_are_not(marked: Any) -> None:
    every = found(marked)
    assert [one.name for one in every] == NAMES
    assert [one.accuses for one in every] == [False, True, False]
    accused = every[GREEN]
    assert "surroundings" in {one.code for one in accused.evidence}
    assert accused.trials
    assert all(trial.before > trial.after for trial in accused.trials[:1])
    assert not any(one.accuses for one in found(marked, BY_COLOUR))


def test_without_masks_the_surroundings_are_not_tested_and_it_is_said(marked: Any) -> None:
    every = found(marked, masks=None)
    for one in every:
        (evidence,) = (each for each in one.evidence if each.test == "surroundings")
        assert evidence.level == "not tested"
        assert "pass masks= or boxes=" in evidence.said


def test_what_is_ignored_is_not_looked_for(marked: Any) -> None:
    every = found(marked, BY_COLOUR, ignore=["surroundings", "place"])
    assert not {"surroundings", "place"} & {each.test for one in every for each in one.evidence}
    (one,) = (
        one for one in found(marked, ignore=[code for code in TESTS if code != "artefact"]) if one.class_id == GREEN
    )
    assert not one.accuses
    for one in found(marked, ignore=list(TESTS)):
        assert (one.code, one.level, one.accuses, one.evidence, one.trials) == (
            "not_judged",
            "not tested",
            False,
            [],
            [],
        )
        assert "No test was run." in str(one)
        assert draw_verdicts([one]).rgb.size
    with pytest.raises(UnknownNameError, match=r"ignore='plac' is no code.*'place'.* Accepted: surroundings, "):
        found(marked, ignore="plac")


@pytest.mark.parametrize(
    ("swapped", "level", "gap", "accuses"),
    [
        (None, "tested", 0.09, False), (None, "tested", 0.11, True), ("surroundings", "tested", 0.5, True),
        (None, "not tested", 0.0, True),
    ],
)  # fmt: skip
def test_what_other_surroundings_leave_as_it_is_lies_on_the_object(
    swapped: Any, level: Any, gap: float, accuses: bool, monkeypatch: pytest.MonkeyPatch, marked: Any
) -> None:
    """The tests are made up: a place and a patch are the cause; other surroundings say so too, or not, or nothing."""

    def saying(test: Any, code: Any, level: Any) -> Any:
        return lambda inquiry, classes: {
            one: Evidence(test, level, code, f"Of {test}.", {"gap": gap}) for one in classes
        }

    tests = {"surroundings": saying("surroundings", swapped, level), "place": saying("place", "place", "tested")}
    monkeypatch.setattr(find, "TESTS", tests | {"sign": saying("sign", "sign", "tested")})
    for one in found(marked):
        assert [each.accuses for each in one.evidence if each.test in ("place", "sign")] == [accuses] * 2
        assert ("this is a part of the object" in one.evidence[-1].said) == (not accuses)
        assert one.code == ("place" if accuses else "no_shortcut")


def test_a_class_that_is_judged_again_is_no_longer_one_of_the_accused(marked: Any) -> None:
    images, masks = marked
    inquiry = inquiry_of(network(BY_COLOUR), images, masks, accused={GREEN})
    assert not any(one.accuses for one in judged(inquiry))
    assert inquiry.accused == set()


@pytest.mark.thread_unsafe(reason="the random stream that it looks at is that of all threads")
def test_the_network_and_its_random_streams_are_left_as_they_were(marked: Any) -> None:
    images, masks = marked
    model = network(GREEN_BY_MARK).train()
    before, stream = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    first, second = (find_shortcuts(model, torch.from_numpy(images), masks=masks) for _ in range(2))
    assert [str(one) for one in first] == [str(one) for one in second]
    assert model.training
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_more_is_asked_than_may_be_and_those_first_that_are_due(marked: Any) -> None:
    images, masks = marked
    each = COUNT * (1 + 2 * DONORS)
    for most, first, reached in ((each, [], [RED]), (each, [BLUE], [BLUE]), (2 * each, [BLUE, GREEN], [GREEN, BLUE])):
        inquiry = inquiry_of(network(GREEN_BY_MARK), images, masks, most=most)
        every = judged(inquiry, first=first, epoch=7)
        assert [one.class_id for one in every] == reached
        assert {one.epoch for one in every} == {7}
        assert inquiry.asked <= most


@pytest.mark.parametrize("labels", [np.zeros(5), np.full(36, 0.5), np.zeros((36, 2), int), 5])
def test_labels_of_another_form_are_an_error(marked: Any, labels: Any) -> None:
    with pytest.raises(ArgumentError, match=r"labels has shape .*\(36,\) class ids are needed"):
        find_shortcuts(network(BY_COLOUR), torch.from_numpy(marked[0]), labels)


def test_volumes_and_models_without_classes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="images holds volumes"):
        find_shortcuts(torch.nn.Conv3d(1, 1, 1), torch.zeros(2, 1, 4, 4, 4))
    with pytest.raises(UnsupportedModelError):
        find_shortcuts(torch.nn.Conv2d(1, 2, 1), torch.rand(2, 1, 4, 4))
