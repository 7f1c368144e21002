"""The GradCAM trace in real trainings of both frameworks."""

from __future__ import annotations

import inspect
import re
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import cv2
import fastestimator as fe
import numpy as np
import pytest
import torch
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.trace.io import ImageViewer
from fastestimator.trace.metric import Accuracy
from fastestimator.trace.trace import Trace
from fastestimator.util.data import Data
from numpy.testing import assert_allclose

from fe_gradcam import (
    METHODS,
    ArgumentError,
    Augment,
    CamWarning,
    Contrast,
    GradCAM,
    LayerGradientOp,
    UnknownNameError,
    UnsupportedModelError,
    explain,
    top_k,
)
from fe_gradcam.files import file_name
from fe_gradcam.integrations.fastestimator.display import HeatmapGrid, RasterFigure
from fe_gradcam.training.chosen import Chosen
from fe_gradcam.training.selection import Selection
from fe_gradcam.types import Needs
from tests.models.toys import SmallTorch, TorchToy, keras_toy, small_keras
from tests.trainings import (
    COUNT,
    Catch,
    as_layout,
    build,
    confidences,
    dataset,
    estimator,
    failing,
    fitted,
    gradcam,
    heats,
    keyed_gradcam,
    keyed_ops,
    ops_of,
    read_png,
    shown,
    streams,
    weights_of,
    words_of,
)

NAMES = {"猫": 0, "чашка": 1, "κύκλος": 2, "dog": 3, "plate": 4}


# --- the main job ------------------------------------------------------------------------------------


def test_grid_results_and_files(framework: str, tmp_path: Path) -> None:
    model = build(framework)
    trace = gradcam(
        model,
        preds="y_pred",
        label_mapping=NAMES,
        n_samples=7,
        methods=["grad_cam", "layer_cam"],
        targets=["pred", "label", "dog"],
        ids="name",
        save_dir=tmp_path / "a" / "b",
    )
    catch = fitted(framework, model, trace, mode=None, epochs=2)
    assert catch.where("gradcam") == [("eval", 1), ("eval", 2)]
    assert not any(key.startswith("gradcam") for logged in catch.logged for key in logged)
    grid, results = (catch.at("eval", 2)[key] for key in ("gradcam", "gradcam_results"))
    assert isinstance(grid, HeatmapGrid)
    assert isinstance(grid, fe.util.img_data.GridDisplay)
    assert len(grid.grid.rows) == len(results) == 7
    assert grid.batch_size == 7 + sum(bool(row.below) for row in grid.grid.rows)
    assert len(grid.columns) == 1 + 2 * 3

    expected = explain(model, shown(framework, 7))  # the weights after the last epoch are those of the grid
    labels = shown(framework, 7, "y").tolist()
    assert [result["id"] for result in results] == list(range(100, 107))
    assert [result["label"] for result in results] == labels
    assert [result["prediction"] for result in results] == expected.class_ids.tolist()
    assert_allclose(confidences(results), expected.confidences, rtol=1e-4)
    assert heats(results).dtype == np.float32
    assert_allclose(heats(results), expected.values, atol=1e-4)
    assert heats(results, labels, "layer_cam").shape == heats(results, 3).shape
    for result in results:
        assert (result["epoch"], result["mode"]) == (2, "eval")
        assert result["classification_class_ids"][0] == result["prediction"]
        assert result["classification_class_names"][0] == list(NAMES)[result["prediction"]]
        assert sorted(result["classification_confidences"], reverse=True) == result["classification_confidences"]

    written = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert written == [f"gradcam_eval_epoch_{n:03d}.{kind}" for n in (1, 2) for kind in ("npz", "png")]
    assert np.array_equal(read_png(tmp_path / "a" / "b" / "gradcam_eval_epoch_002.png"), grid.raster)
    with np.load(tmp_path / "a" / "b" / "gradcam_eval_epoch_002.npz") as arrays:
        assert_allclose(arrays["grad_cam.pred.values"], expected.values, atol=1e-4)
        assert_allclose(arrays["labels"], labels)
        assert arrays["layer_cam.dog.class_ids"].tolist() == [3] * 7


def test_contrasts_ranks_and_fused_layers(framework: str, tmp_path: Path) -> None:
    model = build(framework)
    layers = ["conv1", "conv2"] if framework == "torch" else [1, "conv2"]
    how = {"layer": layers, "fuse": "max"}
    targets = [Contrast("dog", "猫"), *top_k(2)]
    trace = gradcam(model, label_mapping=NAMES, n_samples=3, targets=targets, save_dir=tmp_path, **how)
    results = fitted(framework, model, trace).caught[0]["gradcam_results"]
    expected = explain(model, shown(framework, 3), target=Contrast(3, 0), **how)
    against = "heatmap_image_dog_against_猫"
    assert_allclose([result["heatmap_grad_cam"][against] for result in results], expected.values, atol=1e-4)
    for result in results:
        ranked = [f"heatmap_image_class_{class_id}" for class_id in result["classification_class_ids"][:2]]
        assert set(result["heatmap_grad_cam"]) == {against, *ranked}
        assert result["layer"].startswith("max(conv")
    with np.load(tmp_path / "gradcam_eval_epoch_001.npz") as arrays:
        assert arrays["grad_cam.dog against 猫.class_ids"].tolist() == [-1] * 3
        assert "grad_cam.top 2.values" in arrays


