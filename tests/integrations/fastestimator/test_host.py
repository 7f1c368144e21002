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
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.schedule import EpochScheduler, RepeatScheduler
from fastestimator.summary.logs.log_parse import parse_log_dir, parse_log_file
from fastestimator.trace.adapt import EarlyStopping
from fastestimator.trace.io import BestModelSaver, CSVLogger, ImageSaver, ImageViewer, RestoreWizard, TensorBoard
from fastestimator.trace.metric import Accuracy
from fastestimator.trace.trace import Trace
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam import GradCAM, explain
from tests.trainings import FRAMEWORKS, ROOT, KilledError, Killer, as_input, canvases, digit_net, in_another_process

pytestmark = pytest.mark.slow

DATASETS = {"train": slice(0, 160), "day": slice(160, 200), "night": slice(200, 224), "test": slice(224, 248)}
"""Which digit canvases are whose."""


def images_of(framework: str, name: str, count: int | None = None) -> NDArray[np.float32]:
    return as_input(framework, canvases()[DATASETS[name]].images[:count])


def digits(framework: str, name: str) -> NumpyDataset:
    return NumpyDataset({"x": images_of(framework, name), "y": canvases()[DATASETS[name]].labels})


def net(framework: str, name: str = "digits") -> Any:
    return fe.build(lambda: digit_net(framework, "max"), optimizer_fn="adam", model_name=name)


def gradcam(model: Any, outputs: str = "gradcam", **arguments: Any) -> GradCAM:
    return GradCAM("x", outputs=outputs, **{"model": model, "labels": "y", "on_error": "raise", **arguments})


def training(framework: str, ops: list[Any], traces: list[Any], *, epochs: int = 2, several: bool = False) -> Any:
    eval_data = {name: digits(framework, name) for name in ("day", "night")} if several else digits(framework, "day")
    pipeline = fe.Pipeline(
        train_data=digits(framework, "train"),
        eval_data=eval_data,
        test_data=digits(framework, "test"),
        batch_size=40,
        num_process=0,
    )
    return fe.Estimator(pipeline, fe.Network(ops), epochs=epochs, traces=traces, log_steps=0)


def ops_of(model: Any) -> list[Any]:
    return [ModelOp(model, "x", "p"), CrossEntropy(("p", "y"), "ce"), UpdateOp(model, "ce")]


class Catch(Trace):
    """Keeps what stands in the data at the end of each epoch, and what of it goes to the log."""

    def __init__(self) -> None:
        super().__init__(inputs="*")
        self.caught: dict[tuple[str, int], dict[str, Any]] = {}
        self.logged: set[str] = set()

    def on_epoch_end(self, data: Any) -> None:
        self.caught[self.system.mode, self.system.epoch_idx] = dict(data)
        self.logged |= set(data.read_logs())

    def where(self, key: str) -> list[tuple[str, int]]:
        return [at for at, found in self.caught.items() if key in found]


def heats(results: list[dict[str, Any]]) -> NDArray[np.float32]:
    """The heatmaps (N, H, W) of the class that each image was taken for."""
    return np.stack([r["heatmap_grad_cam"][f"heatmap_image_class_{r['prediction']}"] for r in results])


def read_png(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path))[..., ::-1])


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


