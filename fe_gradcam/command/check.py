"""Checks a model on image files, or on noise."""

from __future__ import annotations

from fe_gradcam.command.messages import model_errors, refuse, say, tell
from fe_gradcam.command.options import CheckRequest
from fe_gradcam.command.request import layer_asked, output_asked, preparation_for
from fe_gradcam.loading.models import load_model

NOISE = 4
"""How many images of noise are made if none are given."""


def check_on_images(request: CheckRequest) -> bool:
    """Prints a table for each method; returns whether all tests passed."""
    import numpy as np

    from fe_gradcam.checking.check import MOST_TESTED, check_model
    from fe_gradcam.loading.photos import read_photo
    from fe_gradcam.methods import METHODS

    methods = [METHODS.find(METHODS.parse(text)) for text in request.methods]
    loaded = load_model(request.model, request.weights, request.device)
    preparation, layer = preparation_for(request, loaded), layer_asked(loaded, request.layers)
    if isinstance(layer, list):
        refuse("--layer", "one layer is checked at a time: name it once.")
    if request.images:
        files = request.images[:MOST_TESTED]
        pictures = np.stack([read_photo(path, preparation).picture for path in files])
        if len(request.images) > len(files):
            say(f"The first {len(files)} of {len(request.images)} images are tested.")
    else:
        say(f"No IMAGES: {NOISE} images of noise are tested. Real ones tell more.")
        shape = (NOISE, *preparation.size, preparation.channels)
        pictures = np.random.default_rng(request.seed).integers(0, 256, shape, np.uint8)
    images = preparation.inputs(pictures, channels_first=loaded.framework == "torch")
    passed = True
    for method in methods:
        with model_errors(loaded.name, images.shape):
            found = check_model(
                loaded.model, images, method=(method.name, method.given), layer=layer, seed=request.seed,
                model_output=output_asked(request.model_output),
            )  # fmt: skip
        tell(f"{method.label}: {found}")
        passed = passed and found.passed
    return passed