def test_a_model_with_several_outputs() -> None:
    class Both(SmallTorch):
        def forward(self, x: torch.Tensor) -> Any:
            scores = super().forward(x)
            return scores, 2 * scores

    model = fe.build(Both, optimizer_fn="adam", model_name="both")
    ops = [
        ModelOp(model=model, inputs="x", outputs=["y_pred", "doubled"]),
        CrossEntropy(inputs=("y_pred", "y"), outputs="ce", from_logits=True),
        UpdateOp(model=model, loss_name="ce"),
    ]
    with pytest.raises(UnsupportedModelError, match=r"a tuple of \{0: .*, 1: .*\}.*pass model_output="):
        fitted("torch", model, gradcam(model, n_samples=2), ops=ops)
    results = fitted("torch", model, gradcam(model, model_output=0, n_samples=2), ops=ops).caught[0]["gradcam_results"]
    expected = explain(model, shown("torch", 2), model_output=0)
    assert [result["prediction"] for result in results] == expected.class_ids.tolist()
    assert_allclose(confidences(results), expected.confidences, rtol=1e-4)


def test_volumes_are_refused_early_with_what_to_do_instead() -> None:
    def net() -> torch.nn.Module:
        conv = torch.nn.Conv3d(1, 2, 2)
        return torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(2, 5))

    model = fe.build(net, optimizer_fn="adam", model_name="volumes")
    volumes = NumpyDataset({"x": np.ones((6, 1, 4, 5, 6), np.float32), "y": np.zeros(6, int)})
    with pytest.raises(ArgumentError, match=r"holds volumes of shape \(1, 4, 5, 6\), and a grid shows only pictures"):
        estimator("torch", model, [gradcam(model)], train_data=volumes, eval_data=volumes).fit()


@pytest.mark.parametrize("mode", ["eval", "train", "test"])
def test_keyed_use_draws_the_same_heatmaps(framework: str, mode: str) -> None:
    """In eval and test the keys hold what the route takes itself; in train those of the training forward."""
    model, catch = build(framework), Catch(mode)
    traces = [keyed_gradcam(labels="y", mode=mode), catch]
    fitting = estimator(framework, model, traces, ops=keyed_ops(model), test_data=dataset(framework))
    fitting.test() if mode == "test" else fitting.fit()
    results = catch.caught[0]["gradcam_results"]
    assert heats(results).shape == (5, 9, 12)
    assert heats(results).max() == 1
    if mode != "train":
        expected = explain(model, shown(framework, 5))
        assert_allclose(heats(results), expected.values, atol=1e-4)
        assert_allclose(confidences(results), expected.confidences, rtol=1e-4)


@pytest.mark.parametrize("target", [2, "y"])
def test_op_targets(framework: str, target: Any) -> None:
    model = build(framework)
    network = fe.Network(ops=[LayerGradientOp(model=model, inputs="x", outputs=("p", "a", "g"), target=target)])
    batch = {key: shown(framework, 4, key) for key in ("x", "y")}
    result = network.transform(dict(batch), mode="eval")
    activations, gradients = (np.asarray(result[key]) for key in ("a", "g"))
    if framework == "tf":
        activations, gradients = (np.moveaxis(array, -1, 1) for array in (activations, gradients))
    expected = explain(model, batch["x"], target=batch["y"] if target == "y" else target).raw
    weighted = (gradients.mean((2, 3), keepdims=True) * activations).sum(1)
    assert_allclose(weighted, expected, atol=1e-5 * np.abs(expected).max() + 1e-7)


def test_eager_fit_with_keys() -> None:
    def net() -> Any:
        import tensorflow as tf

        layers = tf.keras.layers
        conv = layers.Conv2D(6, 3, activation="relu", input_shape=(9, 12, 3))
        return tf.keras.Sequential([conv, layers.Flatten(), layers.Dense(5, activation="softmax")])

    model, catch = fe.build(net, optimizer_fn="adam", model_name="eager"), Catch("eval")
    estimator("tf", model, [keyed_gradcam(), catch], ops=keyed_ops(model)).fit(eager=True)
    expected = explain(model, shown("tf", 5))
    assert_allclose(heats(catch.caught[0]["gradcam_results"], expected.class_ids), expected.values, atol=1e-4)


