"""What a canvas of the page shows, as colours and as levels of a colour map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import colormap_lut
from tests.browser.conftest import Browser


def pixels(browser: Browser, css: str) -> NDArray[np.uint8]:
    """(H, W, 4), what is drawn on a canvas."""
    browser.look(css)
    data, height, width = browser.canvas(browser.one(css))
    return np.array(data, np.uint8).reshape(height, width, 4)


def levels_of(drawn: NDArray[np.uint8], colormap: str) -> NDArray[np.int64]:
    """(H, W), the levels of opaque colours; each must be one of the colormap, which has no colour twice."""
    assert (drawn[..., 3] == 255).all()
    by_colour = {tuple(colour): level for level, colour in enumerate(colormap_lut(colormap).tolist())}
    assert len(by_colour) == 256
    return np.array([[by_colour[tuple(one)] for one in line] for line in drawn[..., :3].tolist()])
