"""Which of several findings decides, and what a verdict says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fe_gradcam.verdicts.verdict import ACCUSING, BOUNDS, HEADLINES, Evidence, Trial, Verdict

TRIAL = Trial(3, np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32), 0.9, 0.1, "covered")


def evidence(test: str, level: Any = "tested", code: Any = None, **more: Any) -> Evidence:
    return Evidence(test, level, code, f"What {test} saw.", **more)


def verdict(*found: Evidence, images: int = 12) -> Verdict:
    return Verdict.of(3, "cat", found, images, epoch=4)


@pytest.mark.parametrize(
    ("found", "code", "level", "accuses"),
    [
        ([evidence("a"), evidence("b", code="sign")], "sign", "tested", True),
        ([evidence("a", code="surroundings"), evidence("b", code="place")], "place", "tested", True),
        ([evidence("a", "suspected", "sign"), evidence("b", code="nothing_local")], "nothing_local", "tested", True),
        ([evidence("a", code="artefact"), evidence("b", "suspected", "sign")], "sign", "suspected", False),
        ([evidence("a", code="artefact"), evidence("b")], "artefact", "tested", False),
        ([evidence("a", "not tested"), evidence("b")], "no_shortcut", "tested", False),
        ([evidence("a", "not tested")], "not_judged", "not tested", False),
    ],
)
def test_the_most_telling_finding_decides(found: list[Evidence], code: str, level: str, accuses: bool) -> None:
    one = verdict(*found)
    assert (one.code, one.level, one.accuses) == (code, level, accuses)
    assert one.evidence[0].code == (code if code not in ("no_shortcut", "not_judged") else None)


def test_a_class_with_too_few_images_is_said_to_have_too_few() -> None:
    one = verdict(evidence("a", "not tested"), images=5)
    assert one.code == "too_few"
    assert not one.accuses
    assert one.tests == []


def test_the_text_names_class_epoch_finding_bounds_and_page() -> None:
    one = verdict(evidence("a", code="sign", trials=[TRIAL]))
    assert str(one) == (
        f"class 'cat', epoch 4: told by a sign that moves. What a saw. {BOUNDS['sign']} (docs/verdicts.md#sign)"
    )
    assert one.trials == [TRIAL]
    assert verdict(evidence("a", "suspected", "sign")).headline == "may be told by a sign that moves"


def test_other_accusations_are_named() -> None:
    one = verdict(evidence("a", code="surroundings"), evidence("b", code="sign"), evidence("c"))
    assert "What b saw. Other tests say: told by its surroundings. If" in one.text


def test_no_shortcut_says_which_tests_were_run_and_which_not() -> None:
    one = verdict(evidence("a", images=12, trials=[TRIAL]), evidence("b", "not tested"))
    assert "no shortcut found" in one.text
    assert "Tests that were run: a (12 images). Not run: b (What b saw)." in one.text
    assert one.tests == ["a"]
    assert one.trials == []  # they show nothing that was found


def test_every_code_has_words() -> None:
    assert set(HEADLINES) == set(BOUNDS) > set(ACCUSING)


def test_a_trial_keeps_no_more_than_its_own_image_in_memory() -> None:
    every, outlines = np.zeros((50, 1, 2, 2), np.float32), np.zeros((50, 2, 2), bool)
    one = Trial(3, every[3], every[4], 0.9, 0.1, "covered", outlines[3])
    assert [array.base for array in (one.given, one.changed, one.outline) if array is not None] == [None] * 3


@pytest.mark.parametrize(("images", "code"), [(20, "not_judged"), (3, "too_few")])
def test_what_only_the_map_was_tested_of_is_not_judged(images: int, code: str) -> None:
    """The test of an artefact accuses nobody, so passing it says nothing of the class."""
    every = [Evidence("artefact", "tested", None, "No place."), Evidence("place", "not tested", None, "Too few.")]
    verdict = Verdict.of(0, "cat", every, images)
    assert (verdict.code, verdict.level, verdict.accuses) == (code, "not tested", False)
    passed = Verdict.of(0, "cat", [*every, Evidence("sign", "tested", None, "No sign.")], images)
    assert (passed.code, passed.level) == ("no_shortcut", "tested")