def test_gradients_alone_are_drawn_as_the_host_does_and_said(framework: str) -> None:
    model = build(framework)
    with pytest.warns(CamWarning, match="no Grad-CAM"):
        trace = GradCAM("x", "grads", 3, 4, "y", "y_pred", on_error="raise")
    results = fitted(framework, model, trace, ops=keyed_ops(model)).caught[0]["gradcam_results"]
    assert len(results) == 4
    assert "heatmap_mean_gradient" in results[0]


# --- training is left alone --------------------------------------------------------------------------


def _weights_after_training(framework: str, traced: str) -> list[np.ndarray]:
    fe.enable_deterministic(3)
    model = build(framework)
    traces: list[Any] = [Accuracy("y", "y_pred")]
    if traced == "model":
        traces += [gradcam(model, mode=None, methods=["grad_cam", "layer_cam"], targets=["pred", "label"])]
    if traced == "keys":
        traces += [keyed_gradcam(mode=None)]
    estimator(framework, model, traces, ops=keyed_ops(model) if traced == "keys" else None, epochs=2).fit()
    return weights_of(framework, model)


@pytest.mark.slow
@pytest.mark.parametrize("traced", ["model", "keys"])
def test_training_is_bit_for_bit_the_training_without_the_trace(framework: str, traced: str) -> None:
    """Dropout and batch norm in the net, the trace in every mode, two epochs."""
    before, again, after = (_weights_after_training(framework, by) for by in ("no", "no", traced))
    for one, other in zip(before, again, strict=True):
        assert np.array_equal(one, other), "the training itself is not repeatable, so this test could show nothing"
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other)
    start = weights_of(framework, build(framework))
    assert any(not np.array_equal(one, other) for one, other in zip(start, after, strict=True))


# --- which images, which epochs, which datasets -------------------------------------------------------


def test_n_samples(framework: str) -> None:
    model, expected = build(framework), {0: None, 3: 3, 100: COUNT, None: COUNT}
    traces = [gradcam(model, outputs=f"of {count}", n_samples=count) for count in expected]
    (caught,) = fitted(framework, model, *traces).caught
    for count, found in expected.items():
        results = caught.get(f"of {count}_results")
        assert results is None if found is None else len(results) == found


def test_frequency_and_modes() -> None:
    model = build("torch")
    catch = fitted("torch", model, gradcam(model, frequency=2, mode=["train", "eval"]), mode=None, epochs=4)
    assert catch.where("gradcam") == [(mode, epoch) for epoch in (2, 4) for mode in ("train", "eval")]


def test_several_datasets_are_kept_apart(framework: str, tmp_path: Path) -> None:
    model = build(framework)
    eval_data = {"day": dataset(framework, 4, seed=5), "night/shift": dataset(framework, 6, seed=6)}
    trace, other = gradcam(model, save_dir=tmp_path), gradcam(model, outputs="night", ds_id="night/shift")
    (caught,) = fitted(framework, model, trace, other, eval_data=eval_data).caught
    assert trace.get_outputs(["day"]) == ["gradcam", "gradcam_results", "gradcam|day", "gradcam_results|day"]
    assert len(caught["gradcam|day"].grid.rows) == len(caught["gradcam_results|day"]) == 4
    assert len(caught["gradcam|night/shift"].grid.rows) == 5
    assert len(caught["gradcam"].grid.rows) == 9
    assert [result["ds_id"] for result in caught["gradcam_results"]] == ["day"] * 4 + ["night/shift"] * 5
    assert {result["ds_id"] for result in caught["night_results"]} == {"night/shift"}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "gradcam_eval_epoch_001_day.png",
        f"gradcam_eval_epoch_001_{file_name('night/shift')}.png",
    ]


