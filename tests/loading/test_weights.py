"""Files of weights of every form, and those that do not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fe_gradcam import ArgumentError, explain
from fe_gradcam.loading.models import load_model
from tests.models.squares import BLUE, RED, as_input, keras_colours, squares


@pytest.mark.parametrize(
    ("file", "key", "prefix"),
    [
        ("w.pt", "", ""), ("w.pt", "", "_orig_mod.module."), ("w.pth", "", "module."), ("w.pt", "model", ""),
        ("w.pt", "model_state_dict", ""), ("w.ckpt", "state_dict", ""), ("w.safetensors", "", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["nets:Colours", "nets:wrapped"])
def test_weights(here: Path, file: str, key: str, prefix: str, model: str) -> None:
    net = load_model("nets:Colours").model
    with torch.no_grad():
        net.fc.weight.copy_(net.fc.weight.flip(0))
    state = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    save = save_file if file == "w.safetensors" else torch.save
    save({key: state, "epoch": 3} if key else state, file)
    heat = explain(load_model(model, file).model, as_input(squares()), target=0).values[0]
    assert heat[BLUE].min() == 1, "the weights have the classes exchanged"
    assert heat[RED].max() == 0


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("opened",)


def refused(weights: str, model: str = "nets:Colours") -> str:
    with pytest.raises(ArgumentError) as caught:
        load_model(model, weights)
    assert caught.value.argument == "weights"
    return str(caught.value)


def test_weights_that_do_not_fit(here: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2, 3, 1, 1), "more": torch.zeros(1)}, "other.pt")
    assert refused("other.pt") == (
        "weights='other.pt' does not fit the model: 3 tensors of the model are not in the file (conv.bias, fc.weight, "
        "fc.bias); 1 tensors of the file are not in the model (more)."
    )
    torch.save({"conv.weight": torch.zeros(5, 3, 1, 1)}, "shape.pt")
    assert "size mismatch for conv.weight" in refused("shape.pt")
    torch.save({"epoch": 3}, "none.pt")
    assert "holds the keys epoch" in refused("none.pt")
    (here / "text.pt").write_text("no tensors")
    assert "cannot be read as a file of tensors" in refused("text.pt")
    (here / "evil.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    assert "a whole pickled model is not opened" in refused("evil.pt")
    assert not (here / "opened").exists()
    (here / "text.safetensors").write_text("no tensors")
    assert "cannot be read" in refused("text.safetensors")


def test_keras_weights(here: Path) -> None:
    model, images = keras_colours(), as_input(squares()).transpose(0, 2, 3, 1)
    model.save("model.keras")
    model.get_layer("fc").set_weights([8 * np.eye(2, dtype=np.float32)[::-1], np.zeros(2, np.float32)])
    model.save_weights("w.weights.h5")
    model.save_weights("w.h5")
    (here / "kept.py").write_text("import tensorflow as tf\nnet = lambda: tf.keras.models.load_model('model.keras')\n")
    for model, weights in (("model.keras", "w.weights.h5"), ("kept:net", "w.h5")):
        heat = explain(load_model(model, weights).model, images, target=0).values[0]
        assert heat[BLUE].min() == 1
    assert "is no file of Keras weights. Accepted: .keras, .h5, .hdf5." in refused("squares.png", "model.keras")
    keras_colours(1).save_weights("grey.h5")
    assert "does not fit the model" in refused("grey.h5", "model.keras")
