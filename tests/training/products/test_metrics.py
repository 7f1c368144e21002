"""Metrics that a trace logs: their keys, their values, and that nothing meets a missing key, or another training."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from fastestimator.trace.adapt import EarlyStopping
from fastestimator.trace.io import BestModelSaver
from numpy.testing import assert_allclose

from fe_gradcam import METHODS, ArgumentError, CamWarning, Contrast, UnknownNameError, explain
from fe_gradcam.metrics.measure import measure, summary
from fe_gradcam.metrics.rules import METRICS
from fe_gradcam.spec.objects import masks_of_boxes
from fe_gradcam.training.options import Options
from fe_gradcam.training.products.metrics import FOLLOWED, MetricsProduct
from tests.trainings import (
    build,
    dataset,
    failing,
    fitted,
    gradcam,
    keyed_gradcam,
    keyed_ops,
    shown,
    weights_of,
)

EVERYTHING = ("model", "masks", "track")


def keys_of(metrics: Any, given: Any = EVERYTHING, methods: Any = "grad_cam") -> list[str]:
    options = Options(set(given), name="g", metrics=metrics, methods=methods, track="track" in given)
    return list(MetricsProduct(options).keys)


def test_of_one_method_a_key_is_the_metric_s_name_and_of_several_it_has_the_method_s_too() -> None:
    one = ["deletion", "drift", ("insertion", {"steps": 4})]
    assert keys_of(one) == ["g_deletion", "g_insertion", "g_drift"]
    methods = ["grad_cam", ("ss_cam", {"samples": 2, "noise": 0.5})]
    several = keys_of("deletion", methods=methods)
    assert several == ["g_deletion_grad_cam", "g_deletion_ss_cam_samples_2_noise_0_5"]
    assert keys_of(()) == []
    assert keys_of(("deletion", {"steps": 4})) == ["g_deletion"]


@pytest.mark.parametrize(
    ("metrics", "given", "error", "message"),
    [
        ("deletions", EVERYTHING, UnknownNameError, "metric='deletions' is not known.*did you mean 'deletion'"),
        (["drfit"], {"model", "track"}, UnknownNameError, r"metric='drfit' is not known.*'drift'.*overlap"),
        (5, EVERYTHING, ArgumentError, r"metrics=5 is not accepted\. Accepted: a name, a pair .* drift, overlap"),
        (["deletion", 5], EVERYTHING, ArgumentError, "metric=5 is not accepted"),
        (["deletion", ("deletion", {"steps": 4})], EVERYTHING, ArgumentError, "names a metric twice"),
        (["drift", "drift"], EVERYTHING, ArgumentError, "names a metric twice"),
        (("deletion", {"step": 4}), EVERYTHING, UnknownNameError, "no parameter 'step'; did you mean 'steps'"),
        (("deletion", {"steps": 0}), EVERYTHING, ArgumentError, "steps=0 is not accepted"),
        ("drift", {"model"}, ArgumentError, r"'drift' compares the same images in two epochs\. Pass track=True too"),
        (["deletion", "overlap"], {"model"}, ArgumentError, "'overlap' compares the same images"),
        ("pointing_game", {"model"}, ArgumentError, r"'pointing_game' needs masks= or boxes="),
        ("deletion", {"masks"}, ArgumentError, r"'deletion' asks the model\. Pass model= instead of grads="),
    ],
)
def test_mistakes_are_errors_at_once(metrics: Any, given: set[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        keys_of(metrics, given)


@pytest.mark.parametrize("metric", [*METRICS, *FOLLOWED])
def test_what_a_metric_needs_is_asked_of_the_trace_s_arguments(metric: str) -> None:
    """With all of it each is accepted, and where its own need is missing the error is at once."""
    model, everything = build("torch"), {"metrics": metric, "boxes": "box", "track": True}
    assert f"gradcam_{metric}" in gradcam(model, **everything).get_outputs(None)
    needs = "track" if metric in FOLLOWED else METRICS[metric].needs
    lacking: dict[str, dict[str, Any]] = {"track": {"track": False}, "place": {"boxes": None}}
    if needs in lacking:
        with pytest.raises(ArgumentError, match=f"metrics: '{metric}' "):
            gradcam(model, **{**everything, **lacking[needs]})
    else:
        with pytest.raises(ArgumentError, match=f"metrics: '{metric}' asks the model"):
            keyed_gradcam(boxes="box", metrics=metric)


BOXES = np.array([[1, 1, 6, 5], [0, 0, 0, 0], [3, 2, 4, 4], [5, 1, 7, 8]] * 3, np.float32)
"""(left, top, width, height) of the images of `dataset`; the second of four has no object."""
PLACES = masks_of_boxes(BOXES[:4, None], (9, 12))


def test_what_is_logged_is_the_mean_of_what_measure_says(framework: str) -> None:
    model = build(framework)
    metrics = ["deletion", ("insertion", {"steps": 4}), "energy_inside", "pointing_game", "sanity"]
    how = {"methods": ["grad_cam", ("layer_cam", {})], "targets": [Contrast(0, 1), "pred", 2]}
    trace = gradcam(model, metrics=metrics, boxes="box", n_samples=4, **how)
    keys = trace.watcher.logged
    catch = fitted(framework, model, trace, eval_data=dataset(framework, box=BOXES))
    images = shown(framework, 4)
    (caught,) = catch.caught
    assert len(keys) == 10
    assert set(keys) <= catch.logged[0]
    for method in ("grad_cam", "layer_cam"):
        heat = explain(model, images, method=method)
        # Of the first target that is a class, that inferred.
        again = partial(explain, model, images, method=method, target=heat.class_ids)
        found = measure(model, images, heat, metrics, masks=PLACES, batch_size=5, again=again)
        for label, values in found.items():
            logged = caught[f"gradcam_{label.partition('(')[0]}_{method}"]
            assert isinstance(logged, float)
            # To four digits; the probabilities of other batches differ in rounding alone.
            assert_allclose(logged, summary(values), rtol=2e-3, atol=1e-5)
    assert np.isnan(measure(model, images, heat, ["energy_inside"], masks=PLACES)["energy_inside"][1])


def test_keyed_heat_is_measured_by_place() -> None:
    model, images = build("torch"), shown("torch", 4)
    trace = keyed_gradcam(boxes="box", metrics="energy_inside", n_samples=4)
    (caught,) = fitted("torch", model, trace, ops=keyed_ops(model), eval_data=dataset("torch", box=BOXES)).caught
    found = measure(model, images, explain(model, images), ["energy_inside"], masks=PLACES)["energy_inside"]
    assert_allclose(caught["gradcam_energy_inside"], summary(found), rtol=2e-3)  # to four digits


def test_of_several_datasets_each_has_a_key_and_the_whole_is_the_mean_over_all_images() -> None:
    model = build("torch")
    eval_data = {"day": dataset("torch", 3, seed=5), "night": dataset("torch", 6, seed=6)}
    keys = ["gradcam_average_drop", "gradcam_average_drop|day", "gradcam_average_drop|night"]
    trace = gradcam(model, metrics="average_drop", n_samples=None)
    catch = fitted("torch", model, trace, eval_data=eval_data)
    assert set(keys) <= catch.logged[0]
    whole, day, night = (catch.caught[0][key] for key in keys)
    assert day != night
    assert_allclose(whole, (3 * day + 6 * night) / 9, rtol=2e-3)  # of numbers of four digits
    assert set(keys) <= set(trace.get_outputs(["day", "night"]))


def test_tools_that_monitor_a_metric_find_it_in_every_epoch(framework: str, tmp_path: Path) -> None:
    """Measured every second epoch, and EarlyStopping and BestModelSaver ask in each."""
    model = build(framework)
    traces = [
        gradcam(model, metrics="deletion", frequency=2, n_samples=2, atlas=64, labels=None),  # few are told rightly
        BestModelSaver(model, str(tmp_path), metric="gradcam_deletion"),
        EarlyStopping("gradcam_deletion", patience=9),
        EarlyStopping("gradcam_shortcuts", patience=9),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        catch = fitted(framework, model, *traces, epochs=4)
    assert [caught["epoch"] for caught in catch.caught] == [1, 2, 3, 4]
    measured = [False, True, False, True]
    values = [caught["gradcam_deletion"] for caught in catch.caught]
    assert np.isnan(values[0])
    assert values[2] == values[1]  # the last one stands in
    assert np.isfinite(values[3])
    assert not any("gradcam_fixed_place" in logged for logged in catch.logged)
    for key in ("gradcam_deletion", "gradcam_shortcuts"):
        assert [key in logged for logged in catch.logged] == measured
    assert ["gradcam" in caught for caught in catch.caught] == measured
    for key in ("gradcam_shortcuts", "gradcam_fixed_place"):
        assert np.isnan(catch.caught[0][key])
        assert np.array_equal(catch.caught[2][key], catch.caught[1][key], equal_nan=True)
    assert any("deletion" in path.name for path in tmp_path.iterdir())  # of the epochs that were measured


def test_a_trace_that_explains_nothing_fills_in_too(tmp_path: Path) -> None:
    model = build("torch")
    trace = gradcam(model, metrics=["deletion", "drift"], track=True, n_samples=0)
    (caught,) = fitted("torch", model, trace, BestModelSaver(model, str(tmp_path), metric="gradcam_deletion")).caught
    assert np.isnan([caught["gradcam_deletion"], caught["gradcam_drift"]]).all()


def test_a_metric_that_fails_is_a_warning_and_costs_neither_pictures_nor_film_nor_atlas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fe_gradcam.training.source.measure", failing(MemoryError("on request")))
    model = build("torch")
    trace = gradcam(model, metrics="deletion", track=True, atlas=4, n_samples=2, save_dir=tmp_path, on_error="warn")
    saver = BestModelSaver(model, str(tmp_path / "best"), metric="gradcam_deletion")
    with pytest.warns(CamWarning, match="the training goes on") as warned:
        catch = fitted("torch", model, trace, saver, epochs=2)
    assert sum("on request" in str(one.message) for one in warned) == 2  # in each epoch
    for caught in catch.caught:
        assert len(caught["gradcam"].grid.rows) == len(caught["gradcam_results"]) == 2
        assert np.isnan(caught["gradcam_deletion"])
        assert {"gradcam_film", "gradcam_atlas"} <= set(caught)
    assert (tmp_path / "gradcam_eval_epoch_002.png").exists()


def weights_after(framework: str, traced: bool) -> list[np.ndarray]:
    torch.manual_seed(5)
    tf.keras.utils.set_random_seed(5)  # and those of Python and NumPy; Keras may have a stream of its own by now
    model = build(framework)
    more = {"metrics": ["sanity", ("deletion", {"steps": 4}), "drift"], "track": True, "select": "random", "atlas": 6}
    how = {"mode": None, "n_samples": 3, "methods": ["grad_cam", "layer_cam"], **more}
    catch = fitted(framework, model, *([gradcam(model, **how)] if traced else []), mode="train", epochs=2)
    if traced:
        assert np.isfinite([caught["gradcam_sanity_layer_cam"] for caught in catch.caught]).all()
    return weights_of(framework, model)


def test_metrics_that_take_the_weights_apart_leave_the_training_bit_for_bit(framework: str) -> None:
    plain, traced = (weights_after(framework, traced) for traced in (False, True))
    # TensorFlow's own sums depend on its threads, when the machine is busy.
    within = 0 if framework == "torch" else 1e-5
    for one, other in zip(plain, traced, strict=True):
        assert_allclose(one, other, rtol=0, atol=within)


def test_a_target_that_is_no_class_has_no_value() -> None:
    model = build("torch")
    trace = gradcam(model, targets=Contrast(0, 1), metrics=["deletion", "road"], n_samples=2)
    (caught,) = fitted("torch", model, trace).caught
    assert np.isnan([caught["gradcam_deletion"], caught["gradcam_road"]]).all()


def test_two_methods_under_one_key_are_refused() -> None:
    options = Options(metrics="deletion")
    options.rules = [replace(METHODS["grad_cam"], name=name) for name in ("a(b=c)", "a(b.c)")]
    with pytest.raises(ArgumentError, match="would be logged under the same keys"):
        MetricsProduct(options)