def test_an_epoch_without_batches_writes_nothing_quietly() -> None:
    trace, data = gradcam(build("torch")), Data()
    trace.system = SimpleNamespace(traces=[trace], mode="eval", epoch_idx=1, network=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace.on_epoch_begin(data)
        trace.on_epoch_end(data)
    assert "gradcam" not in data


def test_one_hot_labels_display_key_and_missing_names(framework: str) -> None:
    model, labels = build(framework), shown(framework, COUNT, "y")
    photos = np.random.randint(0, 256, (COUNT, 30, 40, 3)).astype(np.uint8)
    data = dataset(framework, hot=np.eye(5, dtype=np.float32)[labels], column=labels[:, None], photo=photos)
    mapping = {"first": [1, 0, 0, 0, 0], "second": np.array(1), "odd": {"no": "id"}}
    traces = [
        gradcam(model, labels="hot", outputs="a", display="photo", label_mapping=mapping),
        gradcam(model, labels="column", outputs="b", targets="label"),
    ]
    (caught,) = fitted(framework, model, *traces, eval_data=data).caught
    for key in ("a_results", "b_results"):
        assert [result["label"] for result in caught[key]] == labels[:5].tolist()
    assert np.array_equal(caught["a"].grid.rows[0].panels[0].rgb, photos[0])
    first = caught["a_results"][0]
    names = dict(zip(first["classification_class_ids"], first["classification_class_names"], strict=True))
    assert (names[0], names[1], names[4]) == ("first", "second", "4")


def test_two_inputs() -> None:
    class Adding(SmallTorch):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(left + right)

    model = fe.build(Adding, optimizer_fn="adam", model_name="adding")
    other = np.random.randn(COUNT, 3, 9, 12).astype("f")
    data, ops = dataset("torch", z=other), ops_of(model, ModelOp(model, ["x", "z"], "y_pred"))
    trace = GradCAM(["x", "z"], model=model, on_error="raise")
    results = fitted("torch", model, trace, ops=ops, train_data=data, eval_data=data).caught[0]["gradcam_results"]
    expected = explain(model, (shown("torch", 5), other[:5]))
    assert_allclose(heats(results, expected.class_ids), expected.values, atol=1e-5)


# --- the host's tools --------------------------------------------------------------------------------


def test_image_viewer_shows_the_grid(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    show, model = Mock(), build(framework)
    monkeypatch.setattr(RasterFigure, "show", show)
    fitted(framework, model, gradcam(model, mode="eval"), ImageViewer(inputs="gradcam"))
    show.assert_called_once()


def test_the_display_in_other_forms(tmp_path: Path) -> None:
    model = build("torch")
    grid = fitted("torch", model, gradcam(model)).caught[0]["gradcam"]
    grid.show(save_path=str(tmp_path / "grid.html"), verbose=False)
    assert "data:image" in (tmp_path / "grid.html").read_text()
    figure = grid.prepare()
    assert figure.to_image(format="png")[:4] == b"\x89PNG"
    assert (figure.layout.height, figure.layout.width) == grid.raster.shape[:2]


# --- arguments, mistakes and failures ----------------------------------------------------------------


def test_the_help_names_all_arguments_in_the_order_in_which_they_stand() -> None:
    """The host's ten first, by position; what is ours by keyword, in groups."""
    parameters = inspect.signature(GradCAM).parameters
    section = inspect.getdoc(GradCAM).partition("\nArgs:\n")[2].partition("\nRaises:")[0]
    assert re.findall(r"^    (\w+): ", section, re.MULTILINE) == list(parameters)
    by_position = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_position == [
        "images", "grads", "n_components", "n_samples", "labels", "preds", "label_mapping", "outputs", "mode", "ds_id",
    ]  # fmt: skip
    groups = re.findall(r"^    --- (.+) ---$", section, re.MULTILINE)
    commented = re.findall(r"^        # (.+)$", inspect.getsource(GradCAM.__init__.__wrapped__), re.MULTILINE)
    assert groups == commented[: len(groups)]
    assert len(groups) == 7


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, ArgumentError, "model and grads are both missing"),
        ({"grads": "g"}, ArgumentError, "model and grads .* are both given"),
        ({"model": "resnet"}, UnsupportedModelError, "model is a builtins.str"),
        ({"methods": "gradcam"}, UnknownNameError, "did you mean 'grad_cam'"),
        ({"methods": ("is_cam", {"sample": 2})}, UnknownNameError, "has no parameter 'sample'; did you mean 'samples'"),
        ({"layer": "conv9"}, UnknownNameError, "layer='conv9' is no layer of this model; did you mean"),
        ({"scaling": "max"}, ArgumentError, "scaling='max' is not known"),
        ({"colormap": "turbp"}, UnknownNameError, "turbo"),
        ({"alpha": 1.5}, ArgumentError, "alpha=1.5 is not accepted"),
        ({"n_samples": -1}, ArgumentError, "n_samples=-1 is not accepted.*or None for all"),
        ({"n_components": 0}, ArgumentError, "n_components=0 is not accepted"),
        ({"frequency": 0}, ArgumentError, "frequency=0 is not accepted"),
        ({"on_error": "ignore"}, ArgumentError, "on_error='ignore' is not known"),
        ({"targets": "dgo", "label_mapping": NAMES}, UnknownNameError, "did you mean 'dog'"),
        ({"targets": "label", "labels": None}, ArgumentError, "targets='label' needs labels="),
        ({"targets": []}, ArgumentError, "targets is empty"),
        ({"targets": 1.5}, ArgumentError, "targets=1.5 is not accepted"),
        ({"label_mapping": ["cat"]}, ArgumentError, "label_mapping is a list"),
        ({"label_mapping": {0: "cat"}}, ArgumentError, "has numbers as names"),
        ({"track": "yes"}, ArgumentError, "track='yes' is not accepted"),
        (
            {"atlas": "yes"},
            ArgumentError,
            "atlas='yes' is not accepted.*an integer from 0, True, False, or {'n_samples'",
        ),
        ({"atlas": {"n_sample": 9}}, UnknownNameError, "has no setting 'n_sample'; did you mean 'n_samples'"),
        ({"atlas": {"classes": 9}}, UnknownNameError, r"has no setting 'classes'\. Accepted: n_samples"),
        (
            {"atlas": {"n_samples": 0}},
            ArgumentError,
            r"atlas\['n_samples'\]=0 is not accepted\. Accepted: an integer from 1",
        ),
        ({"metrics": "energy"}, UnknownNameError, "metric='energy' is not known"),
        ({"std": 0}, ArgumentError, "std=0 is not accepted"),
        ({"mean": "x"}, ArgumentError, "mean='x' is not accepted"),
        ({"display": 3}, ArgumentError, "display=3 is not accepted"),
        ({"outputs": None}, ArgumentError, "outputs=None is not accepted"),
        ({"methods": []}, ArgumentError, r"methods=\[\] is not accepted\. Accepted: a name, .* with at least one"),
        (
            {"methods": ("is_cam", {"samples": 0})},
            ArgumentError,
            r"samples=0 is not accepted\. Accepted: an integer from 1",
        ),
        ({"methods": ["fem", ("is_cam", 3)]}, ArgumentError, r"method=\('is_cam', 3\) is not accepted"),
        ({"methods": ["fem", "grad_cam", "fem"]}, ArgumentError, "holds a method twice"),
        ({"methods": ["eigen_cam", ("eigen_cam", {"component": 2})]}, ArgumentError, "holds a method twice"),
        ({"smooth": "augmant"}, ArgumentError, r"smooth='augmant' is not accepted; did you mean 'augment'"),
        ({"seed": -1}, ArgumentError, r"seed=-1 is not accepted\. Accepted: an integer from 0"),
        ({"seed": 0.5}, ArgumentError, "seed=0.5 is not accepted"),
        ({"save_dir": 5}, ArgumentError, "save_dir=5 is not accepted"),
    ],
)
def test_mistakes_in_the_arguments_are_errors_at_once(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        gradcam(build("torch"), **change) if "model" not in change else gradcam(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": -1}, r"a map .* is needed"),
        ({"targets": 7}, "target=7 is not a class of this model"),
        ({"mean": [1.0, 2.0]}, "mean"),
        ({"save_dir": __file__}, "no folder that can be written to"),
    ],
)
def test_what_only_a_pass_can_show_is_an_error_before_the_first_epoch(
    framework: str, change: dict[str, Any], message: str
) -> None:
    model, trained = build(framework), Catch()
    with pytest.raises(ArgumentError, match=message):
        estimator(framework, model, [gradcam(model, on_error="warn", **change), trained]).fit()
    assert not trained.caught


