"""What a page holds: images once, epochs, verdicts, experiments."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.reporting.content import Page, PageDataset
from fe_gradcam.reporting.entries import Shown, of_true_class, verdict_entry
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.verdict import HEADLINES, Evidence, Verdict
from tests.heat import heatmap_of
from tests.reporting.pages import heat_in, maps_of, part, picture_in, verdict


def test_an_epoch_says_what_was_inferred_and_what_the_true_class_had() -> None:
    dataset = PageDataset()
    dataset.add(part(), 4, Shown(), metrics={"deletion": np.array([0.25, np.nan, 1], np.float32)})
    (epoch,) = dataset.to_dict("night", {})["epochs"]
    assert (epoch["epoch"], epoch["images"], epoch["predictions"]) == (4, None, [1, 1, 1])
    assert epoch["confidences"] == pytest.approx([0.7] * 3)
    assert epoch["true"] == [pytest.approx(0.2), pytest.approx(0.7), None]
    assert epoch["metrics"] == {"deletion": [0.25, None, 1.0]}
    inferred, of_label = epoch["columns"]
    assert (inferred["method"], inferred["target"], inferred["layer"]) == ("grad_cam", "pred", "conv3")
    assert (inferred["class_ids"], inferred["shown"]) == ([1, 1, 1], None)
    assert (of_label["class_ids"], of_label["shown"]) == ([2, 1, -1], [True, False, False])
    assert [heat_in(one["heat"]).magnitudes.shape for one in (inferred, of_label)] == [(3, 4, 4), (1, 4, 4)]


def test_an_answer_that_is_nan_is_no_class() -> None:
    dataset = PageDataset()
    probabilities = np.array([[0.1, 0.7, 0.2], [np.nan] * 3, [np.nan] * 3], np.float32)
    dataset.add(replace(part(), probabilities=probabilities), 1, Shown())
    (epoch,) = dataset.to_dict("night", {})["epochs"]
    assert epoch["predictions"] == [1, None, None]
    assert epoch["confidences"] == [pytest.approx(0.7), None, None]


def test_a_probability_that_only_a_column_knows_is_taken_from_there() -> None:
    values = np.zeros((2, 4, 4), np.float32)
    columns = [Column("grad_cam", "pred", heatmap_of(values, 1)), Column("grad_cam", "0", heatmap_of(values, 0))]
    columns[1].heatmap.confidences[:] = [0.2, 0.3]
    table = np.array([[0, 0.7], [0, 0.6]], np.float32)  # as `draw` makes it: of the inferred class alone
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    assert of_true_class(Explained(pictures, columns, table, np.array([0, 0]), None)) == pytest.approx([0.2, 0.3])
    assert np.isnan(of_true_class(Explained(pictures, columns[:1], table, np.array([0, 0]), None))).all()


def test_the_same_images_are_there_once_whatever_the_epochs() -> None:
    dataset = PageDataset()
    for epoch in (1, 2, 3):
        dataset.add(part(seed=epoch), epoch, Shown())
    said = dataset.to_dict("", {})
    assert [(one["id"], one["label"]) for one in said["images"]] == [("p0", 2), ("p1", 1), ("p2", None)]
    assert [picture_in(one["src"])[0, 0, 0] for one in said["images"]] == [10, 11, 12]
    assert [one["images"] for one in said["epochs"]] == [None] * 3
    heats = [one["columns"][0]["heat"]["data"] for one in said["epochs"]]
    assert len(set(heats)) == 3


def test_images_that_the_last_epoch_lacks_have_no_picture_and_come_again_with_one() -> None:
    dataset = PageDataset()
    dataset.add(part(3), 1, Shown())
    dataset.add(part(3).rows(np.array([2, 0])), 2, Shown())
    said = dataset.to_dict("", {})
    assert [one["images"] for one in said["epochs"]] == [None, [2, 0]]
    assert [one["src"] is None for one in said["images"]] == [False, True, False]
    dataset.add(part(4), 3, Shown())
    said = dataset.to_dict("", {})
    assert [one["images"] for one in said["epochs"]] == [[0, 1, 2], [2, 0], None]
    assert not any(one["src"] is None for one in said["images"])


def test_an_image_that_is_there_twice_is_two_images() -> None:
    twice = part(3, ids=False).rows(np.array([0, 0, 1]))
    dataset = PageDataset()
    for epoch in (1, 2):
        dataset.add(twice, epoch, Shown())
    assert len(dataset.images) == 3 and dataset.epochs[1]["images"] == [0, 1, 2]


def test_an_epoch_that_is_made_again_takes_the_place_of_the_old_ones() -> None:
    dataset = PageDataset()
    for epoch in (1, 2, 3, 2):
        dataset.add(part(), epoch, Shown())
    assert [one["epoch"] for one in dataset.epochs] == [1, 2]


def test_of_several_true_classes_the_page_has_the_first_and_the_others() -> None:
    dataset, several = PageDataset(), part()
    table = np.array([[True, True, False], [False, True, False], [False, False, False]])[: len(several)]
    several = replace(several, labels=np.array([0, 1, -1])[: len(several)], several=table)
    dataset.add(several, 1, Shown())
    assert [one["also"] for one in dataset.images] == [[1], [], []][: len(several)]
    dataset.add(part(), 2, Shown())
    assert all("also" not in one for one in dataset.images)


def test_images_of_another_size_begin_anew() -> None:
    dataset = PageDataset()
    dataset.add(part(), 1, Shown())
    larger = part()
    larger = Explained(larger.pictures, [Column("grad_cam", "pred", heatmap_of(np.zeros((3, 6, 6), np.float32)))],
                       None, None, None)  # fmt: skip
    dataset.add(larger, 2, Shown())
    assert dataset.size == (6, 6) and [one["epoch"] for one in dataset.epochs] == [2]


def test_without_pictures_nothing_shows_an_image_and_without_ids_nothing_names_one() -> None:
    dataset = PageDataset()
    dataset.add(part(ids=False), 1, Shown(pictures=False), verdicts=[verdict()])
    text = json.dumps(Page("title", datasets={"": dataset}).to_dict())
    assert "data:image" not in text and '"p0"' not in text
    dataset.add(part(), 2, Shown(), verdicts=[verdict()])
    text = json.dumps(Page("title", datasets={"": dataset}).to_dict())
    assert "data:image" in text and '"p0"' in text


def test_what_a_resumed_training_must_not_show_is_taken_from_earlier_epochs_too() -> None:
    for shown, ids in ((Shown(pictures=False), True), (Shown(), False)):
        dataset = PageDataset()
        dataset.add(part(), 1, Shown())
        again = PageDataset(**dataset.state())
        again.add(part(2, ids=ids), 2, shown)
        text = json.dumps(Page("title", datasets={"": again}).to_dict())
        assert ("data:image" in text, '"p0"' in text, '"p2"' in text) == (shown.pictures, ids, ids)
        assert len(again.images) == (3 if ids else 5)


@pytest.mark.parametrize(
    ("code", "level", "group"),
    [("sign", "suspected", "wrong"), ("artefact", "tested", "none"), (None, "tested", "passed"),
     (None, "not tested", "none")],
)  # fmt: skip
def test_verdicts_are_told_by_the_wrong_thing_or_passed_or_neither(code: Any, level: Any, group: str) -> None:
    found = Verdict.of(0, "cat", [Evidence("sign", level, code, "Seen.")], 9)
    assert verdict_entry(found, Shown())["group"] == group


def test_a_verdict_has_its_evidence_with_experiments_before_and_after() -> None:
    said = verdict_entry(verdict(), Shown())
    assert (said["code"], said["level"], said["accuses"], said["name"], said["epoch"]) == (
        "place", "tested", True, "dog", 1
    )  # fmt: skip
    assert (said["headline"], said["group"]) == (HEADLINES["place"], "wrong")
    place, sign = said["evidence"]
    assert (place["test"], place["figures"]) == ("place", {"plain": 0.9, "gap": None})
    assert [len(one["trials"]) for one in (place, sign)] == [3, 2]
    first = place["trials"][0]
    assert (first["done"], first["before"], first["after"]) == ("corner covered", 0.9, 0.2)
    assert first["box"] == [1, 2, 5, 2]
    assert picture_in(first["given"])[0, :, 0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert (picture_in(first["changed"]) == 26).all()  # a tenth of 255


def test_only_the_last_epoch_says_at_length_and_each_picture_of_an_experiment_is_there_once() -> None:
    dataset = PageDataset()
    for epoch in (1, 2):
        dataset.add(part(), epoch, Shown(), verdicts=[verdict(1, epoch), verdict(2, epoch)])
    said = Page("title", datasets={"": dataset}).to_dict()
    first, last = said["datasets"][0]["epochs"]
    assert [(one["evidence"], one["code"]) for one in first["verdicts"]] == [([], "place")] * 2
    trials = [trial for one in last["verdicts"] for its in one["evidence"] for trial in its["trials"]]
    assert len(trials) == 10 and {one["given"] for one in trials} == {0}
    assert len(said["pictures"]) == 6  # one as given, five as changed
    assert {one["changed"] for one in trials} == {1, 2, 3, 4, 5}


def test_the_atlas_has_the_mean_heat_of_each_class() -> None:
    heat = np.zeros((4, 4, 4), np.float32)
    heat[:2, 0, 0], heat[2:, 3, 3] = 2, 5
    heatmap = heatmap_of(np.kron(heat, np.ones((2, 2), np.float32)), 0, raw=heat)
    heatmap.class_ids[:] = [7, 7, 7, 3]
    dataset = PageDataset()
    dataset.add(part(), 1, Shown(), atlas=Atlas.of(heatmap, np.zeros((4, 8, 8, 3), np.uint8)))
    atlas = dataset.epochs[0]["atlas"]
    assert [(one["class_id"], one["images"]) for one in atlas["classes"]] == [(3, 1), (7, 3)]
    assert atlas["classes"][0]["fixed_place"] is None
    maps = maps_of(heat_in(atlas["heat"]))
    assert maps[1, 0, 0] == pytest.approx(2 * maps[1, 3, 3], rel=0.01)  # two images of three
    assert maps[0].argmax() == 15


def test_a_page_that_is_thinned_loses_its_oldest_epochs_but_never_the_last_of_a_dataset() -> None:
    day, night = PageDataset(), PageDataset()
    for epoch in (1, 2, 3, 4):
        day.add(part(), epoch, Shown())
    night.add(part(), 2, Shown())
    page = Page("title", datasets={"day": day, "night": night})
    one = len(json.dumps(day.epochs[0]))
    assert page.thin(one + 1)
    assert [its["epoch"] for its in day.epochs] == [3, 4] and [its["epoch"] for its in night.epochs] == [2]
    assert "Epochs 1 to 2 were left out" in page.to_dict()["notes"][0]
    assert page.thin(9 * one) and [its["epoch"] for its in day.epochs] == [4]
    assert "Epochs 1 to 3 were left out" in page.to_dict()["notes"][0]
    assert not page.thin(one)


def test_a_page_has_every_code_and_the_colormaps_to_choose_from() -> None:
    said = Page("title", names={10: "ten", 2: "two"}).to_dict()
    assert set(said["codes"]) == set(HEADLINES) and next(iter(said["codes"])) == "place"
    assert said["codes"]["place"]["page"] == "docs/verdicts.md#place"
    assert {"turbo", "cividis", "gray"} <= set(said["colormaps"]) and said["colormap"] == "turbo"
    assert list(said["class_names"].items()) == [("2", "two"), ("10", "ten")]
