"""A model's inputs: which of them is the picture, how rows and pictures are taken of them, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_array_equal

from fe_gradcam import ArgumentError, explain, explain_many, gen_dl_model_heatmap, list_layers, measure
from fe_gradcam.spec.images import Inputs
from tests.models.toys import SmallTorch, small_keras

NUMBERS = np.arange(6, dtype=np.float32).reshape(3, 2)
PICTURES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 1, 4, 5)


@pytest.mark.parametrize("images", [PICTURES, torch.from_numpy(PICTURES)])
def test_a_single_input_is_the_picture_and_given_as_it_is(images: Any) -> None:
    inputs = Inputs.of(images).checked()
    assert inputs.given() is images
    assert inputs.picture is images
    assert len(inputs) == 3
    assert inputs.shapes == ((1, 4, 5),)
    assert inputs.size(channels_first=True) == (4, 5)
    assert inputs.size(channels_first=False) == (1, 4)


@pytest.mark.parametrize("packed", [tuple, list])
def test_of_several_the_first_with_axes_of_space_is_the_picture(packed: Any) -> None:
    inputs = Inputs.of(packed([NUMBERS, PICTURES, PICTURES + 1]))
    assert inputs.picture is PICTURES
    assert isinstance(inputs.given(), tuple)
    some = inputs.rows(slice(1, None))
    assert_array_equal(some.parts[0], NUMBERS[1:])
    assert_array_equal(some.picture, PICTURES[1:])
    other = inputs.with_picture(PICTURES + 7)
    assert_array_equal(other.picture, PICTURES + 7)
    assert other.parts[0] is NUMBERS


@pytest.mark.parametrize("channels_first", [True, False])
def test_other_pictures_take_the_other_inputs_of_their_rows_along(channels_first: bool) -> None:
    pictures = PICTURES if channels_first else PICTURES.transpose(0, 2, 3, 1)
    inputs = Inputs.of((NUMBERS, pictures)).in_torch()
    seen = inputs.seen(channels_first=channels_first)
    assert_array_equal(seen, PICTURES.astype(np.float32))
    rows = torch.tensor([2, 0, 2])
    asked = inputs.asked(seen[rows] + 0.4, rows, channels_first=channels_first)
    assert_array_equal(asked.parts[0], NUMBERS[[2, 0, 2]])
    assert_array_equal(asked.picture, pictures[[2, 0, 2]])  # bytes again, rounded


def test_samples_are_stacked_in_their_own_framework() -> None:
    tracked = torch.ones(1, 4, 5, requires_grad=True)
    stacked = Inputs.stacked([(NUMBERS[0], tracked), (NUMBERS[1], tracked)])
    assert_array_equal(stacked.parts[0], NUMBERS[:2])
    assert stacked.picture.shape == (2, 1, 4, 5)
    assert not stacked.picture.requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.png", r"images holds shapes \[\(\)\]"),
        ((), r"images holds shapes \[\]"),
        ((NUMBERS, PICTURES[:2]), r"images holds shapes \[\(3, 2\), \(2, 1, 4, 5\)\]"),
        (NUMBERS, r"images has shape \(3, 2\).*Add the batch axis"),
        (PICTURES[:0], "images is empty"),
    ],
)
def test_what_is_no_batch_of_images_is_named(images: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Inputs.of(images).checked()


class Unreadable:
    """Pictures of a file that is gone: the shape is known, the numbers are not to be had."""

    shape, dtype = (2, 3, 8, 8), np.dtype("f")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, at: Any) -> Any:
        raise OSError("the file is closed")


def structured() -> Any:
    return np.zeros((2, 3, 8, 8), [("red", "f4")])


REFUSED: dict[str, tuple[Any, str]] = {
    "names of files": (np.full((2, 3, 8, 8), "a.png"), r"images holds str\d+; accepted are numbers"),
    "bytes": (np.full((2, 3, 8, 8), b"a"), "images holds bytes8; accepted are numbers"),
    "objects": (np.full((2, 3, 8, 8), 1.0, object), "images holds object.*of float32"),
    "complex": (np.zeros((2, 3, 8, 8), np.complex64), "images holds complex64"),
    "complex of torch": (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), "images holds complex64"),
    "strings of TensorFlow": (tf.fill((2, 3, 8, 8), "a"), "images holds string"),
    "dates": (np.zeros((2, 3, 8, 8), "M8[s]"), "images holds datetime64"),
    "records": (structured(), "images holds void32"),
    "sparse": (torch.zeros(2, 3, 8, 8).to_sparse(), r"sparse_coo; accepted are dense ones. Pass images.to_dense\(\)"),
    "a closed file": (Unreadable(), r"images is a Unreadable, and its numbers cannot be read. Pass an array or tensor"),
    "meta": (torch.zeros(2, 3, 8, 8, device="meta"), "meta device and holds no numbers"),
    "no rows of pixels": (np.zeros((2, 3, 0, 8), "f"), r"images has shape \(2, 3, 0, 8\), which holds no pixels"),
    "no channels": (np.zeros((2, 0, 8, 8), "f"), r"images has shape \(2, 0, 8, 8\), which holds no pixels"),
}


def explained_by_the_operator(model: Any, images: Any) -> Any:
    return gen_dl_model_heatmap(model, [{"image": one} for one in images])


def measured(model: Any, images: Any) -> Any:
    heatmap = explain(model, torch.zeros(2, 3, 8, 8))
    return measure(model, images, heatmap, metrics=["average_drop"])


ENTRIES: dict[str, Callable[[Any, Any], Any]] = {
    "explain": explain,
    "explain_many": lambda model, images: explain_many(model, images, methods=["grad_cam", "occlusion"]),
    "list_layers": list_layers,
}


@pytest.mark.parametrize("entry", [*ENTRIES.values(), measured], ids=[*ENTRIES, "measure"])
@pytest.mark.parametrize(("images", "message"), REFUSED.values(), ids=REFUSED)
def test_what_holds_no_numbers_is_refused_at_every_entry(entry: Any, images: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        entry(SmallTorch(), images)


@pytest.mark.parametrize("kind", ["names of files", "objects", "complex", "no rows of pixels"])
def test_what_holds_no_numbers_is_refused_by_the_operator(kind: str) -> None:
    images, message = REFUSED[kind]
    with pytest.raises(ArgumentError, match=message):
        explained_by_the_operator(SmallTorch(), images)


FLOATS = np.random.default_rng(2).random((2, 3, 8, 8)).astype("f")
FORMS: dict[str, Callable[[], Any]] = {
    "other byte order": lambda: FLOATS.astype(">f4"),
    "bfloat16 of TensorFlow": lambda: tf.cast(FLOATS.round(), tf.bfloat16),
    "bfloat16 of NumPy": lambda: FLOATS.round().astype(tf.bfloat16.as_numpy_dtype),
    "bfloat16 of torch": lambda: torch.from_numpy(FLOATS.round()).bfloat16(),
    "truth values": lambda: FLOATS > 0.5,
    "truth values of torch": lambda: torch.from_numpy(FLOATS > 0.5),
    "truth values of TensorFlow": lambda: tf.constant(FLOATS > 0.5),
    "strides below zero": lambda: FLOATS[:, ::-1][:, ::-1],
}


@pytest.mark.parametrize("method", ["grad_cam", "score_cam"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_in_which_nothing_is_lost_are_as_good_as_floats(form: str, framework: str, method: str) -> None:
    """A mask darkens a picture of truth values by degrees: it does not turn them into others."""
    images = FORMS[form]()
    plain = FLOATS if form in ("other byte order", "strides below zero") else FLOATS.round()
    model: Any = SmallTorch()
    if framework == "keras":
        model, plain = small_keras(size=(8, 8)), plain.transpose(0, 2, 3, 1)
        images = images.permute(0, 2, 3, 1) if isinstance(images, torch.Tensor) else np.transpose(images, (0, 2, 3, 1))
        images = tf.constant(images) if "TensorFlow" in form else images
    found, expected = (explain(model, one, method=method, layer="conv2", target=1) for one in (images, plain))
    assert expected.raw.any()
    assert_array_equal(found.raw, expected.raw)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int32", "int64"])
def test_integers_for_a_model_of_floats_are_asked_for_as_floats(kind: str) -> None:
    """In which range the model wants them is not to be guessed."""
    with pytest.raises(ArgumentError, match=rf"images holds {kind}, and the model takes floats.*astype\('float32'\)"):
        explain(SmallTorch(), (FLOATS * 100).astype(kind))


BYTES = np.zeros((8, 64, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "channels_first", "expected"),
    [
        (BYTES.astype("f"), True, {"images.transpose(0, 3, 1, 2)": (1, 3, 64, 48)}),
        (BYTES.astype("f").transpose(0, 3, 1, 2), False, {"images.transpose(0, 2, 3, 1)": (1, 64, 48, 3)}),
        (torch.zeros(2, 4, 5, 6, 1), True, {"images.permute(0, 4, 1, 2, 3)": (1, 1, 4, 5, 6)}),
        (torch.zeros(2, 1, 4, 5, 6), False, {"images.permute(0, 2, 3, 4, 1)": (1, 4, 5, 6, 1)}),
        (
            BYTES,
            True,
            {
                "images.astype('float32') / 255": (1, 64, 48, 3),
                "images.transpose(0, 3, 1, 2)": (1, 3, 64, 48),
                "images.transpose(0, 3, 1, 2). images holds uint8, and the model takes floats: pass "
                "images.astype('float32') / 255": (1, 3, 64, 48),
            },
        ),
        (
            tf.zeros((2, 3, 5, 6), tf.int32),
            False,
            {
                "tf.cast(images, tf.float32)": (1, 3, 5, 6),
                "tf.transpose(images, (0, 2, 3, 1))": (1, 5, 6, 3),
                "tf.transpose(images, (0, 2, 3, 1)). images holds int32, and the model takes floats: pass "
                "tf.cast(images, tf.float32)": (1, 5, 6, 3),
            },
        ),
    ],
)
def test_other_forms_of_the_images_are_tried_with_what_a_user_writes_for_them(
    images: Any, channels_first: bool, expected: dict[str, tuple[int, ...]]
) -> None:
    found = list(Inputs.of(images).remedies(channels_first=channels_first))
    assert len(found) == len(expected)
    for (inputs, told), (code, shape) in zip(found, expected.items(), strict=True):
        assert f": pass {code}" in told
        assert tuple(inputs.picture.shape) == shape
        assert inputs.picture.is_floating_point() == ("int" not in str(images.dtype) or "takes floats" in told)


def test_of_several_inputs_the_picture_is_named() -> None:
    ((inputs, told),) = Inputs.of((NUMBERS, PICTURES.astype("f").transpose(0, 2, 3, 1))).remedies(channels_first=True)
    assert told.startswith("[1] has shape (3, 4, 5, 1)")
    assert "pass images[1].transpose(0, 3, 1, 2)" in told
    assert_array_equal(inputs.parts[0], NUMBERS[:1])