def test_where_no_input_is_known_mistakes_show_with_the_first_batch(framework: str) -> None:
    make = SmallTorch if framework == "torch" else partial(small_keras, size=(None, None))
    model = fe.build(partial(make, softmax=True), optimizer_fn="adam", model_name="any_size")
    trace = gradcam(model, labels="name", targets="label", on_error="warn")
    with pytest.raises(ArgumentError, match=r"labels='name' holds no true class in 5 of 5 rows \(100, .* ids 0 to 4"):
        estimator(framework, model, [trace], epochs=1).fit(warmup=False)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("training.source.explained", MemoryError),
        ("integrations.fastestimator.trace.HeatmapGrid", ValueError),
        ("drawing.picture.write_bytes", OSError),
    ],
)
def test_a_later_failure_is_a_warning_and_the_training_goes_on(
    framework: str, where: str, error: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Break(Trace):
        def on_epoch_begin(self, data: Any) -> None:
            if self.system.epoch_idx == 1:
                monkeypatch.setattr(f"fe_gradcam.{where}", failing(error("on request")))
            else:
                monkeypatch.undo()

    model = build(framework)
    with pytest.warns(CamWarning, match="the training goes on") as caught:
        catch = fitted(framework, model, Break(), gradcam(model, on_error="warn", save_dir=tmp_path), epochs=2)
    assert any("on request" in str(w.message) and "Traceback" in str(w.message) for w in caught)
    assert [one["epoch"] for one in catch.caught] == [1, 2]
    assert "gradcam" in catch.caught[-1]


def test_on_error_raise_lets_failures_through(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("torch")
    monkeypatch.setattr("fe_gradcam.integrations.fastestimator.trace.HeatmapGrid", failing(ValueError("on request")))
    with pytest.raises(ValueError, match="on request"):
        fitted("torch", model, gradcam(model))


def test_op_mistakes() -> None:
    model = build("torch")
    with pytest.raises(ArgumentError, match="three keys"):
        LayerGradientOp(model=model, inputs="x", outputs=("p", "a"))
    with pytest.raises(UnknownNameError, match="did you mean 'conv2'"):
        LayerGradientOp(model=model, inputs="x", outputs=("p", "a", "g"), layer="conv22")


def test_a_model_is_explained_on_the_device_of_its_network_and_brought_back() -> None:
    """The host has it on the CPU at the end of an epoch; here the moves are recorded."""
    moves = []

    class Moving(SmallTorch):
        def to(self, device: Any) -> Any:  # type: ignore[override]
            moves.append(str(device))
            return self

    model = Moving()
    trace = gradcam(model)
    network = SimpleNamespace(device=torch.device("cuda", 0), target_type="torch")
    trace.system = SimpleNamespace(traces=[trace], network=network, mode="eval", epoch_idx=1, ds_id="")

    def explained(*shape: int) -> None:
        trace.on_epoch_begin(Data())
        trace.watcher._batch_checked = False
        trace.on_batch_end(Data({"x": torch.zeros(shape), "y": torch.zeros(1, dtype=torch.int64)}))

    explained(1, 3, 9, 12)
    assert moves == ["cuda:0", "cpu"]
    with pytest.raises(ArgumentError):
        explained(1, 3, 9)
    assert moves == ["cuda:0", "cpu"] * 2
    trace.on_epoch_begin(Data())
    trace.on_epoch_end(Data())  # nothing to explain: a large model is not carried to and fro
    network.device = torch.device("cpu")
    explained(1, 3, 9, 12)
    assert len(moves) == 4


def test_as_many_rows_as_asked_for_are_enough() -> None:
    kept = Chosen(Selection(limit=6))
    for full in (False, True):
        kept.add({"x": np.ones((4, 3))})
        assert kept.full == full


@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none"])
def test_shared_scale_makes_magnitudes_compare(scaling: str) -> None:
    model = build("torch")
    trace = gradcam(model, scaling=scaling, shared_scale=True, targets=[0])
    results = fitted("torch", model, trace).caught[0]["gradcam_results"]
    raw = explain(model, shown("torch", 5), target=0).raw
    kept = raw if scaling == "none" else np.maximum(raw, 0)
    expected = np.stack([cv2.resize(part, (12, 9), interpolation=cv2.INTER_LINEAR) for part in kept])
    divisor = {"none": 1, "scale_after_relu": expected.max(), "scale_before_relu": np.abs(raw).max()}[scaling]
    assert_allclose(heats(results, 0), expected / divisor, atol=1e-5 * np.abs(expected / divisor).max())


# --- what a reader must not be misled by ---------------------------------------------------------------


@pytest.mark.parametrize(("target", "column"), [("y", "label"), (2, "dog")])
def test_keyed_heatmaps_go_by_the_class_that_they_are_of(
    framework: str, target: Any, column: str, tmp_path: Path
) -> None:
    model, data = build(framework), dataset(framework)
    trace = keyed_gradcam(labels="y", label_mapping={"dog": 2}, save_dir=tmp_path)
    fitted(framework, model, trace, ops=keyed_ops(model, target=target), train_data=data, eval_data=data)
    wanted = shown(framework, 5, "y") if target == "y" else target
    expected = explain(model, shown(framework, 5), target=wanted)
    with np.load(tmp_path / "gradcam_eval_epoch_001.npz") as arrays:
        assert_allclose(arrays[f"grad_cam.{column}.values"], expected.values, atol=1e-4)
        assert_allclose(arrays[f"grad_cam.{column}.class_ids"], expected.class_ids)
        assert_allclose(arrays[f"grad_cam.{column}.confidences"], expected.confidences, rtol=1e-3)


def test_keyed_single_logits_are_read_as_the_network_means_them() -> None:
    def net() -> torch.nn.Module:
        conv = torch.nn.Conv2d(3, 1, 3)
        torch.nn.init.constant_(conv.weight, 0.01)
        torch.nn.init.constant_(conv.bias, 0.3)
        return torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    model, catch = fe.build(net, optimizer_fn="adam", model_name="single"), Catch("test")
    ops = keyed_ops(model, layer="0")[:1]
    estimator("torch", model, [keyed_gradcam(), catch], ops=ops, test_data=dataset("torch")).test()
    results = catch.caught[0]["gradcam_results"]
    assert [result["prediction"] for result in results] == [1] * 5
    assert_allclose(confidences(results), 1 / (1 + np.exp(-0.3)), atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"display": "y"}, "images have"),
        ({"labels": "x"}, "labels='x' holds an array of shape"),
        ({"labels": "hot"}, r"or a table \(N, C\) are needed: of 0 and 1"),
    ],
)
def test_pictures_and_labels_are_checked_early_too(change: dict[str, Any], message: str) -> None:
    model = build("torch")
    hot = dataset("torch", hot=np.tile(np.array([0, 2, 1, 0, 0], np.float32), (COUNT, 1)))
    with pytest.raises(ArgumentError, match=message):
        fitted("torch", model, gradcam(model, on_error="warn", **change), eval_data=hot)


