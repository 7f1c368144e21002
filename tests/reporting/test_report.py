"""A page of what a trained model was explained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, CamWarning, explain_many, find_shortcuts, measure, report
from fe_gradcam.reporting import report as module
from fe_gradcam.verdicts.verdict import Verdict
from tests.models.toys import SmallTorch
from tests.reporting.pages import levels_in, page_in
from tests.verdicts.coloured import BLUE, GREEN, GREEN_BY_MARK, RED, network, scenes


def explained() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model, images = SmallTorch().eval(), torch.rand(5, 3, 9, 12)
    return model, images, explain_many(model, images, methods=["grad_cam", "hires_cam"])


def test_the_page_has_images_heat_names_and_metrics(tmp_path: Path) -> None:
    model, images, heatmaps = explained()
    values = measure(model, images, heatmaps[0], "deletion")
    names = ["cat", "dog", "cow", "hen", "pig"]
    path = report(
        tmp_path / "deep" / "page.html", images, heatmaps, labels=np.arange(5), ids=list("abcde"), class_names=names,
        metrics=values, title="Farm",
    )  # fmt: skip
    said = page_in(path)
    assert path == tmp_path / "deep" / "page.html" and said["title"] == "Farm"
    assert said["metrics"] == {"deletion": "lower is better"} and said["curves"] == []
    (dataset,) = said["datasets"]
    assert [(one["id"], one["label"]) for one in dataset["images"]] == list(zip("abcde", range(5), strict=True))
    (epoch,) = dataset["epochs"]
    assert epoch["metrics"]["deletion"] == pytest.approx(values["deletion"], rel=1e-4)
    assert epoch["confidences"] == pytest.approx(heatmaps[0].confidences, rel=1e-4)
    for column, heatmap in zip(epoch["columns"], heatmaps, strict=True):
        assert np.abs(levels_in(column["heat"]) - np.rint(255 * heatmap.values)).max() <= 1
    assert said["asked"]["methods"] == ["grad_cam", "hires_cam"]


def test_verdicts_are_there_and_without_pictures_no_image_is(tmp_path: Path) -> None:
    classes = [RED] * 12 + [GREEN] * 12 + [BLUE] * 12
    images, masks = scenes(classes, (GREEN,))
    model = network(GREEN_BY_MARK)
    found = find_shortcuts(model, torch.from_numpy(images), np.array(classes), masks=masks)
    heatmaps = explain_many(model, torch.from_numpy(images))
    for pictures in (True, False):
        path = report(tmp_path / "page.html", images, heatmaps, verdicts=found, pictures=pictures)
        verdicts = page_in(path)["datasets"][0]["epochs"][0]["verdicts"]
        assert [one["class_id"] for one in verdicts if one["accuses"]] == [GREEN]
        assert ("data:image" in path.read_text()) == pictures
        assert bool(page_in(path)["pictures"]) == pictures


def test_verdicts_have_the_names_that_the_page_has(tmp_path: Path) -> None:
    _, images, heatmaps = explained()
    found = [Verdict.of(class_id, name, [], 5) for class_id, name in ((1, "1"), (9, "fox"))]
    names = ["cat", "dog", "cow", "hen", "pig"]
    path = report(tmp_path / "page.html", images, heatmaps, class_names=names, verdicts=found)
    assert [one["name"] for one in page_in(path)["datasets"][0]["epochs"][0]["verdicts"]] == ["dog", "fox"]


def test_the_same_call_writes_the_same_file(tmp_path: Path) -> None:
    _, images, heatmaps = explained()
    first, second = (report(tmp_path / name / "page.html", images, heatmaps).read_bytes() for name in "ab")
    assert first == second


def test_a_large_page_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1000)
    _, images, heatmaps = explained()
    with pytest.warns(CamWarning, match=r"page\.html has 0\.\d MB .*pass fewer images or heatmaps, or pictures=False"):
        report(tmp_path / "page.html", images, heatmaps)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"path": "page.png"}, r"path='page\.png' does not end in \.html"),
        ({"metrics": {"deletion": [1.0]}}, r"metrics\['deletion'\] has shape \(1,\); \(5,\) is needed"),
        ({"verdicts": ["place"]}, r"verdicts=\['place'\] is not accepted\. Accepted: a list of Verdict"),
        ({"ids": ["a"]}, r"ids holds 1 names for 5 images"),
        ({"heatmaps": []}, r"heatmaps is empty\. Accepted: a Heatmap of explain"),
        ({"save_dir": "here"}, r"'save_dir'.*path, the first argument"),
    ],
)
def test_mistakes_name_the_argument(tmp_path: Path, how: dict[str, Any], said: str) -> None:
    _, images, heatmaps = explained()
    given = {"path": tmp_path / "page.html", "images": images, "heatmaps": heatmaps, **how}
    with pytest.raises((ArgumentError, TypeError), match=said):
        report(**given)
    assert not list(tmp_path.iterdir())
