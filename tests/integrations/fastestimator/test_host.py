"""GradCAM beside the host's own tools, in trainings on real digits: what each of them gets, keeps and shows."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import fastestimator as fe
import numpy as np
import pandas as pd
import pytest
from fastestimator.schedule import EpochScheduler, RepeatScheduler
from fastestimator.summary.logs.log_parse import parse_log_dir, parse_log_file
from fastestimator.trace.adapt import EarlyStopping
from fastestimator.trace.io import BestModelSaver, CSVLogger, ImageSaver, ImageViewer, RestoreWizard, TensorBoard
from fastestimator.trace.metric import Accuracy
from fastestimator.trace.trace import Trace
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam import explain
from tests.trainings import (
    FRAMEWORKS,
    ROOT,
    Catch,
    KilledError,
    Killer,
    as_input,
    canvases,
    digit_net,
    digits,
    estimator,
    gradcam,
    heats,
    in_another_process,
    ops_of,
    read_png,
)

pytestmark = pytest.mark.slow

DATASETS = {"train": slice(0, 160), "day": slice(160, 200), "night": slice(200, 224), "test": slice(224, 248)}
"""Which digit canvases are whose."""


def images_of(framework: str, name: str, count: int | None = None) -> NDArray[np.float32]:
    return as_input(framework, canvases()[DATASETS[name]].images[:count])


def net(framework: str, name: str = "digits") -> Any:
    return fe.build(lambda: digit_net(framework, "max"), optimizer_fn="adam", model_name=name)


def training(framework: str, model: Any, traces: list[Any], *, several: bool = False, **how: Any) -> Any:
    data = {name: digits(framework, rows) for name, rows in DATASETS.items()}
    eval_data = {name: data[name] for name in ("day", "night")} if several else data["day"]
    given = {"epochs": 2, "train_data": data["train"], "eval_data": eval_data, "test_data": data["test"], **how}
    return estimator(framework, model, traces, batch_size=40, **given)


# --- one training with many tools --------------------------------------------------------------------


@dataclass
class Trained:
    """A training of at most five epochs that EarlyStopping ends after two, and a test after it."""

    framework: str
    folder: Path
    model: Any
    catch: Catch
    summary: Any
    csv: str

    def board(self, mode: str) -> Any:
        """What TensorBoard has of the mode."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folders = (self.folder / "board").glob(f"*/{mode}")
        boards = [EventAccumulator(str(folder), size_guidance={"images": 0}).Reload() for folder in folders]
        (board,) = (each for each in boards if each.Tags()["images"])
        return board

    @property
    def parsed(self) -> Any:
        """What the host reads from its own log."""
        return parse_log_file(str(self.folder / "logs" / "run.txt"), ".txt").history

    def page(self, **how: Any) -> str:
        """The host's drawing of its log."""
        path = self.folder / "curves.html"
        parse_log_dir(str(self.folder / "logs"), save=True, save_path=str(path), **how)
        return path.read_text()


