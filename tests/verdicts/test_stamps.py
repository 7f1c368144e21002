"""How a network reacts to stamps: networks whose lifts are worked out by hand, and one with real weights.

The hand-made networks average a picture over its frame, or over its left half, which gives m, and put out the scores
``weights`` * m.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam import ArgumentError, UnknownNameError, react
from fe_gradcam.verdicts import lettering
from fe_gradcam.verdicts.stamping import Stamp, stamp_of
from fe_gradcam.verdicts.stamps import SPOTS, Reaction, log_odds
from tests.trainings import as_layout
from tutorials.real_data import stock_photos, torch_input

SIDE = 16
WHITE, BLACK = np.ones((4, 4, 3)), np.zeros((4, 4, 3))
MARK = {"mark": (WHITE, BLACK)}


def network(framework: str, weights: list[float], head: str = "", left: bool = False) -> Any:
    columns = slice(SIDE // 2) if left else slice(None)
    if framework == "torch":

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 1, 1, bias=False)
                self.fc = torch.nn.Linear(1, len(weights), bias=False)
                self.conv.weight.data.fill_(1 / 3)
                self.fc.weight.data[:, 0] = torch.tensor(weights)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                scores = self.fc(self.conv(x)[..., columns].mean((2, 3)))
                return {"softmax": scores.softmax(1), "sigmoid": scores.sigmoid()}.get(head, scores)

        return Net().eval()
    import tensorflow as tf

    of = tf.keras.layers
    inputs = tf.keras.Input((SIDE, SIDE, 3))
    x = of.Conv2D(1, 1, use_bias=False)(inputs)
    x = of.Cropping2D(((0, 0), (0, SIDE // 2)))(x) if left else x
    scores = of.Dense(len(weights), use_bias=False, activation=head or None)(of.GlobalAveragePooling2D()(x))
    model = tf.keras.Model(inputs, scores)
    model.set_weights([np.full((1, 1, 3, 1), 1 / 3), np.array([weights])])
    return model


def pictures(framework: str, count: int = 3, fill: float | None = None) -> Any:
    values = np.random.default_rng(0).random((count, SIDE, SIDE, 3)).astype(np.float32)
    values[:, 0, 0], values[:, 0, 1] = 0, 1
    return as_layout(framework, values if fill is None else np.full_like(values, fill))


@pytest.mark.parametrize("head", ["", "softmax"])
def test_the_lift_of_a_linear_network_is_the_change_of_its_scores(framework: str, head: str) -> None:
    """A quarter of the frame, half covered: m is 1/8 higher with white than with black. z_0 - z_1 = 12 m."""
    found = react(network(framework, [8.0, -4.0], head), pictures(framework), stamps=MARK, size=0.5)
    assert_allclose(found.lift, [[1.5, -1.5]], rtol=1e-4)
    assert_allclose(found.error, 0, atol=1e-6)  # what is below the stamp cancels
    assert found.rank.tolist() == [[1, 2]]
    assert (found.pictures, found.forwards) == (3, 6)
    assert np.isnan(found.of_controls).all()  # there is one control


def test_labels_that_exclude_nothing_are_lifted_each_by_itself(framework: str) -> None:
    found = react(network(framework, [8.0, -4.0, 16.0], "sigmoid"), pictures(framework), stamps=MARK, size=0.5)
    assert_allclose(found.lift, [[1, -0.5, 2]], rtol=1e-3)
    assert found.rank.tolist() == [[2, 3, 1]]


def test_a_single_sigmoid_is_two_classes(framework: str) -> None:
    found = react(network(framework, [8.0], "sigmoid"), pictures(framework), stamps=MARK, size=0.5)
    assert_allclose(found.lift, [[-1, 1]], rtol=1e-3)


def test_no_probability_is_too_near_to_one() -> None:
    """Of logits 900 and 0 float32 holds the probabilities 1 and 0, with the stamp and without it."""
    found = react(network("torch", [900.0, 0.0, 0.0]), pictures("torch"), stamps=MARK, size=0.5)
    assert_allclose(found.lift[0, 0], 900 / 8, rtol=1e-4)


def test_the_error_is_that_of_the_mean_over_pictures(framework: str) -> None:
    """Two pictures in turn: left, where the stamp counts twice (half of the frame is looked at), and right."""
    net = network(framework, [8.0, 0.0], left=True)
    found = react(net, pictures(framework, 2), stamps=MARK, size=0.5, places=["left edge", (1, 0.5)])
    assert_allclose(found.lift[0], [1, -1], rtol=1e-4)  # 2 and 0
    assert_allclose(found.error[0], [1, 1], rtol=1e-4)  # deviation √2, over √2
    alone = react(net, pictures(framework, 1), stamps=MARK, size=0.5)
    assert np.isnan(alone.error).all() and "± nan" in str(alone)


def test_controls_against_each_other_are_measured() -> None:
    """The left half alone is looked at; with its blocks shuffled, more or less of the stamp's white stands there."""
    stripes = np.zeros((16, 16, 3))
    stripes[:, :8] = 1
    net = network("torch", [8.0, 0.0], left=True)
    found = react(net, pictures("torch"), stamps={"stripes": stripes}, size=1, seed=3)
    stamp = stamp_of("stripes", stripes, (16, 16), None, 3)
    assert isinstance(stamp, Stamp) and found.forwards == 9
    first, second = (one.values[:, :8, 0].mean() for one in stamp.controls)
    assert first != second
    assert_allclose(found.of_controls, 0.5 * 8 * abs(first - second), rtol=1e-4)
    assert_allclose(found.lift[0, 0], 0.5 * 8 * (1 - (first + second) / 2), rtol=1e-4)
    assert f"lifts no class by more than {found.of_controls[0]:.2f}" in " ".join(str(found).split())


