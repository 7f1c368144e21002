"""Values that the host logs behind the trace, and those of its training, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastestimator.trace.metric import Accuracy
from fastestimator.trace.trace import Trace

from fe_gradcam import ArgumentError, GradCAM
from fe_gradcam.integrations.fastestimator.logs import HostLogs
from tests.reporting.pages import page_in
from tests.trainings import FRAMEWORKS, build, dataset, estimator, gradcam, keyed_gradcam, keyed_ops


class Behind(Trace):
    """Logs a value that it makes of one of ours, so it runs behind us."""

    def __init__(self) -> None:
        super().__init__(inputs="gradcam_results", outputs="behind", mode=["eval", "test"])

    def on_epoch_end(self, data: Any) -> None:
        data.write_with_log("behind", len(data["gradcam_results"]) + self.system.epoch_idx / 10)


def points_in(path: Path) -> dict[str, list[list[float]]]:
    return {one["key"]: one["points"] for one in page_in(path)["curves"]}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_training_has_all_its_values_on_the_page_at_the_end(framework: str, tmp_path: Path) -> None:
    """The host keeps a history only if the training has a name."""
    model = build(framework)
    trace = gradcam(model, preds="y_pred", n_samples=3, save_dir=tmp_path, report=True, metrics="average_drop")
    traces = [Accuracy("y", "y_pred"), trace, Behind()]
    fitting = estimator(framework, model, traces, epochs=2, test_data=dataset(framework, seed=2))
    summary = fitting.fit("named")
    points = points_in(tmp_path / "gradcam_eval_report.html")
    assert points["behind"] == [[1, 3.1], [2, 3.2]]
    assert [epoch for epoch, _ in points["accuracy"]] == [1, 2]
    assert points["accuracy"][1][1] == pytest.approx(float(summary.history["eval"]["accuracy"][6]), rel=1e-4)
    assert [epoch for epoch, _ in points["gradcam_average_drop"]] == [1, 2]
    assert "epoch" not in points and not [key for key in points if "sec" in key]
    fitting.test()
    assert points_in(tmp_path / "gradcam_test_report.html")["behind"] == [[2, 3.2]]


def test_the_page_is_there_after_each_epoch_and_values_from_behind_come_one_later(tmp_path: Path) -> None:
    found = []

    class Reads(Trace):
        def on_epoch_end(self, data: Any) -> None:
            found.append(points_in(tmp_path / "gradcam_eval_report.html").get("behind"))

    model = build("torch")
    trace = gradcam(model, n_samples=3, save_dir=tmp_path, report=True)
    estimator("torch", model, [trace, Behind(), Reads(inputs=["behind"], mode="eval")], epochs=3).fit()
    assert found == [None, [[1, 3.1]], [[1, 3.1], [2, 3.2]]]
    assert points_in(tmp_path / "gradcam_eval_report.html")["behind"] == [[1, 3.1], [2, 3.2], [3, 3.3]]


def test_keys_of_the_batch_make_a_page_too_with_the_pictures_of_the_last_epoch(tmp_path: Path) -> None:
    model = build("torch")
    trace = keyed_gradcam(labels="y", n_samples=3, save_dir=tmp_path, report=True)
    estimator("torch", model, [trace], ops=keyed_ops(model), epochs=2).fit()
    said = page_in(tmp_path / "gradcam_eval_report.html")
    assert [one["epoch"] for one in said["datasets"][0]["epochs"]] == [1, 2] and not trace.watcher.options.track
    assert said["asked"]["weights_sha256"] is None


def test_a_page_needs_a_folder() -> None:
    with pytest.raises(ArgumentError, match="Pass save_dir="):
        GradCAM("x", model=build("torch"), report=True)


def test_what_the_host_knows_by_hand() -> None:
    logs = HostLogs()
    history: Any = {
        "train": {"epoch": {6: 1, 12: 2}, "ce": {1: 9.0, 6: 0.5, 12: 0.25}},
        "eval": {"epoch": {6: 1}, "accuracy": {6: 0.75}},
    }
    assert logs.past("eval", {}) == {} and logs.modes == []
    assert logs.past("eval", history) == {"ce (train)": {1: 0.5, 2: 0.25}, "accuracy": {1: 0.75}}
    assert logs.past("train", history) == {"ce": {1: 0.5, 2: 0.25}}
    log = {"accuracy": 0.875}
    logs.note("eval", 2, log)
    log["late"] = 3.0
    assert logs.modes == ["eval"]
    assert logs.past("eval", {}) == {"accuracy": {2: 0.875}, "late": {2: 3.0}}
    assert logs.past("eval", history)["accuracy"] == {1: 0.75, 2: 0.875}
