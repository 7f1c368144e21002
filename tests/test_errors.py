"""Errors of parts: what Python reads, what the command line reads, and what they know of themselves."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

from fe_gradcam import ArgumentError, CamError, CamWarning, GradientError, UnknownNameError, UnsupportedModelError
from fe_gradcam.errors import LIST_LAYERS, MOST_SHOWN, Argument, in_one_line, in_short, nearest, printable, said_by

WORDS = {"layer": "--layer", "class_names": "--class-names", LIST_LAYERS.name: '"fe-gradcam layers"'}
PARTS = (
    Argument("layer", "'con'"), " is no layer; ", LIST_LAYERS, " shows them. Pass ", Argument("layer", ""),
    " with one, or ", Argument("class_names"), "; seed is ", Argument("seed", "3"), ".",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (CamError, Exception),
        (ArgumentError, ValueError),
        (UnknownNameError, KeyError),
        (UnsupportedModelError, TypeError),
        (GradientError, RuntimeError),
        (CamWarning, UserWarning),
    ],
)
def test_one_wording_for_both(kind: type[CamError], builtin: type[Exception]) -> None:
    error = kind(*PARTS)
    assert isinstance(error, builtin)
    assert str(error) == (
        "layer='con' is no layer; fe_gradcam.list_layers(model, images) shows them. Pass layer= with one, or "
        "class_names; seed is seed=3."
    )
    assert error.told(WORDS) == (
        "--layer 'con' is no layer; \"fe-gradcam layers\" shows them. Pass --layer with one, or --class-names; seed is "
        "seed=3."
    )
    assert error.argument == "layer"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_text_alone_is_a_message_too() -> None:
    error = ArgumentError("images is empty")
    assert str(error) == error.told(WORDS) == "images is empty"
    assert error.argument is None
    assert str(UnknownNameError()) == ""


def test_a_warning_of_parts_is_seen_as_one() -> None:
    with pytest.warns(CamWarning, match="layer=3 is flat") as seen:
        warnings.warn(CamWarning(Argument("layer", "3"), " is flat"), stacklevel=1)
    assert isinstance(seen[0].message, CamWarning)


def test_the_nearest_names() -> None:
    assert nearest("layer5", ["layer4", "layer3", "fc"]) == "; did you mean 'layer4', 'layer3'?"
    assert nearest("conv", ["fc"]) == "."


def test_an_error_of_others_in_one_line() -> None:
    try:
        raise ValueError("first\n  second")
    except ValueError as error:
        said = in_one_line(error)
    assert said.startswith(f"ValueError: first second ({__file__}, line ")
    assert in_one_line(ValueError()) == "ValueError"
    assert len(in_one_line(ValueError("x" * 900))) < 530


def test_a_name_as_papers_write_it_is_near_to_its_own() -> None:
    known = ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "le_grad"]
    assert nearest("Grad-CAM", known) == "; did you mean 'grad_cam'?"
    assert nearest("Grad-CAM++", known) == "; did you mean 'grad_cam_plus_plus'?"
    assert nearest("gradcam", known).startswith("; did you mean 'grad_cam'")


def test_an_error_whose_text_cannot_be_made_is_named_by_its_class() -> None:
    class MuteError(ValueError):
        def __str__(self) -> str:
            raise RuntimeError

    assert said_by(MuteError()) == "(its text cannot be made: RuntimeError)"
    assert in_one_line(MuteError()).startswith("MuteError: (its text cannot be made: RuntimeError)")
    assert said_by(ValueError("five")) == "five"


class Unspoken:
    def __repr__(self) -> str:
        raise ValueError("no")


class Loud:
    def __repr__(self) -> str:
        return "\x1b[2J\u202eup\r"


def test_a_value_is_shown_on_one_line_and_moves_no_cursor() -> None:
    assert in_short("a\nb") == "'a\\nb'"
    assert in_short(np.eye(2)) == "array([[1., 0.], [0., 1.]])"
    assert in_short(Unspoken()) == "<Unspoken>"
    assert in_short(10**5000) == "<int>"
    assert in_short(Loud()) == "\\x1b[2J\\u202eup"
    assert in_short("a" * 1000) == f"'{'a' * (MOST_SHOWN - 1)} ..."


def test_what_is_no_letter_is_escaped_but_what_is_kept() -> None:
    assert printable("热图 ü-🙂") == "热图 ü-🙂"
    assert printable("a\tb\x1b\udcff\n", keep="\n") == "a\\tb\\x1b\\udcff\n"
