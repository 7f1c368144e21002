"""Models by name or file, what their images are, and what a caller in Python is told."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose

from fe_gradcam import CamError, UnsupportedModelError, explain
from fe_gradcam.loading import models
from fe_gradcam.loading.models import Geometry, geometry_of, load_model
from tests.models.kerases import KERASES
from tests.models.squares import as_input, keras_colours, squares


@pytest.mark.parametrize("name", ["Colours", "ready", "wrapped", "sized", "of_timm", "of_transformers"])
def test_a_model_that_is_ready_or_says_its_size(here: Path, name: str) -> None:
    loaded = load_model(f"nets:{name}", device="cpu")
    says = name in ("sized", "of_timm", "of_transformers")
    assert (loaded.name, loaded.framework) == (f"nets:{name}", "torch")
    assert geometry_of(loaded, None if says else (16, 16)) == Geometry((16, 16), 3)
    assert geometry_of(loaded, (32, 8), 1) == Geometry((32, 8), 1), "what is asked for goes first"
    import nets

    expected = explain(nets.Colours(), as_input(squares()))
    assert_allclose(explain(loaded.model, as_input(squares())).values, expected.values)


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.hdf5"])
@pytest.mark.parametrize("framework", KERASES)
def test_a_keras_file_says_what_it_takes(here: Path, framework: str, file: str) -> None:
    model = keras_colours(keras=KERASES[framework])
    model.save(file, **({"save_format": "h5"} if file.endswith("5") and framework == "keras" else {}))
    loaded = load_model(file)
    assert loaded.framework == "keras"
    assert isinstance(loaded.model, KERASES[framework].Model), "another Keras than the one that wrote it"
    images = as_input(squares()).transpose(0, 2, 3, 1)
    assert_allclose(loaded.model(images), model(images))
    assert geometry_of(loaded) == geometry_of(loaded, (16, 16), 3) == Geometry((16, 16), 3)


@pytest.mark.parametrize("framework", KERASES)
def test_keras_models_of_other_kinds(here: Path, framework: str) -> None:
    keras = KERASES[framework]
    keras_colours(1, keras=keras).save("grey.keras")
    assert geometry_of(load_model("grey.keras")).channels == 1
    keras_colours(4, keras=keras).save("four.keras")
    with pytest.raises(UnsupportedModelError, match=r"model='four\.keras' takes images of 4 channels"):
        geometry_of(load_model("four.keras"))
    (here / "flat.py").write_text(
        f"import {keras.__name__.partition('.')[0]} as keras\n"
        "net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
    )
    with pytest.raises(UnsupportedModelError, match=r"model takes inputs \(None, 3\); one image"):
        geometry_of(load_model("flat:net"))


@pytest.mark.parametrize(
    ("given", "argument", "message"),
    [
        ({"name": "w.pt"}, "model", "the model that takes them: package.module:factory weights=w.pt."),
        ({"name": "gone.keras"}, "model", "model='gone.keras' does not exist."),
        ({"name": "text.keras"}, "model", "builds the model, and this file as weights=."),
        ({"name": "nets:Colours", "device": "tpu9"}, "device", "device='tpu9' cannot be used: "),
        ({"name": "nets:Colours", "weights": "gone.pt"}, "weights", "weights='gone.pt' cannot be read as a file"),
    ],
)
def test_errors_name_their_argument(here: Path, given: dict[str, Any], argument: str, message: str) -> None:
    (here / "text.keras").write_text("no model")
    with pytest.raises(CamError) as caught:
        load_model(**given)
    assert isinstance(caught.value, ValueError)
    assert caught.value.argument == argument
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "written", "expected"),
    [
        ({"keras": "3.15.1", "tf_keras": "2.21.0"}, 3, ["keras", "tf_keras"]),
        ({"keras": "3.15.1", "tf_keras": "2.21.0"}, 2, ["tf_keras", "keras"]),
        ({"keras": "3.15.1"}, 2, ["keras"]),
        ({"keras": "2.15.0", "tf_keras": "2.15.0"}, 2, ["keras"]),
        ({}, 2, ["keras"]),
        ({"tf_keras": "2.21.0", "keras-nightly": "3.16.0"}, 2, ["tf_keras", "keras"]),
    ],
)
def test_a_file_is_opened_by_the_keras_that_wrote_it(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], written: int, expected: list[str]
) -> None:
    monkeypatch.setattr(models, "find_spec", installed.get)

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(models, "version", version)
    monkeypatch.setattr(models, "_written_by", lambda path: written)
    assert models._kerases_for(Path("model.keras")) == expected
