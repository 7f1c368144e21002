"""The page of a training in a real browser: levels, colours, filters, words, keys, and what may not happen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from selenium.webdriver.common.keys import Keys

from fe_gradcam.drawing.pixels import colormap_lut, overlay
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.reporting.content import Page, PageDataset
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.scaling import upsample
from fe_gradcam.types import Heatmap, Scaling
from fe_gradcam.verdicts.places import place_of, where_in_words
from tests.browser.conftest import Browser
from tests.browser.drawn import levels_of, pixels
from tests.browser.example import HOSTILE, NAMES, Example, example
from tests.heat import heatmap_of

pytestmark = pytest.mark.browser


def card(image: int) -> str:
    return f".card[data-image='{image}'] canvas"


def levels(heatmap: Heatmap, image: int) -> NDArray[np.float64]:
    shares = heatmap.values[image].astype(np.float64)
    if heatmap.scaling != "none":
        return np.rint(255 * shares)
    return np.rint(127.5 + 127.5 * shares / np.abs(shares).max())


def signed_shares(heatmap: Heatmap, image: int) -> tuple[NDArray[np.float32], float]:
    """(H, W), the signed map at the size of the image over its largest magnitude, and that magnitude."""
    raw = torch.from_numpy(heatmap.raw[image : image + 1])
    largest = float(raw.abs().max())
    return upsample(raw, heatmap.values.shape[1:])[0].numpy() / np.float32(largest), largest


def test_it_opens_without_a_network(browser: Browser) -> None:
    browser.open()
    assert len(browser.all(".card")) == 24
    assert browser.text("h1") == browser.driver.title == "Shapes, epoch by epoch"
    assert browser.all("script[src], link[rel=stylesheet], iframe, object") == []


def test_its_policy_lets_no_other_script_in(browser: Browser) -> None:
    browser.open()
    browser.run("const one = document.createElement('script'); one.text = 'window.was = 1'; document.body.append(one)")
    assert browser.run("return window.was") is None
    assert "Content Security Policy" in browser.errors()[0]


@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none"])
def test_the_slider_by_keyboard_changes_the_canvas_to_the_right_levels(browser: Browser, scaling: Scaling) -> None:
    made = browser.open(scaling=scaling, images=6, epochs=5, side=100)
    browser.choose("view", "heat")
    slider = browser.one("#epoch")
    for at in (3, 2):
        slider.send_keys(Keys.ARROW_LEFT)
        assert slider.get_attribute("aria-valuetext") == f"epoch {at + 1}"
        for image in (0, 3):
            drawn = levels_of(pixels(browser, card(image)), "RdBu_r" if scaling == "none" else "turbo")
            assert np.abs(drawn - levels(made.parts[0][at].columns[0].heatmap, image)).max() <= 1
            assert np.ptp(drawn) > 100
    slider.send_keys(Keys.HOME)
    assert browser.text("#epoch-now") == "1 of 5"


def test_equal_levels_have_equal_colours_those_of_the_colormap(browser: Browser) -> None:
    browser.open(images=6, epochs=2)
    browser.choose("view", "heat")
    level = levels_of(pixels(browser, card(0)), "turbo")
    for name in ("gray", "viridis", "cividis"):
        browser.choose("colormap", name)
        assert_array_equal(pixels(browser, card(0))[..., :3], colormap_lut(name)[level])


def test_heat_over_a_picture_is_as_opaque_as_it_is_drawn_elsewhere(browser: Browser) -> None:
    """Over black and over white, that is the rule of `overlay`; a canvas stores colours times opacity, in bytes."""
    made = browser.open(images=6, epochs=2)
    browser.choose("alpha", 0.7)
    drawn, heat = pixels(browser, card(1)).astype(float), made.parts[0][-1].columns[0].heatmap.values[1]
    opacity = drawn[..., 3:] / 255
    for ground in (0, 255):
        shown = opacity * drawn[..., :3] + (1 - opacity) * ground
        wanted = overlay(np.full((128, 128, 3), ground, np.uint8), heat, alpha=0.7)
        assert np.abs(shown - wanted).max() <= 12  # neighbouring levels of turbo differ by up to 8
        assert np.abs(shown - wanted).mean() < 1


def test_a_threshold_hides_what_is_below(browser: Browser) -> None:
    made = browser.open(images=6, epochs=2)
    browser.choose("threshold", 0.5)
    heat, drawn = made.parts[0][-1].columns[0].heatmap.values[3], pixels(browser, card(3))[..., 3]
    assert (drawn[heat < 0.49] == 0).all()
    assert (drawn[heat > 0.51] > 0).all()


def test_the_signed_map(browser: Browser) -> None:
    made = browser.open(images=6, epochs=2)
    browser.choose("view", "signed")
    shares, _ = signed_shares(made.parts[0][-1].columns[0].heatmap, 0)
    drawn = levels_of(pixels(browser, card(0)), "RdBu_r")
    assert np.abs(drawn - np.rint(127.5 + 127.5 * shares)).max() <= 1
    assert drawn.min() < 100 < 200 < drawn.max()
    assert browser.text("#low") == "−1"


def test_heat_that_is_stored_once_is_shown_twice(browser: Browser) -> None:
    """The column of the true class holds only images that are told wrongly; the others have the heat of the answer."""
    made = browser.open(images=6, epochs=4)
    shown = made.parts[0][1].columns[1].shown
    assert shown is not None
    assert 0 < len(made.data["datasets"][0]["epochs"][1]["columns"][1]["heat"]["up"]) == shown.sum() < 6
    browser.choose("view", "heat")
    browser.choose("column", 1)
    browser.one("#epoch").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    for image in (int(np.argmin(shown)), 5 - int(np.argmax(shown[::-1]))):
        drawn = levels_of(pixels(browser, card(image)), "turbo")
        assert np.abs(drawn - levels(made.parts[0][1].columns[1].heatmap, image)).max() <= 1


def test_no_heat_is_decoded_before_it_is_seen(browser: Browser) -> None:
    browser.open(images=64, epochs=20, columns=[(name, "pred") for name in ("grad_cam", "hires_cam", "layer_cam")])
    decoded = "return Number(document.documentElement.dataset.decoded || 0)"
    first = browser.run(decoded)
    near = "[...document.querySelectorAll('.card')].filter(one => one.getBoundingClientRect().top < innerHeight + 150)"
    assert first <= browser.run(f"return {near}.length") < 64
    browser.look("#gallery")
    assert first < browser.run(decoded) < 64 * 3


def test_filters_count_right(browser: Browser) -> None:
    made = browser.open(images=40, epochs=3)
    browser.one("#epoch").send_keys(Keys.HOME)
    part = made.parts[0][0]
    labels, told, sure = part.labels, part.predictions, part.probabilities.max(1)
    assert part.ids is not None

    def shown() -> int:
        assert browser.text("#count") == f"{len(browser.all('.card'))} of 40 images"
        return len(browser.all(".card"))

    assert shown() == 40
    browser.choose("right", "wrong")
    assert shown() == (labels != told).sum() > 0
    browser.choose("of-class", 1)
    assert shown() == ((labels != told) & ((labels == 1) | (told == 1))).sum() > 0
    browser.one("#filters [type=reset]").click()
    assert shown() == 40
    browser.choose("from", 40)
    browser.choose("to", 60)
    assert shown() == ((sure >= 0.4) & (sure <= 0.6)).sum() > 0
    browser.one("#filters [type=reset]").click()
    browser.one("#name").send_keys("CIRCLE_01")
    assert shown() == sum("circle_01" in one for one in part.ids) > 0
    browser.one("#filters [type=reset]").click()
    browser.one("#epoch").send_keys(Keys.END)
    browser.choose("verdict", "wrong")
    assert shown() == np.isin(made.parts[0][-1].predictions, [2, 4]).sum() > 0


def test_the_order(browser: Browser) -> None:
    made = browser.open(epochs=6)
    browser.one("#epoch").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    part, epoch = made.parts[0][1], made.data["datasets"][0]["epochs"][1]

    def order() -> list[int]:
        return [int(one.get_attribute("data-image") or -1) for one in browser.all(".card")]

    badness = np.where(part.wrong, -1 - part.probabilities.max(1), part.probabilities.max(1))
    assert 0 < part.wrong.sum() < 24
    browser.choose("sort", "+worst")
    assert order() == np.argsort(badness, kind="stable").tolist()
    browser.choose("sort", "- gradcam_deletion")
    chosen = browser.run("return document.getElementById('sort').selectedOptions[0].text")
    assert chosen == "gradcam deletion, worst first"
    assert order() == np.argsort(-np.array(epoch["metrics"]["gradcam_deletion"]), kind="stable").tolist()


def test_names_from_outside_stay_text(browser: Browser) -> None:
    names = [HOSTILE, *NAMES[1:]]
    files = [f"{HOSTILE}{number}" for number in range(24)]
    browser.open(names=names, files=files, datasets=[HOSTILE, "other"], notes=[HOSTILE])
    assert browser.driver.title == "Shapes, epoch by epoch"
    assert browser.all("img[src=x]") == []
    assert browser.text(".card .id").startswith(HOSTILE)
    assert HOSTILE in browser.text(".verdicts")
    assert HOSTILE in browser.text("#quiet")
    assert HOSTILE in browser.text("#facts")
    assert HOSTILE in browser.text("#of-class")
    browser.run("document.querySelector('.card').click()")
    assert browser.text("#large-name").startswith(HOSTILE)
    assert browser.all("img[src=x]") == []


def test_a_picture_opens_large_by_keyboard_and_says_where_the_heat_is(browser: Browser) -> None:
    made = browser.open(images=6, epochs=4, side=90)
    heatmap = made.parts[0][-1].columns[0].heatmap
    browser.one(".card[data-image='2']").send_keys(Keys.ENTER)
    assert browser.one("#large").get_attribute("open") is not None
    box = place_of(heatmap.values[2].astype(np.float64))
    assert box is not None
    where = where_in_words(box, (90, 90))
    assert f"The heat is {'at' if 'edge' in where else 'in'} the {where}: " in browser.text("#large p")
    browser.one("#large .pane").send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    said, (shares, largest) = browser.text("#large .probe").replace("−", "-").split(), signed_shares(heatmap, 2)
    assert said[:4] == ["row", "46,", "column", "47:"]
    assert float(said[5].strip(",")) == pytest.approx(heatmap.values[2, 46, 47], abs=0.003)
    assert float(said[7]) == pytest.approx(shares[46, 47] * largest, abs=0.003 * largest)
    frames = browser.all("#large .film button")
    assert [one.get_attribute("aria-current") for one in frames] == ["false"] * 3 + ["true"]
    frames[0].send_keys(Keys.ENTER)
    assert browser.text("#epoch-now") == "1 of 4"
    assert browser.driver.switch_to.active_element.get_attribute("data-keep") == "frame 0"
    browser.one("#large [data-keep^=Next]").send_keys(Keys.ENTER)
    assert browser.text("#large-name") == "cross_003.png"
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.one("#large").get_attribute("open") is None
    assert browser.driver.switch_to.active_element.get_attribute("data-image") == "3"


def test_alternative_texts_say_the_finding(browser: Browser) -> None:
    browser.open(images=6, epochs=4)
    browser.look("#cards")
    said = browser.one(".card[data-image='2']").get_attribute("aria-label") or ""
    assert "lower right corner" in said
    assert "Verdict on triangle: told by a place of the frame." in said
    browser.look("#class-2")
    said = browser.one("#class-2 .pane").get_attribute("aria-label") or ""
    assert said.startswith("Mean heat of triangle. The heat is in the lower right corner: ")
    assert browser.one(".trials img").get_attribute("alt") == "as given: triangle with 98.2%"


def test_tabs_by_keyboard(browser: Browser) -> None:
    browser.open()
    tab = browser.one("[role=tab]")
    shown = "return [...document.querySelectorAll('.verdicts tbody:not([hidden]) th')].map(one => one.textContent)"
    assert browser.run(shown) == ["triangle", "ring"]
    tab.send_keys(Keys.ARROW_RIGHT)
    assert browser.run(shown) == ["circle", "square", "cross"]
    browser.driver.switch_to.active_element.send_keys(Keys.END)
    assert browser.run(shown) == ["bar"]
    assert [one.get_attribute("aria-selected") for one in browser.all("[role=tab]")] == ["false", "false", "true"]


def test_the_curves_follow_the_epoch_and_lead_to_it(browser: Browser) -> None:
    made = browser.open(epochs=5)
    browser.one("#epoch").send_keys(Keys.ARROW_LEFT)
    assert browser.text("figcaption") == f"accuracy{made.data['curves'][0]['points'][3][1]:.3f}"
    browser.one("#charts svg").click()
    assert browser.text("#epoch-now") == "3 of 5"
    browser.one("#numbers summary").click()
    browser.look("#numbers")  # its table is made once it is open
    assert len(browser.all("#numbers tbody tr")) == 5


def test_playing_goes_on_to_the_last_epoch(browser: Browser) -> None:
    browser.open(images=4, epochs=3)
    browser.one("#play").click()
    script = (
        "const done = arguments[0], seen = new Set(); const look = setInterval(() => {"
        "seen.add(document.getElementById('epoch-now').textContent);"
        "if (document.getElementById('play').textContent === 'Play') { clearInterval(look); done([...seen]); }}, 20)"
    )
    assert browser.driver.execute_async_script(script) == ["1 of 3", "2 of 3", "3 of 3"]


def test_playing_can_be_stopped(browser: Browser) -> None:
    browser.open(images=4, epochs=9)
    for words in ("Pause", "Play"):
        browser.one("#play").click()
        assert browser.text("#play") == words
    at = browser.text("#epoch-now")
    browser.driver.execute_async_script("setTimeout(arguments[0], 900)")  # two epochs
    assert browser.text("#epoch-now") == at


def test_what_was_asked_can_be_copied(browser: Browser) -> None:
    made = browser.open()
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", grant)
    browser.one("#copy").click()
    script = "const done = arguments[0]; navigator.clipboard.readText().then(text => done(JSON.parse(text)))"
    assert browser.driver.execute_async_script(script) == made.data["asked"]
    assert browser.text("#copied") == "Copied."


def test_several_datasets(browser: Browser) -> None:
    made = example(datasets=["clean", "noisy"], images=7)
    made.data["curves"][-1]["dataset"] = "noisy"
    browser.open(made)
    assert len(browser.all("#charts figure")) == 3
    assert [one.is_displayed() for one in browser.all(".of-dataset")] == [True, False]
    browser.choose("dataset", 1)
    assert [one.is_displayed() for one in browser.all(".of-dataset")] == [False, True]
    assert "noisy" in browser.text("#facts")
    assert len(browser.all("#charts figure")) == 4
    assert len(browser.all(".card")) == 7


@pytest.mark.parametrize(
    "parts",
    [
        {"labels": False},
        {"ids": False, "pictures": False},
        {"verdicts": False, "atlas": False, "metrics": False},
        {"epochs": 1},
        {"epochs": 0},
        {"images": 1, "blank": 1},
        {"blank": 3, "scaling": "none"},
        {"columns": [("eigen_cam", "3")]},
    ],
)
def test_what_is_missing_is_left_out(browser: Browser, parts: dict[str, Any]) -> None:
    browser.open(**parts)
    browser.look("#cards")
    assert browser.one("#ask-right").is_displayed() is parts.get("labels", True)
    assert browser.one("#ask-verdict").is_displayed() is parts.get("verdicts", True)
    assert browser.one("#curves").is_displayed() is parts.get("metrics", True)
    assert browser.one("#atlas").is_displayed() is parts.get("atlas", True)
    assert browser.one("#marks").is_displayed() is parts.get("labels", True)
    assert browser.one("#doubts").is_displayed() is parts.get("verdicts", True)
    assert bool(browser.all("img")) is parts.get("pictures", True)
    if parts.get("blank") and "scaling" not in parts:
        assert "There is no heat" in (browser.one(".card").get_attribute("aria-label") or "")
    for view in ("signed", "image", "heat"):
        browser.choose("view", view)
    browser.choose("column", "all" if len(parts.get("columns", "two")) > 1 else 0)
    browser.run("document.querySelector('.card').click()")
    assert browser.text("#large-name") == ("image 1" if "ids" in parts else "circle_000.png")


def test_a_page_of_a_trained_model_has_no_epochs(browser: Browser) -> None:
    browser.open(epochs=0, metrics=False)
    assert not browser.one("#epoch").is_displayed()
    assert "epoch" not in browser.text("#facts")
    assert "epoch" not in browser.one("main").text.lower()
    browser.run("document.querySelector('.card').click()")
    assert browser.all("#large .film") == []


def test_an_epoch_without_images(browser: Browser) -> None:
    made = example(images=6, epochs=3)
    for epoch in made.data["datasets"][0]["epochs"][:2]:
        epoch |= {"images": [], "predictions": [], "confidences": [], "true": [], "columns": [], "metrics": {}}
    made.data["datasets"][0]["epochs"][-1]["images"] = [1, 0, 2, 3, 5, 4]
    browser.open(made)
    assert browser.one(".card").get_attribute("data-image") == "1"
    browser.one("#epoch").send_keys(Keys.HOME)
    assert browser.text("#count") == "The images of this epoch were not kept."


def test_what_is_not_known_is_not_said(browser: Browser) -> None:
    made = example(images=3, epochs=2)
    for epoch in made.data["datasets"][0]["epochs"]:
        epoch |= {"predictions": None, "confidences": None, "true": [None, None, None]}
    browser.open(made)
    browser.look("#cards")
    assert browser.text(".card .told") == "is circle"
    browser.run("document.querySelector('.card').click()")
    assert [one.text for one in browser.all("#large tr th")][:2] == ["is", "heat for"]


def test_a_confidence_that_is_not_known_is_not_said(browser: Browser) -> None:
    made = example(images=3, epochs=1)
    made.data["datasets"][0]["epochs"][0]["confidences"] = [None] * 3
    browser.open(made)
    browser.look("#cards")
    assert browser.text(".card .told") == "✓ circle"
    browser.run("document.querySelector('.card').click()")
    assert browser.text("#large td") == "circle"


def test_without_an_atlas_no_mean_heat_is_spoken_of(browser: Browser) -> None:
    browser.open(images=6, epochs=2, atlas=False)
    for node in ("#class-2", "#class-0"):
        browser.look(node)
        assert browser.one(f"{node} h3").is_displayed()
        assert not browser.one(f"{node} .mean").is_displayed()
        wide = "return [one, one.querySelector(':scope > div:last-child')].map(of => of.clientWidth)"
        whole, beside = browser.run(wide.replace("one", f"document.querySelector('{node}')", 2))
        assert beside == whole


def test_a_class_without_mean_heat_says_so_once(browser: Browser) -> None:
    made = example(images=6, epochs=1)
    atlas = made.data["datasets"][0]["epochs"][0]["atlas"]
    atlas["classes"][2]["class_id"] = 17
    browser.open(made)
    browser.look("#class-2")
    assert browser.one("#class-2 .mean").text == "There is no mean heat."
    assert not browser.one("#class-2 .pane").is_displayed()
    browser.look("#class-1")
    assert browser.one("#class-1 .pane").is_displayed()


@pytest.mark.parametrize(
    ("map_", "said"),
    [
        ([[0, 0, 0, 0]] * 3 + [[0, 0, 0, 1]], "The heat is in the lower right corner: 100% of it on 6% of the image."),
        (
            [[0, 0, 0, 0], [1, 1, 1, 1]] + [[1] * 4] * 2,
            "The heat is all over the image: 100% of it on 75% of the image.",
        ),
        (
            [[0.4, 0, 0.4, 0], [0, 0.4, 0, 0.4], [0.4, 0, 0.4, 0], [0, 0.4, 0, 1]],
            "The heat is scattered, hottest in the lower right corner: 26% of it on 6% of the image.",
        ),
        ([[0, 0, 0, 0]] * 4, "There is no heat: no evidence for this class."),
    ],
)
def test_where_the_heat_is_by_hand(browser: Browser, map_: list[list[float]], said: str) -> None:
    raw = np.array([map_], np.float32)
    pictures, dataset = np.zeros((1, 4, 4, 3), np.uint8), PageDataset()
    dataset.add(
        Explained(pictures, [Column("grad_cam", "pred", heatmap_of(raw, 0, raw=raw))], None, None, None), 0, Shown()
    )
    browser.open(Example(Page("By hand", datasets={"": dataset}).to_dict(), []))
    browser.look("#cards")
    assert said in (browser.one(".card").get_attribute("aria-label") or "")
    browser.one(".card").click()
    assert browser.text("#large p") == said


@pytest.mark.parametrize("scaling", ["scale_after_relu", "none"])
def test_the_legend_has_the_colours_of_the_heat(browser: Browser, scaling: Scaling) -> None:
    browser.open(images=3, epochs=1, scaling=scaling)
    for view in ("heat", "signed"):
        browser.choose("view", view)
        colormap, low = ("RdBu_r", "−1") if "none" in scaling or view == "signed" else ("turbo", "0")
        colours, _, _ = browser.canvas(browser.one("#legend"))
        assert_array_equal(np.reshape(colours, (256, 4))[:, :3], colormap_lut(colormap))
        assert browser.text("#low") == low


def test_a_name_cannot_have_its_number_read_backwards(browser: Browser) -> None:
    names = ["\u202ecircle\u2066", *NAMES[1:]]
    browser.open(images=6, epochs=1, names=names)
    assert browser.text(".card .told").startswith("✓ circle 7")


def test_nothing_is_wider_than_a_narrow_window(browser: Browser) -> None:
    made = example(images=6, epochs=2, names=["w" * 80, *NAMES[1:]], files=["f" * 200] * 6)
    made.data["asked"]["weights_sha256"] = "9a129038" * 8
    metrics = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.open(made)
    browser.one(".card").click()
    for css in ("html", "#large"):
        assert browser.run("return arguments[0].scrollWidth - arguments[0].clientWidth", browser.one(css)) == 0
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_the_verdicts_are_there(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open()
        seen = browser.one("body").text
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Shapes, epoch by epoch" in seen
    assert "scripts" in browser.text("noscript")
    for name in NAMES:
        assert f"{name} " in seen
    assert "told by a place of the frame" in seen
    assert "Epoch" not in seen


def test_print_shows_all_classes_and_all_cards(browser: Browser) -> None:
    browser.open(images=30)
    browser.driver.execute_cdp_cmd("Page.printToPDF", {})
    drawn = "return [...document.querySelectorAll('.card canvas')].filter(one => one.width > 1).length"
    assert browser.run(drawn) == 30
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert all(one.is_displayed() for one in browser.all(".verdicts tbody"))
    assert not any(one.is_displayed() for one in browser.all("#bar input, #filters select, button:not(.card)"))
    assert browser.one("#epoch-now").is_displayed()
    assert "grad cam, inferred class" in browser.one("#bar").text
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Browser, axe: str, scheme: str, width: int) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.open(datasets=["clean", "noisy"], images=8, epochs=4, notes=["Epochs 1 to 3 were left out."])
    browser.run(axe)
    found = "found.violations.map(one => [one.impact, one.id, one.nodes[0].html])"
    run = f"const done = arguments[0]; axe.run().then(found => done({found}))"
    assert browser.driver.execute_async_script(run) == []
    browser.run("document.querySelector('.card').click()")
    assert browser.driver.execute_async_script(run) == []
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