def test_the_seed_is_0_unless_another_is_given() -> None:
    stripes = np.zeros((16, 16, 3))
    stripes[:, :8] = 1
    net = network("torch", [8.0, 0.0], left=True)
    left_out, of_zero, of_one = (
        react(net, pictures("torch"), stamps={"stripes": stripes}, **given).lift
        for given in ({}, {"seed": 0}, {"seed": 1})
    )
    assert_array_equal(left_out, of_zero)
    assert (left_out != of_one).all()  # other shuffles of the stamp are its controls


def test_several_stamps_have_a_row_each_and_names() -> None:
    stamps = {"white": (WHITE, BLACK), "black": (BLACK, WHITE)}
    found = react(network("torch", [8.0, 0, 4]), pictures("torch"), stamps=stamps, size=0.5, class_names={0: "cat"})
    assert found.stamps == ("white", "black")
    assert_allclose(found.lift[0], -found.lift[1], rtol=1e-4, atol=0.1)
    first, second = found.top("white", 2)
    assert (first.class_id, first.name, first.rank) == (0, "cat", 1)
    assert (second.class_id, second.name, second.rank) == (2, "class 2", 2)
    assert first.lift == found.lift[0, 0] and first.error == found.error[0, 0]
    assert len(found.top("white", 99)) == 3
    with pytest.raises(UnknownNameError, match=r"stamp='whit' is not in the table; did you mean 'white'\?"):
        found.top("whit")
    with pytest.raises(ArgumentError, match="n=0"):
        found.top("white", 0)


def test_the_table_says_what_it_is_not() -> None:
    found = react(network("torch", [8.0, 0.0]), pictures("torch"), stamps=MARK, size=0.5, class_names=["cat", "dog"])
    said = str(found)
    assert "   1  cat                       +1.00 ± 0.00" in said
    assert "It accuses no class" in said and "black is 0 and white 1" in said
    assert "mean over 3 pictures" in said and "6 forwards" in said
    assert not hasattr(found, "accuses") and "stamps=('mark',)" in repr(found)


def test_a_stamp_without_font_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_fonts", lambda: iter(()))
    net = network("torch", [8.0, 0.0])
    found = react(net, pictures("torch"), stamps={"chinese": None, **MARK, "flat": WHITE}, size=0.5)
    assert found.stamps == ("mark",) and set(found.left_out) == {"chinese", "flat"}
    assert "chinese: left out, no font here has the letters of '捷径捷径捷径'" in str(found)
    with pytest.raises(UnknownNameError, match=r"stamp='chinese' is not in the table, it was left out: no font"):
        found.top("chinese")
    nothing = react(net, pictures("torch"), stamps="chinese")
    assert nothing.stamps == () and nothing.forwards == 0 and "left out" in str(nothing)


def test_bytes_are_stamped_as_bytes() -> None:
    seen, inner = [], network("torch", [8.0, 0.0])

    class Bytes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.dtype)
            return self.net(x.float() / 255)

    found = react(Bytes(), (pictures("torch") * 255).astype(np.uint8), stamps=MARK, size=0.5)
    assert_allclose(found.lift, [[1, -1]], atol=0.02)  # half a byte
    assert set(seen[-2:]) == {torch.uint8}


