"""Numbers over the epochs, from logs of any kind."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from fe_gradcam.reporting.content import PageDataset
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.training.pages import Curves, KeptPage, number_of
from tests.reporting.pages import part, verdict


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (np.array([[2.0]]), 2.0),
        (torch.tensor([0.25]), 0.25),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (tf.constant(4.0), 4.0),
        (SimpleNamespace(y_min=1, y=2, y_max=3), 2.0),
        ("7", None),
        (None, None),
        (np.arange(2), None),
        (torch.arange(2), None),
        (float("nan"), None),
        (len, None),
    ],
    ids=repr,
)
def test_what_counts_as_a_number(value: Any, number: float | None) -> None:
    assert number_of(value) == number


def test_an_epoch_that_comes_again_takes_off_those_behind_it() -> None:
    curves = Curves()
    for epoch in (1, 2, 3, 2):
        curves.of_epoch(epoch, {"accuracy": epoch / 10, **({"once": 1} if epoch == 3 else {})})
    assert curves.points == {"accuracy": {1: 0.1, 2: 0.2}}
    curves.of_epoch(2, {"loss": 3})
    assert curves.points == {"accuracy": {1: 0.1}, "loss": {2: 3.0}}


def test_later_values_are_added_and_said_to_be_new_once() -> None:
    curves = Curves({"accuracy": {1: 0.5}})
    assert curves.add({"accuracy": {1: 0.5, 2: 0.75}, "words": {1: "none"}})
    assert not curves.add({"accuracy": {2: 0.75}})
    assert curves.points == {"accuracy": {1: 0.5, 2: 0.75}}


def test_how_fast_the_machine_was_is_no_curve() -> None:
    """The same training would not give the same page."""
    curves = Curves()
    times = dict.fromkeys(["steps/sec", "steps/sec (train)", "epoch_time(sec)", "total_time(sec) (train)"], 1.0)
    curves.of_epoch(1, times | {"seconds": 3})
    assert list(curves.points) == ["seconds"]


def test_the_entries_of_a_page_have_those_of_the_loop_first() -> None:
    curves = Curves({"gradcam_drift|night": {2: 0.123456789}, "loss": {1: 3, 10: 2}, "accuracy": {1: 1}})
    found = curves.entries({"gradcam_drift"}, {"gradcam_drift": "0 where nothing moved"})
    assert [one["key"] for one in found] == ["accuracy", "loss", "gradcam_drift"]
    assert found[1] == {"key": "loss", "says": None, "dataset": "", "points": [[1, 3.0], [10, 2.0]]}
    assert found[2] == {
        "key": "gradcam_drift",
        "says": "0 where nothing moved",
        "dataset": "night",
        "points": [[2, 0.12346]],
    }


def test_a_kept_page_goes_through_plain_containers_which_later_epochs_do_not_change() -> None:
    kept = KeptPage(curves=Curves({"loss": {1: 0.5}}), left_out=[1, 2])
    kept.datasets["night"] = PageDataset()
    kept.datasets["night"].add(part(), 3, Shown(), verdicts=[verdict()])
    state = kept.state()
    before = json.dumps(state)
    again = KeptPage.of(pickle.loads(pickle.dumps(state)))
    assert json.dumps(again.state()) == before
    for one in (kept, again):
        one.datasets["night"].add(part(2), 4, Shown())
    assert json.dumps(state) == before
    assert json.dumps(again.state()) == json.dumps(kept.state()) != before