def test_an_image_without_a_label_loses_its_own_panel_alone() -> None:
    model = build("torch")
    some = dataset("torch", some=np.array([1, -1, 2, 0, 3] + [0] * (COUNT - 5)))
    trace = gradcam(model, labels="some", targets=["pred", "label"])
    (caught,) = fitted("torch", model, trace, eval_data=some).caught
    rows = caught["gradcam"].grid.rows
    assert [row.panels[2].note == "not labelled" for row in rows] == [False, True, False, False, False]
    assert words_of(rows[1])["label"] == "not labelled"
    assert not rows[1].wrong
    assert heats(caught["gradcam_results"][:1], 1).any()


def test_two_traces_that_would_overwrite_each_other_are_refused() -> None:
    model = build("torch")
    with pytest.raises(ArgumentError, match="would overwrite each other"):
        fitted("torch", model, gradcam(model, layer="conv1"), gradcam(model, layer="conv2"))
    traces = [gradcam(model, layer="conv1", outputs="one"), gradcam(model, layer="conv2", outputs="two")]
    (caught,) = fitted("torch", model, *traces).caught
    assert "layer conv1" in caught["one"].grid.subtitle
    assert "layer conv2" in caught["two"].grid.subtitle


def test_another_trace_that_reads_the_grid_in_train_gets_it_from_eval_alone() -> None:
    model, reader = build("torch"), Catch()
    reader.inputs = ["gradcam"]
    estimator("torch", model, [gradcam(model, mode="eval"), reader], epochs=2).fit()
    assert reader.where("gradcam") == [("eval", 1), ("eval", 2)]


