"""How many classes an epoch judges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fe_gradcam import CamWarning, UnknownNameError
from fe_gradcam.training import source
from fe_gradcam.training.options import Options
from fe_gradcam.training.products.verdicts import _largest_gap, _Stream
from fe_gradcam.training.selection import selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from fe_gradcam.verdicts.verdict import Evidence, Level, Verdict
from tests.verdicts.coloured import BLUE, BY_COLOUR, GREEN, GREEN_BY_MARK, RED, network, scenes

CLASSES = [RED] * 12 + [GREEN] * 12 + [BLUE] * 12


ALL = [RED, GREEN, BLUE]
LEVELS: list[tuple[Level, float]] = [("not tested", 0.9), ("tested", 0.1), ("tested", 0.2)]


@pytest.mark.parametrize(
    ("mode", "wanted", "accused"), [("eval", [[RED], [RED, GREEN]], []), ("test", [ALL, ALL], [GREEN])]
)
def test_an_epoch_asks_no_more_than_it_had_and_a_test_judges_all_classes(
    mode: str, wanted: list[list[int]], accused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ENOUGH_ASKED", 0)
    images, masks = scenes(CLASSES, (GREEN,))
    chosen = selection_of("first", 3, None, 0, ())
    options = Options({"model", "labels", "masks"}, selection=chosen, atlas=36, on_error="raise")
    watcher = Watcher(ModelSource(network(GREEN_BY_MARK), options), options)
    watcher.begin()
    for number, classes in enumerate(wanted, 1):
        watcher.begin_epoch(number, mode)
        watcher.see(torch.from_numpy(images), np.array(CLASSES), masks=masks)
        epoch = watcher.end_epoch()
        assert [one.class_id for one in epoch["gradcam_verdicts"]] == classes
        assert [one.class_id for one in epoch["gradcam_alarms"]] == accused
        assert ("later epochs" in " ".join(epoch.messages)) == (mode == "eval" and number == 1)


def test_a_test_that_is_ignored_accuses_nobody() -> None:
    images, _ = scenes(CLASSES, (GREEN,))
    codes = {}
    for ignore in ((), "place", ["place", "sign", "nothing_local"]):
        chosen = selection_of("first", 3, None, 0, ())
        asked = {"n_samples": 36, "ignore": ignore}
        options = Options({"model", "labels"}, selection=chosen, atlas=asked, on_error="raise")
        watcher = Watcher(ModelSource(network(GREEN_BY_MARK), options), options)
        watcher.begin()
        watcher.begin_epoch(1, "test")
        watcher.see(torch.from_numpy(images), np.array(CLASSES))
        verdicts = {one.class_id: one for one in watcher.end_epoch()["gradcam_verdicts"]}
        codes[str(ignore)] = verdicts[GREEN].code
        assert not {"place"} & {its.test for its in verdicts[GREEN].evidence} or not ignore
    assert codes["()"] == "place" and codes["place"] != "place"
    assert codes["['place', 'sign', 'nothing_local']"] in ("no_shortcut", "not_judged")


def test_a_class_that_no_image_is_told_to_be_of_any_more_loses_its_verdict() -> None:
    images, _ = scenes(CLASSES)
    options = Options({"model", "labels"}, selection=selection_of("first", 3, None, 0, ()), atlas=36, on_error="raise")
    watcher = Watcher(ModelSource(network(BY_COLOUR), options), options)
    watcher.begin()
    for number, rows in enumerate((slice(None), slice(12, None)), 1):
        watcher.begin_epoch(number, "eval")
        watcher.see(torch.from_numpy(images[rows]), np.array(CLASSES[rows]))
        found = [one.class_id for one in watcher.end_epoch()["gradcam_verdicts"]]
        assert found == ([RED, GREEN, BLUE] if number == 1 else [GREEN, BLUE])


def test_classes_that_were_judged_longest_ago_are_due_first() -> None:
    stream = _Stream()
    stream.put([Verdict.of(one, "", [], 12, epoch) for one, epoch in ((RED, 3), (GREEN, 1), (BLUE, 2))])
    assert stream.due() == [GREEN, BLUE, RED]


def test_the_largest_gap_is_of_what_was_tested() -> None:
    evidence = [Evidence("surroundings", level, None, "", {"gap": gap}) for level, gap in LEVELS]
    verdicts = [Verdict.of(at, "", [one], 12) for at, one in enumerate(evidence)]
    assert (_largest_gap(verdicts), _largest_gap(verdicts[:1]), _largest_gap([])) == (0.2, None, None)


def test_a_code_that_is_none_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"atlas\['ignore'\]='palce' is no code; did you mean 'place'"):
        Options({"model"}, atlas={"ignore": ["palce"]})


def test_classes_that_no_image_is_told_to_be_of_are_not_left_for_later() -> None:
    images, masks = scenes(CLASSES)
    images[:12] = np.nan
    options = Options({"model", "labels", "masks"}, selection=selection_of("first", 3, None, 0, ()), atlas=36)
    watcher = Watcher(ModelSource(network(BY_COLOUR), options), options)
    watcher.begin()
    watcher.begin_epoch(1, "eval")
    with pytest.warns(CamWarning, match="NaN"):
        watcher.see(torch.from_numpy(images), np.array(CLASSES), masks=masks)
        epoch = watcher.end_epoch()
    assert RED not in [one.class_id for one in epoch["gradcam_verdicts"]]
    assert "later epochs" not in " ".join(epoch.messages)