@pytest.fixture(scope="module", params=FRAMEWORKS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    framework = request.param
    folder = tmp_path_factory.mktemp(framework)
    model, catch = net(framework), Catch()
    traces = [
        Accuracy(true_key="y", pred_key="y_pred"),
        gradcam(model, outputs="first", layer="0", n_samples=3, save_dir=folder / "own"),
        gradcam(model, outputs="second", layer="2", n_samples=2, ds_id="!night"),
        gradcam(model, outputs="scored", n_samples=2, metrics="deletion"),
        BestModelSaver(model, str(folder / "best"), metric="scored_deletion"),
        EarlyStopping("scored_deletion|day", patience=9),
        TensorBoard(str(folder / "board"), update_freq="epoch", write_images=["first", "second"], write_graph=False),
        CSVLogger(str(folder / "log.csv")),
        BestModelSaver(model, str(folder / "best"), metric="accuracy", save_best_mode="max"),
        EarlyStopping("accuracy", compare="max", baseline=2.0, patience=2),
        ImageSaver(["first", "second"], save_dir=str(folder / "saved")),
        ImageSaver(["first|day", "first|night"], save_dir=str(folder / "saved"), mode="eval"),
        catch,
    ]
    fitting = training(framework, model, traces, epochs=5, several=True)
    (folder / "logs").mkdir()
    with (folder / "logs" / "run.txt").open("w") as log, contextlib.redirect_stdout(log):
        summary = fitting.fit("digits")
        csv = (folder / "log.csv").read_text()
        fitting.test()
    yield Trained(framework, folder, model, catch, summary, csv)


def test_early_stopping_leaves_the_pictures_of_its_last_epoch(trained: Trained) -> None:
    assert trained.catch.where("ce") == [("eval", 1), ("eval", 2), ("test", 2)]
    assert trained.catch.where("first") == trained.catch.where("second") == trained.catch.where("ce")


def test_two_traces_explain_two_layers_of_one_model(trained: Trained) -> None:
    found = trained.catch.at("eval", 2)
    images = images_of(trained.framework, "day", 3)
    first, second = found["first_results|day"], found["second_results"]
    assert {result["ds_id"] for result in second} == {"day"}
    assert_allclose(heats(first), explain(trained.model, images, layer="0").values, atol=1e-4)
    assert_allclose(heats(second), explain(trained.model, images[:2], layer="2").values, atol=1e-4)
    assert np.abs(heats(first)[:2] - heats(second)).max() > 0.1


def test_tensorboard_has_the_pictures_and_scalars_of_every_epoch(trained: Trained) -> None:
    for mode, steps in (("eval", {1: 4, 2: 8}), ("test", {2: 8})):
        board = trained.board(mode)
        assert sorted(board.Tags()["images"]) == ["first", "second"]
        for key in ("first", "second"):
            pictures = {picture.step: picture.encoded_image_string for picture in board.Images(key)}
            assert list(pictures) == list(steps.values())
            for epoch, step in steps.items():
                decoded = cv2.imdecode(np.frombuffer(pictures[step], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
                assert np.array_equal(decoded, trained.catch.at(mode, epoch)[key].raster)
        values = [trained.catch.at(mode, epoch)["accuracy"] for epoch in steps]
        assert_allclose([scalar.value for scalar in board.Scalars("accuracy")], values, rtol=1e-6)
        assert not [tag for tag in board.Tags()["scalars"] if tag.startswith(("first", "second"))]


def test_image_saver_writes_the_picture_of_each_dataset_and_of_all(trained: Trained) -> None:
    written = {path.name for path in (trained.folder / "saved").iterdir()}
    expected = {
        f"{key}_{found['mode']}_epoch_{found['epoch']}.png": found[key].raster
        for found in trained.catch.caught
        for key in ("first", "second", "first|day", "first|night")
        if key in found
    }
    assert written == set(expected)
    assert len(written) == 2 * 4 + 2
    for name, raster in expected.items():
        assert np.array_equal(read_png(trained.folder / "saved" / name), raster)
    own = {path.stem for path in (trained.folder / "own").glob("*.png")}
    assert own == {
        *(f"first_eval_epoch_{n:03d}_{name}" for n in (1, 2) for name in ("day", "night")),
        "first_test_epoch_002",
    }


def test_csv_logger_has_a_row_for_each_epoch_and_no_picture(trained: Trained) -> None:
    table = pd.read_csv(io.StringIO(trained.csv))
    assert list(zip(table["mode"], table["epoch"], table["step"], strict=True)) == [("eval", 1, 4), ("eval", 2, 8)]
    assert {"accuracy", "accuracy|day", "accuracy|night", "ce", "ce|day"} <= set(table.columns)
    assert not [column for column in table.columns if column.startswith(("first", "second"))]
    caught = [trained.catch.at("eval", epoch)["accuracy|day"] for epoch in (1, 2)]
    assert_allclose(table["accuracy|day"], caught, rtol=1e-6)


def test_best_model_saver_keeps_the_model_that_the_heatmaps_are_of(trained: Trained) -> None:
    scores = {epoch: trained.catch.at("eval", epoch)["accuracy"] for epoch in (1, 2)}
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    (weights,) = (trained.folder / "best").glob("digits_best_accuracy.*")
    again = net(trained.framework)
    fe.backend.load_model(again, str(weights))
    expected = explain(again, images_of(trained.framework, "day", 3), layer="0").values
    assert_allclose(heats(trained.catch.at("eval", best)["first_results|day"]), expected, atol=1e-4)


def test_log_and_history_hold_the_scalars_alone(trained: Trained) -> None:
    for history in (trained.parsed, trained.summary.history):
        assert list(history["eval"]["accuracy|night"]) == [4, 8]
        keys = {key for metrics in history.values() for key in metrics}
        assert not [key for key in keys if key.startswith(("first", "second"))]
    assert not [key for logged in trained.catch.logged for key in logged if key.startswith(("first", "second"))]
    assert "accuracy" in trained.page()


def test_a_metric_of_the_heatmaps_is_logged_for_each_dataset_and_can_choose_the_model(trained: Trained) -> None:
    keys = ["scored_deletion", "scored_deletion|day", "scored_deletion|night"]
    values = {key: [float(trained.catch.at("eval", epoch)[key]) for epoch in (1, 2)] for key in keys}
    assert np.isfinite(list(values.values())).all()
    assert_allclose(values[keys[0]], np.mean([values[keys[1]], values[keys[2]]], axis=0), atol=1e-4)  # rounded to 4
    table, parsed, board = pd.read_csv(io.StringIO(trained.csv)), trained.parsed, trained.board("eval")
    for key in keys:
        assert_allclose(table[key], values[key], rtol=1e-5)
        assert_allclose([scalar.value for scalar in board.Scalars(key)], values[key], rtol=1e-5)
        for history in (parsed, trained.summary.history):
            assert_allclose([float(history["eval"][key][step]) for step in (4, 8)], values[key], rtol=1e-5)
    assert trained.catch.at("eval", 2)["min_scored_deletion"] == min(values[keys[0]])
    assert len(list((trained.folder / "best").glob("digits_best_scored_deletion.*"))) == 1
    assert "scored_deletion" in trained.page(include_metrics=set(keys))


# --- modes and schedulers ----------------------------------------------------------------------------

MODES: list[tuple[Any, set[str]]] = [
    ("train", {"train"}),
    ("eval", {"eval"}),
    ("test", {"test"}),
    ("infer", set()),
    ("!infer", {"train", "eval", "test"}),
    ("!train", {"eval", "test"}),
    (["train", "test"], {"train", "test"}),
    (("!train", "!infer"), {"eval", "test"}),
    (None, {"train", "eval", "test"}),
]


def test_every_form_of_mode_runs_where_it_says(framework: str) -> None:
    model, catch = net(framework), Catch()
    traces = [gradcam(model, outputs=f"form{at}", mode=mode, n_samples=1) for at, (mode, _) in enumerate(MODES)]
    fitting = training(framework, model, [*traces, catch], epochs=1)
    fitting.fit(warmup=False)
    fitting.test()
    for at, (mode, expected) in enumerate(MODES):
        assert {ran for ran, _ in catch.where(f"form{at}")} == expected, mode
        for caught in catch.caught:
            assert {result["mode"] for result in caught.get(f"form{at}_results", [])} <= {caught["mode"]}


def test_schedulers_swap_traces_models_and_layers(framework: str, tmp_path: Path) -> None:
    """The first model is trained in the first epoch alone, the second in the second alone."""
    one, two = net(framework, "one"), net(framework, "two")
    start = explain(two, images_of(framework, "day", 2), layer="2").values
    every = zip(ops_of(one), ops_of(two), strict=True)
    forward, loss, update = (EpochScheduler({1: first, 2: second}) for first, second in every)
    catch = Catch()
    turns = [gradcam(model, outputs="turns", layer=layer) for model, layer in ((one, "0"), (two, "2"))]
    traces = [
        RepeatScheduler(turns),
        EpochScheduler({1: None, 2: gradcam(two, outputs="late", layer="0")}),
        EpochScheduler({1: None, 2: ImageSaver("late", save_dir=str(tmp_path))}),
        gradcam(two, outputs="always", layer="2", n_samples=2),
        catch,
    ]
    training(framework, one, traces, ops=[forward, loss, update]).fit()
    images = images_of(framework, "day", 5)
    first, second = catch.at("eval", 1), catch.at("eval", 2)
    assert_allclose(heats(first["turns_results"]), explain(one, images, layer="0").values, atol=1e-4)
    assert_allclose(heats(second["turns_results"]), explain(two, images, layer="2").values, atol=1e-4)
    assert catch.where("late") == [("eval", 2)]
    assert np.array_equal(read_png(tmp_path / "late_eval_epoch_2.png"), second["late"].raster)
    assert_allclose(heats(first["always_results"]), start, atol=1e-4)
    assert_allclose(heats(second["always_results"]), heats(second["turns_results"])[:2], atol=1e-4)


# --- the notebook ------------------------------------------------------------------------------------


def shown_training(framework: str) -> bytes:
    """An epoch with a viewer; the picture that it should have shown."""
    model, catch = net(framework), Catch("eval")
    with contextlib.redirect_stdout(io.StringIO()):
        traces = [gradcam(model, n_samples=2), ImageViewer("gradcam"), catch]
        training(framework, model, traces, epochs=1).fit(warmup=False)
    return bytes(catch.caught[0]["gradcam"].prepare().to_image())


def test_image_viewer_shows_the_picture_in_a_real_notebook() -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [
        "import base64\nimport tests.conftest\nfrom tests.integrations.fastestimator.test_host import shown_training",
        *(f"print(base64.b64encode(shown_training({framework!r})).decode())" for framework in FRAMEWORKS),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells[1:]:
        pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        assert [picture.replace("\n", "") for picture in pictures] == [printed.strip().splitlines()[-1]]


# --- resuming ----------------------------------------------------------------------------------------


class Counter(Trace):
    """Counts epochs."""

    def __init__(self) -> None:
        super().__init__(mode=["train", "eval"])
        self.counted: dict[str, list[int]] = {}

    def on_epoch_end(self, data: Any) -> None:
        self.counted.setdefault(self.system.mode, []).append(self.system.epoch_idx)


def resumable_training(framework: str, folder: Path, last: int | None = None) -> dict[str, Any]:
    """Three epochs that are saved, or those before `last`; what is known of them at the end."""
    model, counter = net(framework), Counter()
    traces = [gradcam(model, save_dir=folder / "own"), Killer(last), counter, RestoreWizard(str(folder / "state"))]
    fitting = training(framework, model, traces, epochs=3)
    with contextlib.suppress(KilledError):
        fitting.fit("resumed", warmup=False)
    traces[0].watcher.folder.end()  # as with a process that is killed
    losses = fitting.system.summary.history["eval"]["ce"]
    return {
        "step": fitting.system.global_step,
        "counted": counter.counted,
        "losses": {str(step): float(loss) for step, loss in losses.items()},
    }


def resumable_trainings(folder: str, last: int | None = None) -> dict[str, Any]:
    return {framework: resumable_training(framework, Path(folder) / framework, last) for framework in FRAMEWORKS}


def test_a_training_that_was_killed_goes_on_in_another_process(tmp_path: Path) -> None:
    before = resumable_trainings(str(tmp_path), last=3)
    sizes = [path.stat().st_size for path in tmp_path.glob("*/state/*/objects.pkl")]
    assert len(sizes) == 2
    assert max(sizes) < 20_000
    pictures = {path: read_png(path) for path in tmp_path.glob("*/own/*_002.png")}
    after = in_another_process(resumable_trainings, tmp_path)
    for framework in FRAMEWORKS:
        assert (before[framework]["step"], after[framework]["step"]) == (8, 12)
        assert after[framework]["counted"] == {"train": [1, 2, 3], "eval": [1, 2, 3]}
        losses = after[framework]["losses"]
        assert list(losses) == ["4", "8", "12"]
        for step, loss in before[framework]["losses"].items():  # the second is taken again, with the restored weights
            assert losses[step] == pytest.approx(loss, rel=1e-4)
        assert losses["12"] != losses["8"]
        written = sorted(path.name for path in (tmp_path / framework / "own").glob("*.png"))
        assert written == [f"gradcam_eval_epoch_{epoch:03d}.png" for epoch in (1, 2, 3)]
    assert len(pictures) == 2
    for path, picture in pictures.items():
        assert np.abs(read_png(path).astype(int) - picture).max() <= 2


# --- the traceability report -------------------------------------------------------------------------


def reported(framework: str, traces: Any) -> Any:
    model = net(framework)
    more = {
        "label_mapping": {f"digit {n}": n for n in range(10)},
        "targets": ["pred", "digit 3", lambda output: output[:, 0]],
        "methods": ["grad_cam", ("ss_cam", {"samples": 1})],
        "mean": np.zeros(1),
        "std": 1.0,
    }
    return training(framework, model, [gradcam(model, n_samples=1, **more), *traces], epochs=1)


def test_the_tables_of_a_report_say_how_the_trace_was_made(framework: str) -> None:
    from pylatex import Document

    # The host keeps its tables by id(), which an object that is gone may have had: now and then one of them is lost.
    page = ""
    for _ in range(3):
        document = Document()
        for table in reported(framework, []).fe_summary():
            table.render_table(document)
        page += document.dumps()
    for said in (
        r"fe\_gradcam.integrations.fastestimator.trace.GradCAM",
        r"\textit{label\_mapping}",
        "`digit 3'",
        r"`ss\_cam'",
        "output{[}:, 0{]}",
    ):
        assert said in page


@pytest.mark.skipif(shutil.which("dot") is None, reason="the host's report needs graphviz")
def test_the_report_is_written(framework: str, tmp_path: Path) -> None:
    from fastestimator.trace.io import Traceability

    reported(framework, [Traceability(str(tmp_path / "report"))]).fit("digits")
    written = (tmp_path / "report" / "digits.tex").read_text()
    assert "GradCAM" in written
    assert (tmp_path / "report" / "resources" / "digits_logs.png").exists()


def test_a_dataset_s_own_key_and_metric_can_be_read_without_a_mode_and_in_every_epoch(tmp_path: Path) -> None:
    model, catch = net("torch"), Catch()
    traces = [
        gradcam(model, metrics="deletion", frequency=2),
        TensorBoard(str(tmp_path / "board"), update_freq="epoch", write_images=["gradcam|day"], write_graph=False),
        BestModelSaver(model, str(tmp_path), metric="gradcam_deletion|day"),
        catch,
    ]
    training("torch", model, traces, several=True).fit()
    assert catch.where("gradcam|day") == [("eval", 2)]
    assert np.isnan(catch.at("eval", 1)["gradcam_deletion|day"])
    assert np.isfinite(catch.at("eval", 2)["gradcam_deletion|day"])