def test_mean_and_std_undo_the_normalisation_of_the_picture() -> None:
    model = build("torch")
    (caught,) = fitted("torch", model, gradcam(model, mean=[0.5, 0.4, 0.3], std=0.1)).caught
    image = shown("torch", 1)[0].transpose(1, 2, 0)
    expected = np.clip(image * 0.1 + [0.5, 0.4, 0.3], 0, 1) * 255
    assert_allclose(caught["gradcam"].grid.rows[0].panels[0].rgb, expected, atol=1)


# --- methods with parameters, and those that ask the model again -------------------------------------


def test_methods_with_parameters_side_by_side(framework: str, tmp_path: Path) -> None:
    model = build(framework)
    several = ["grad_cam", "layer_cam", "score_cam", ("ss_cam", {"samples": 2, "noise": 0.5}), ["random_cam", {}]]
    trace = gradcam(model, n_samples=2, methods=several, seed=3, save_dir=tmp_path, labels=None)
    (caught,) = fitted(framework, model, trace).caught
    labels = ["grad_cam", "layer_cam", "score_cam", "ss_cam(samples=2, noise=0.5)", "random_cam"]
    assert caught["gradcam"].grid.titles == ("image", *labels)
    results, images = caught["gradcam_results"], shown(framework, 2)
    with np.load(tmp_path / "gradcam_eval_epoch_001.npz") as arrays:
        for label, method in zip(labels, several, strict=True):
            expected = explain(model, images, method=method, seed=3)
            assert_allclose(arrays[f"{label}.pred.values"], expected.values, atol=1e-4)
            assert_allclose(heats(results, expected.class_ids, label), expected.values, atol=1e-4)
    for result in results:
        assert [key for key in result if key.startswith("heatmap")] == [f"heatmap_{label}" for label in labels]
    other = explain(model, images, method="random_cam", seed=0)
    assert np.abs(other.values[0] - heats(results, method="random_cam")[0]).max() > 0.01


def test_smoothing_of_the_trace_is_that_of_explain(framework: str) -> None:
    model, images = build(framework), shown(framework, 2)
    smooth = (Augment(("vertical",), (1, 1.5)), "eigen")
    trace = gradcam(model, n_samples=2, smooth=smooth, targets=[1, "label"])
    results = fitted(framework, model, trace).caught[0]["gradcam_results"]
    expected, plain = (explain(model, images, target=1, **how) for how in ({"smooth": smooth}, {}))
    assert np.abs(expected.raw - plain.raw).max() > 1e-3 * np.abs(plain.raw).max()
    assert_allclose(heats(results, 1), expected.values, atol=1e-4)