@pytest.fixture(scope="module", params=FRAMEWORKS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    framework = request.param
    folder = tmp_path_factory.mktemp(framework)
    model, catch = net(framework), Catch()
    traces = [
        Accuracy(true_key="y", pred_key="p"),
        gradcam(model, "first", layer="0", n_samples=3, save_dir=folder / "own"),
        gradcam(model, "second", layer="2", n_samples=2, ds_id="!night"),
        gradcam(model, "scored", n_samples=2, metrics="deletion"),
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
    fitting = training(framework, ops_of(model), traces, epochs=5, several=True)
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
    found = trained.catch.caught["eval", 2]
    images = images_of(trained.framework, "day", 3)
    first, second = found["first_results|day"], found["second_results"]
    assert {result["ds_id"] for result in second} == {"day"}
    assert_allclose(heats(first), explain(trained.model, images, layer="0").values, atol=1e-4)
    assert_allclose(heats(second), explain(trained.model, images[:2], layer="2").values, atol=1e-4)
    assert np.abs(heats(first)[:2] - heats(second)).max() > 0.1


def test_tensorboard_has_the_pictures_and_scalars_of_every_epoch(trained: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for mode, steps in (("eval", {1: 4, 2: 8}), ("test", {2: 8})):
        folders = list((trained.folder / "board").glob(f"*/{mode}"))
        boards = [EventAccumulator(str(folder), size_guidance={"images": 0}).Reload() for folder in folders]
        (board,) = (each for each in boards if each.Tags()["images"])
        assert sorted(board.Tags()["images"]) == ["first", "second"]
        for key in ("first", "second"):
            pictures = {picture.step: picture.encoded_image_string for picture in board.Images(key)}
            assert list(pictures) == list(steps.values())
            for epoch, step in steps.items():
                decoded = cv2.imdecode(np.frombuffer(pictures[step], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
                assert np.array_equal(decoded, trained.catch.caught[mode, epoch][key].raster)
        values = [trained.catch.caught[mode, epoch]["accuracy"] for epoch in steps]
        assert_allclose([scalar.value for scalar in board.Scalars("accuracy")], values, rtol=1e-6)
        assert not [tag for tag in board.Tags()["scalars"] if tag.startswith(("first", "second"))]


def test_image_saver_writes_the_picture_of_each_dataset_and_of_all(trained: Trained) -> None:
    written = {path.name for path in (trained.folder / "saved").iterdir()}
    expected = {
        f"{key}_{mode}_epoch_{epoch}.png": grid.raster
        for (mode, epoch), found in trained.catch.caught.items()
        for key, grid in found.items()
        if key in ("first", "second", "first|day", "first|night")
    }
    assert written == set(expected)
    assert len(written) == 2 * 4 + 2
    for name, raster in expected.items():
        assert np.array_equal(read_png(trained.folder / "saved" / name), raster)
    own = {path.stem for path in (trained.folder / "own").glob("*.png")}
    assert own == {*(f"first_eval_epoch_{n}_{name}" for n in (1, 2) for name in ("day", "night")), "first_test_epoch_2"}


def test_csv_logger_has_a_row_for_each_epoch_and_no_picture(trained: Trained) -> None:
    table = pd.read_csv(io.StringIO(trained.csv))
    assert list(zip(table["mode"], table["epoch"], table["step"], strict=True)) == [("eval", 1, 4), ("eval", 2, 8)]
    assert {"accuracy", "accuracy|day", "accuracy|night", "ce", "ce|day"} <= set(table.columns)
    assert not [column for column in table.columns if column.startswith(("first", "second"))]
    for epoch, row in zip((1, 2), table.to_dict("records"), strict=True):
        assert_allclose(row["accuracy|day"], trained.catch.caught["eval", epoch]["accuracy|day"], rtol=1e-6)


def test_best_model_saver_keeps_the_model_that_the_heatmaps_are_of(trained: Trained) -> None:
    scores = {epoch: trained.catch.caught["eval", epoch]["accuracy"] for epoch in (1, 2)}
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    (weights,) = (trained.folder / "best").glob("digits_best_accuracy.*")
    again = net(trained.framework)
    fe.backend.load_model(again, str(weights))
    expected = explain(again, images_of(trained.framework, "day", 3), layer="0").values
    assert_allclose(heats(trained.catch.caught["eval", best]["first_results|day"]), expected, atol=1e-4)


def test_log_and_history_hold_the_scalars_alone(trained: Trained) -> None:
    parsed = parse_log_file(str(trained.folder / "logs" / "run.txt"), ".txt").history
    for history in (parsed, trained.summary.history):
        assert list(history["eval"]["accuracy|night"]) == [4, 8]
        keys = {key for metrics in history.values() for key in metrics}
        assert not [key for key in keys if key.startswith(("first", "second"))]
    assert not [key for key in trained.catch.logged if key.startswith(("first", "second"))]
    parse_log_dir(str(trained.folder / "logs"), save=True, save_path=str(trained.folder / "curves.html"))
    assert "accuracy" in (trained.folder / "curves.html").read_text()


def test_a_metric_of_the_heatmaps_is_logged_for_each_dataset_and_can_choose_the_model(trained: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keys = ["scored_deletion", "scored_deletion|day", "scored_deletion|night"]
    values = {key: [float(trained.catch.caught["eval", epoch][key]) for epoch in (1, 2)] for key in keys}
    assert np.isfinite(list(values.values())).all()
    assert_allclose(values[keys[0]], np.mean([values[keys[1]], values[keys[2]]], axis=0), atol=1e-4)  # rounded to 4
    table = pd.read_csv(io.StringIO(trained.csv))
    parsed = parse_log_file(str(trained.folder / "logs" / "run.txt"), ".txt").history
    boards = [EventAccumulator(str(folder)).Reload() for folder in (trained.folder / "board").glob("*/eval")]
    (board,) = (each for each in boards if each.Tags()["images"])
    for key in keys:
        assert_allclose(table[key], values[key], rtol=1e-5)
        assert_allclose([parsed["eval"][key][step] for step in (4, 8)], values[key], rtol=1e-5)
        assert_allclose([scalar.value for scalar in board.Scalars(key)], values[key], rtol=1e-5)
        assert_allclose([float(trained.summary.history["eval"][key][step]) for step in (4, 8)], values[key], rtol=1e-5)
    assert trained.catch.caught["eval", 2]["min_scored_deletion"] == min(values[keys[0]])
    assert len(list((trained.folder / "best").glob("digits_best_scored_deletion.*"))) == 1
    page = trained.folder / "scores.html"
    parse_log_dir(str(trained.folder / "logs"), save=True, save_path=str(page), include_metrics=set(keys))
    assert "scored_deletion" in page.read_text()


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


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_form_of_mode_runs_where_it_says(framework: str) -> None:
    model, catch = net(framework), Catch()
    traces = [gradcam(model, f"form{at}", mode=mode, n_samples=1) for at, (mode, _) in enumerate(MODES)]
    fitting = training(framework, ops_of(model), [*traces, catch], epochs=1)
    fitting.fit(warmup=False)
    fitting.test()
    for at, (mode, expected) in enumerate(MODES):
        found = {place[0] for place in catch.where(f"form{at}")}
        assert found == expected, mode
        for place in catch.where(f"form{at}"):
            assert {result["mode"] for result in catch.caught[place][f"form{at}_results"]} == {place[0]}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_schedulers_swap_traces_models_and_layers(framework: str, tmp_path: Path) -> None:
    """The first model is trained in the first epoch alone, the second in the second alone."""
    one, two = net(framework, "one"), net(framework, "two")
    start = explain(two, images_of(framework, "day", 2), layer="2").values
    ops = [
        EpochScheduler({1: ModelOp(one, "x", "p"), 2: ModelOp(two, "x", "p")}),
        CrossEntropy(("p", "y"), "ce"),
        EpochScheduler({1: UpdateOp(one, "ce"), 2: UpdateOp(two, "ce")}),
    ]
    catch = Catch()
    traces = [
        RepeatScheduler([gradcam(one, "turns", layer="0"), gradcam(two, "turns", layer="2")]),
        EpochScheduler({1: None, 2: gradcam(two, "late", layer="0")}),
        EpochScheduler({1: None, 2: ImageSaver("late", save_dir=str(tmp_path))}),
        gradcam(two, "always", layer="2", n_samples=2),
        catch,
    ]
    training(framework, ops, traces).fit()
    images = images_of(framework, "day", 5)
    first, second = catch.caught["eval", 1], catch.caught["eval", 2]
    assert_allclose(heats(first["turns_results"]), explain(one, images, layer="0").values, atol=1e-4)
    assert_allclose(heats(second["turns_results"]), explain(two, images, layer="2").values, atol=1e-4)
    assert catch.where("late") == [("eval", 2)]
    assert np.array_equal(read_png(tmp_path / "late_eval_epoch_2.png"), second["late"].raster)
    assert_allclose(heats(first["always_results"]), start, atol=1e-4)
    assert_allclose(heats(second["always_results"]), heats(second["turns_results"])[:2], atol=1e-4)


# --- the notebook ------------------------------------------------------------------------------------


def shown_training(framework: str) -> bytes:
    """An epoch with a viewer; the picture that it should have shown."""
    model, catch = net(framework), Catch()
    with contextlib.redirect_stdout(io.StringIO()):
        traces = [gradcam(model, n_samples=2), ImageViewer("gradcam"), catch]
        training(framework, ops_of(model), traces, epochs=1).fit(warmup=False)
    return bytes(catch.caught["eval", 1]["gradcam"].prepare().to_image())


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
    fitting = training(framework, ops_of(model), traces, epochs=3)
    with contextlib.suppress(KilledError):
        fitting.fit("resumed", warmup=False)
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
    pictures = {path: read_png(path) for path in tmp_path.glob("*/own/*_2.png")}
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
        assert written == [f"gradcam_eval_epoch_{epoch}.png" for epoch in (1, 2, 3)]
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
    return training(framework, ops_of(model), [gradcam(model, n_samples=1, **more), *traces], epochs=1)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_tables_of_a_report_say_how_the_trace_was_made(framework: str) -> None:
    from pylatex import Document

    document = Document()
    tables = reported(framework, []).fe_summary()
    for table in tables:
        table.render_table(document)
    page = document.dumps()
    for said in (
        r"fe\_gradcam.integrations.fastestimator.trace.GradCAM",
        r"\textit{label\_mapping}",
        "`digit 3'",
        r"`ss\_cam'",
        "output{[}:, 0{]}",
    ):
        assert said in page


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.skipif(shutil.which("dot") is None, reason="the host's report needs graphviz")
def test_the_report_is_written(framework: str, tmp_path: Path) -> None:
    from fastestimator.trace.io import Traceability

    reported(framework, [Traceability(str(tmp_path / "report"))]).fit("digits")
    written = (tmp_path / "report" / "digits.tex").read_text()
    assert "GradCAM" in written
    assert (tmp_path / "report" / "resources" / "digits_logs.png").exists()


def test_a_dataset_s_own_key_can_be_read_without_a_mode(tmp_path: Path) -> None:
    model, catch = net("torch"), Catch()
    board = TensorBoard(str(tmp_path), update_freq="epoch", write_images=["gradcam|day"], write_graph=False)
    training("torch", ops_of(model), [gradcam(model), board, catch], epochs=1, several=True).fit()
    assert catch.where("gradcam|day") == [("eval", 1)]


def test_a_dataset_s_own_metric_is_there_in_every_epoch(tmp_path: Path) -> None:
    model, catch = net("torch"), Catch()
    saver = BestModelSaver(model, str(tmp_path), metric="gradcam_deletion|day")
    trace = gradcam(model, metrics="deletion", frequency=2)
    training("torch", ops_of(model), [trace, saver, catch], several=True).fit()
    assert np.isnan(catch.caught["eval", 1]["gradcam_deletion|day"])
    assert np.isfinite(catch.caught["eval", 2]["gradcam_deletion|day"])
