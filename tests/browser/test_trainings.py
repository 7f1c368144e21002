"""Pages of trainings that were killed, while they trained or while the page was written, and then resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Browser
from tests.browser.drawn import levels_of, pixels
from tests.browser.killed import ENDS, pictures
from tests.trainings import COUNT, ROOT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `tests.browser.killed` made."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-W", "ignore", "-m", "tests.browser.killed", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


def picture(browser: Browser, image: int) -> NDArray[np.uint8]:
    """(H, W, 3), the picture below the heat of a card."""
    script = (
        "const image = document.querySelector(`.card[data-image='${arguments[0]}'] img`);"
        "const done = arguments[1], copy = document.createElement('canvas'); image.decode().then(() => {"
        "Object.assign(copy, {width: image.naturalWidth, height: image.naturalHeight});"
        "const paint = copy.getContext('2d'); paint.drawImage(image, 0, 0);"
        "done([...paint.getImageData(0, 0, copy.width, copy.height).data]); })"
    )
    return np.array(browser.driver.execute_async_script(script, image), np.uint8).reshape(9, 12, 4)[..., :3]


def look_at(browser: Browser, folder: Path, epochs: int) -> None:
    """A page has the epochs, and in each the pictures of the training with the heat that was stored beside the page."""
    browser.show(folder / "gradcam_eval_report.html")
    browser.choose("view", "heat")
    slider = browser.one("#epoch")
    assert browser.text("#epoch-now") == f"{epochs} of {epochs}"
    slider.send_keys(Keys.HOME)
    seen = []
    for number in range(1, epochs + 1):
        assert browser.text("#epoch-now") == f"{number} of {epochs}"
        stored = np.load(folder / f"gradcam_eval_epoch_{number:03d}.npz")
        for image, name in enumerate(stored["ids"]):
            assert browser.text(f".card[data-image='{image}'] .id") == name
            assert_array_equal(picture(browser, image), pictures()[int(name) - 100])
            drawn = levels_of(pixels(browser, f".card[data-image='{image}'] canvas"), "turbo")
            assert np.abs(drawn - np.rint(255.0 * stored["grad_cam.pred.values"][image])).max() <= 1
            seen.append(drawn)
        slider.send_keys(Keys.ARROW_RIGHT)
    assert len(seen) == 3 * epochs < COUNT * epochs
    assert all(np.ptp(one) > 100 for one in seen[:3])
    browser.one(".card").click()
    assert len(browser.all("#large .film button")) == epochs


@pytest.mark.parametrize("framework", ENDS)
def test_the_page_of_a_killed_training_is_that_of_the_last_epoch(
    browser: Browser, trained: Path, framework: str
) -> None:
    folder = trained / "killed" / framework
    assert len(list(folder.glob(".*.tmp"))) == (ENDS[framework] == "writing")  # the third page, written but not there
    look_at(browser, folder, 2)


@pytest.mark.parametrize("framework", ENDS)
def test_the_page_of_a_resumed_training_has_all_epochs(browser: Browser, trained: Path, framework: str) -> None:
    look_at(browser, trained / "resumed" / framework, 4)