def test_components_side_by_side() -> None:
    model = build("torch")
    methods = ["eigen_cam", ("kpca_cam", {"component": 2}), ("eigen_grad_cam", {"center": True}), "grad_cam"]
    trace = gradcam(model, n_samples=1, n_components=2, methods=methods, labels=None)
    (caught,) = fitted("torch", model, trace).caught
    asked = {
        "eigen_cam": "eigen_cam",
        "eigen_cam(component=2)": ("eigen_cam", {"component": 2}),
        "kpca_cam(component=2)": ("kpca_cam", {"component": 2}),
        "eigen_grad_cam(center=True)": ("eigen_grad_cam", {"center": True}),
        "eigen_grad_cam(center=True, component=2)": ("eigen_grad_cam", {"center": True, "component": 2}),
        "grad_cam": "grad_cam",
    }
    assert caught["gradcam"].grid.titles == ("image", *asked)
    for label, method in asked.items():
        (heat,) = caught["gradcam_results"][0][f"heatmap_{label}"].values()
        assert_allclose(heat, explain(model, shown("torch", 1), method=method).values[0], atol=1e-4)


def test_components_are_as_many_as_asked_for() -> None:
    model = build("torch")
    for count in (1, 3):
        options = gradcam(model, methods="eigen_cam", n_components=count).watcher.options
        labels = [method.label for method in options.rules]
        assert labels == ["eigen_cam", "eigen_cam(component=2)", "eigen_cam(component=3)"][:count]
    pair = gradcam(model, methods=("eigen_cam", {"component": 3}), n_components=5)
    assert [method.label for method in pair.watcher.options.rules] == ["eigen_cam(component=3)"]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if Needs.PROBE in method.needs])
def test_methods_that_ask_the_model_are_refused_with_keys(method: str) -> None:
    for methods in (method, [("eigen_cam", {"component": 1}), (method, {})]):
        with pytest.raises(ArgumentError, match=rf"methods: '{method}' asks the model again.* Pass model= instead of"):
            keyed_gradcam(methods=methods)


def test_augmentation_is_refused_with_keys_and_eigen_smoothing_is_not() -> None:
    for smooth in ("augment", Augment(), ("eigen", "augment")):
        with pytest.raises(ArgumentError, match=r"other views of the images.* Pass model=.*, or smooth='eigen'"):
            keyed_gradcam(smooth=smooth)
    model = build("torch")
    catch = fitted("torch", model, keyed_gradcam(smooth="eigen", n_samples=2), ops=keyed_ops(model))
    expected = explain(model, shown("torch", 2), smooth="eigen").values
    assert_allclose(heats(catch.caught[0]["gradcam_results"]), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["pooled", "flat"])
def test_cam_is_refused_before_the_first_epoch_where_the_head_does_not_pool(framework: str, kind: Any) -> None:
    def toy() -> Any:
        return TorchToy(kind, torch.nn.Softmax(-1)) if framework == "torch" else keras_toy(kind, "softmax")[0]

    model, catch = fe.build(toy, optimizer_fn="adam", model_name=f"toy_{kind}"), Catch("eval")
    images = np.random.default_rng(0).normal(size=(6, 2, 3, 1)).astype(np.float32)
    data = NumpyDataset({"x": as_layout(framework, images), "y": np.arange(6) % 2})
    trace = gradcam(model, methods=["cam", "grad_cam"], targets=0, on_error="warn" if kind == "flat" else "raise")
    fitting = estimator(framework, model, [trace, catch], train_data=data, eval_data=data)
    if kind == "flat":
        with pytest.raises(UnsupportedModelError, match="method='cam' needs a network whose score is a linear"):
            fitting.fit()
        assert not catch.caught
        return
    fitting.fit()
    cam, grad_cam = (heats(catch.caught[0]["gradcam_results"], 0, method) for method in ("cam", "grad_cam"))
    assert_allclose(cam, grad_cam, atol=1e-5)  # they are a constant apart, which the scaling divides out
    assert (cam.max((1, 2)) == 1).all()


def test_an_epoch_of_methods_with_random_numbers_leaves_the_global_streams(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[Any], list[Any]]] = []

    def watched(name: str) -> Any:
        hook = getattr(GradCAM, name)

        def around(self: GradCAM, data: Any) -> None:
            before = streams()
            hook(self, data)
            seen.append((name, before, streams()))

        return around

    for name in ("on_begin", "on_batch_end", "on_epoch_end"):
        monkeypatch.setattr(GradCAM, name, watched(name))
    model = build(framework)
    methods = ["random_cam", ("smooth_grad_cam_plus_plus", {"samples": 2}), ("ss_cam", {"samples": 1})]
    assert "gradcam" in fitted(framework, model, gradcam(model, n_samples=2, methods=methods)).caught[0]
    assert {name for name, _, _ in seen} == {"on_begin", "on_batch_end", "on_epoch_end"}
    for name, before, after in seen:
        assert before == after, name