def test_a_second_input_goes_with_its_picture() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network("torch", [8.0, 0.0])

        def forward(self, factor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * factor

    found = react(
        Two(), (np.array([[1], [2], [6]], np.float32), pictures("torch")), stamps=MARK, size=0.5, batch_size=2
    )
    assert_allclose(found.lift, [[3, -3]], rtol=1e-4)


def test_a_batch_changes_nothing() -> None:
    net, given = network("torch", [8.0, 0.0, 3.0], left=True), pictures("torch", 5)
    how: dict[str, Any] = {
        "stamps": {"noise": np.random.default_rng(0).random((8, 8, 3))},
        "places": list(SPOTS),
    }
    whole, single = react(net, given, **how), react(net, given, **how, batch_size=1)
    assert_allclose(whole.lift, single.lift, atol=1e-5)
    assert_allclose(whole.error, single.error, atol=1e-5)


def test_the_pictures_stay_as_they_were() -> None:
    given = torch.from_numpy(pictures("torch"))
    before = given.clone()
    react(network("torch", [8.0, 0.0]), given, stamps=MARK)
    assert torch.equal(given, before)


def test_log_odds_are_those_of_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 7, generator=generator) * 4
    p = z.double().softmax(1)
    assert_allclose(log_odds(z, p), (p / (1 - p)).log(), rtol=1e-9)
    assert_allclose(log_odds(z, z.sigmoid()), z, rtol=1e-6)


def test_log_odds_of_certain_answers_are_finite() -> None:
    z = torch.tensor([[1000.0, 0.0, -1000.0], [-torch.inf, 0.0, 0.0]])
    found = log_odds(z, z.softmax(1))
    assert_allclose(found[0], [1000, -1000, -2000])
    assert found.isfinite().all()
    assert log_odds(torch.tensor([[torch.inf, 0.0]]), torch.tensor([[1.0, 0.5]])).isfinite().all()


WRONG = {
    "size": (0, r"size=0 is not accepted.*above 0"),
    "opacity": (1.5, r"opacity=1\.5 is not accepted"),
    "places": ("midle", r"places='midle' is no place; did you mean 'middle'"),
    "batch_size": (0, "batch_size=0"),
    "seed": (-1, "seed=-1"),
    "alpha": (0.5, "react has no argument 'alpha'; pass opacity="),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_that_is_not_accepted_is_named(name: str) -> None:
    value, said = WRONG[name]
    with pytest.raises(ArgumentError, match=said):
        react(network("torch", [8.0, 0.0]), pictures("torch"), **{"stamps": MARK, name: value})


def test_places_that_are_none_are_refused() -> None:
    for wrong, said in (([], "places is empty"), ([(0.5, 2)], r"places=\(0\.5, 2\) is no place"), ([3], "places=3")):
        with pytest.raises(ArgumentError, match=said):
            react(network("torch", [8.0, 0.0]), pictures("torch"), stamps=MARK, places=wrong)


def test_pictures_that_are_none_are_refused() -> None:
    net = network("torch", [8.0, 0.0])
    with pytest.raises(ArgumentError, match=r"pictures has shape \(3, 2, 16, 16\).*1 or 3 channels"):
        react(net, pictures("torch")[:, :2], stamps=MARK)
    with pytest.raises(ArgumentError, match="pictures holds NaN"):
        react(net, pictures("torch") * np.nan, stamps=MARK)


@pytest.mark.skipif(not hasattr(lettering.cv2, "FontFace"), reason="OpenCV carries fonts from release 5 on")
def test_a_real_network_takes_chinese_text_for_cartons(pretrained: dict[str, Any]) -> None:
    """As published for networks of ImageNet: arXiv:2212.04825, arXiv:2303.05498."""
    images, _ = stock_photos()
    net, _ = pretrained["torch"]
    found: Reaction = react(net, torch_input(images), stamps="chinese", mean=0.5, std=0.5)
    carton, apron, monitor, broom, safe = found.rank[0, [478, 411, 664, 462, 771]]
    assert carton == 1 and apron <= 3 and max(monitor, broom, safe) <= 10
    assert found.lift[0, 478] > 2 and found.lift[0, 478] > 4 * found.error[0, 478]
    assert found.of_controls.max() < 0.6
