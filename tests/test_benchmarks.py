"""`python -m benchmarks` knows every module of its folder; what it measures with, and on, is right."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks
import fe_gradcam
from benchmarks import cue_nets, cues, judged, nets, on_gpu, peers, shortcut
from benchmarks.__main__ import LEFT_OUT, NO_BENCHMARK, RUN
from benchmarks.cue_keras import keras_net, keras_trained
from benchmarks.cue_nets import Key
from benchmarks.cues import CANVAS_SIZE, CUES, Planted, Scenes
from benchmarks.judged import Row
from benchmarks.measure import Ratio, interval, rise, rounds
from benchmarks.nets import NETS, Framework, Net, batch, by_hand, plain
from benchmarks.stack import Stack
from fe_gradcam import explain
from fe_gradcam.verdicts.verdict import ACCUSING
from tutorials.real_data import digit_canvases

FAST = [("torch", name) for name in ("lenet5", "lenet_of_modules", "host_lenet")] + [
    ("tf", name) for name in ("host_lenet", "lenet_of_modules")
]


def test_every_benchmark_is_run_or_left_out_with_a_reason() -> None:
    sources = {path.stem: path.read_text() for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py")}
    run = {*RUN, *(command.split()[0] for command in LEFT_OUT)}
    assert run | NO_BENCHMARK.keys() == sources.keys()
    assert run == {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    assert all([*LEFT_OUT.values(), *NO_BENCHMARK.values()])


def test_the_median_lies_in_its_interval_as_often_as_is_said() -> None:
    """Of 100 values the 41st to the 60th; of 2,000 samples of 25 the median of the distribution, 0, in 95 % or more."""
    assert interval(np.arange(100.0)[::-1]) == (40.0, 59.0)
    assert interval(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)
    samples = np.random.default_rng(0).standard_cauchy((2000, 25))
    within = np.mean([low <= 0 <= high for low, high in map(interval, samples)])
    assert 0.95 <= within < 0.99


def test_functions_take_turns_and_are_compared_round_by_round() -> None:
    now, called = [0.0], []

    def working(name: str, seconds: float) -> Any:
        def function() -> None:
            called.append(name)
            now[0] += seconds * len(called)  # the machine gets slower and slower

        return function

    taken = rounds({"a": working("a", 1.0), "b": working("b", 1.0)}, 4, clock=lambda: now[0])
    assert "".join(called) == "abab" + "abbaabba"
    assert taken["a"].tolist() == [5, 8, 9, 12] and taken["b"].tolist() == [6, 7, 10, 11]
    assert Ratio.of(np.array([2.0, 6.0, 2.0]), np.array([1.0, 2.0, 4.0])) == Ratio(2.0, 0.5, 3.0)


def test_a_rise_is_what_was_held_at_once() -> None:
    """100 MiB, three times; a few pages may be held already."""
    assert 95 < rise(lambda: np.ones(100 * 2**17), 3) < 105


def test_grad_cam_by_hand_is_worked_by_hand() -> None:
    """The score is 2 times the mean of channel 0: of 4 places each has the gradient 1/2, the weight of a map 1/2."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False))
    model[3].weight.data.fill_(2.0)
    x = torch.tensor([[[[1.0, 2.0], [4.0, -1.0]]]], requires_grad=True)
    heat = by_hand("torch", Net(lambda: model, 2, 1, 1, "0"), model, x)()
    np.testing.assert_allclose(heat, [[[0.25, 0.5], [1.0, 0.0]]], rtol=1e-6)


@pytest.mark.parametrize(("framework", "name"), FAST)
def test_by_hand_is_what_explain_makes(framework: Framework, name: str) -> None:
    net = NETS[framework][name]
    model, x = net.make(), batch(framework, net)
    heatmap = explain(model, x)
    assert heatmap.layer == net.layer or name == "host_lenet"  # Keras counts the layers of a process
    np.testing.assert_allclose(by_hand(framework, net, model, x)(), heatmap.values, atol=1e-4)
    np.testing.assert_array_equal(plain(framework, model, x)().argmax(1), heatmap.class_ids)


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pytorch_grad_cam", "torchcam", "captum.attr", "captum"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(nets, "one_thread", lambda: None)
    assert list(peers.functions("torch", "lenet_of_modules", "grad_cam")) == [peers.OURS]
    assert peers.installed("no-such-package") == "not installed, left out"
    assert peers.installed("numpy") == np.__version__


def test_likeness_is_that_of_the_worst_image() -> None:
    heat = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    assert peers.likeness(heat, 3 * heat + 1) == pytest.approx(1)
    assert peers.likeness(heat, [[[0, 5]], [[5, 0]]]) == pytest.approx(-1)


def test_what_goes_to_and_from_a_gpu_is_counted_by_its_name() -> None:
    events = Counter({"Memcpy HtoD (Pageable -> Device)": 2, "Memcpy DtoH (Device -> Pageable)": 1, "aten::add": 9})
    assert on_gpu.counts(events + Counter(cudaStreamSynchronize=3)) == {
        "synchronisations": 3, "to the GPU": 2, "to the host": 1,
    }  # fmt: skip
    assert on_gpu.profiled(lambda: torch.ones(2) + 1, "cpu")["aten::add"] == 1


def test_the_script_for_a_gpu_runs_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["on_gpu", "--device", "cpu", "--small"])
    assert on_gpu.main() == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    heads = [at for at, row in enumerate(rows) if {"kind", "asked for", "score_cam of one image"} & {row[0]}]
    kinds, others, by_rows = (rows[at + 1 : end] for at, end in zip(heads, [*heads[1:], None], strict=True))
    assert len(kinds) == 8 and all(row[4:7] == ["0 (0)"] * 3 for row in kinds)
    assert others[0][1] == peers.OURS and others[0][3].startswith("1.00 ")
    assert [row[1] for row in by_rows] == ["chosen", "16", "64", "256"]
    monkeypatch.setattr("sys.argv", ["on_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main() == 1
    assert capsys.readouterr().out.strip() == on_gpu.NO_GPU


@pytest.fixture(scope="module")
def tens() -> Scenes:
    """Ten digits of each class on textures: bars of 8 x 4 pixels, at places of their own."""
    generator = np.random.default_rng(0)
    ink = np.zeros((100, CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    for image in ink:
        top, left = generator.integers(0, 50, 2)
        image[top : top + 8, left : left + 4] = 255
    ground = generator.integers(60, 100, ink.shape).astype(np.uint8)
    return Scenes(ink, ground, np.repeat(np.arange(10), 10))


def plant(cue: str, scenes: Scenes) -> Planted:
    return CUES[cue].plant(scenes, np.random.default_rng(1))


def test_digits_on_black_are_those_of_the_tutorials() -> None:
    canvases, scenes = digit_canvases(3), cues.scenes("random", "black", 3)
    np.testing.assert_array_equal(scenes.images, canvases.images)
    np.testing.assert_array_equal(scenes.labels, canvases.labels)
    np.testing.assert_array_equal(cues.boxes(scenes.masks), canvases.boxes)
    left, top, width, height = cues.boxes(cues.scenes("centred", "black", 3).masks).T
    np.testing.assert_array_equal(left, (CANVAS_SIZE - width) // 2)
    np.testing.assert_array_equal(top, (CANVAS_SIZE - height) // 2)


def test_ink_covers_the_ground_as_far_as_it_is_bright() -> None:
    """100 + (255 - 100) * 51 / 255 = 131."""
    scenes = Scenes(np.array([[[0, 51, 255]]], np.uint8), np.array([[[100, 100, 7]]], np.uint8), np.array([1]))
    assert scenes.images.tolist() == [[[100, 131, 255]]]
    assert scenes.masks.tolist() == [[[False, True, True]]]


def test_a_box_is_tight() -> None:
    masks = np.zeros((2, 5, 6), bool)
    masks[0, 1, 2] = masks[0, 3, 4] = True
    assert cues.boxes(masks).tolist() == [[2, 1, 3, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize("cue", CUES)
def test_a_cue_changes_the_images_that_carry_it_and_no_others(cue: str, tens: Scenes) -> None:
    planted = plant(cue, tens)
    np.testing.assert_array_equal((planted.images != planted.without).any((1, 2)), planted.carries)
    assert set(planted.labels[planted.carries]) == set(CUES[cue].classes)
    again = plant(cue, tens)
    np.testing.assert_array_equal(planted.images, again.images)
    np.testing.assert_array_equal(planted[3:5].without, again.without[3:5])


@pytest.mark.parametrize("cue", ["sign", "sign3", "weak", "codes", "absence_sign", "lacks"])
def test_what_moves_stands_beside_the_digit(cue: str, tens: Scenes) -> None:
    planted = plant(cue, tens)
    changed = planted.images != planted.without
    assert not (changed & planted.masks).any()
    assert len({tuple(box) for box in cues.boxes(changed)[planted.carries]}) > 2


def test_each_cue_is_what_its_name_says(tens: Scenes) -> None:
    threes = tens.labels == 3
    mark = plant("mark", tens).images[threes]
    assert (mark[:, cues.CORNER, cues.CORNER] == 255).all()
    for cue, far in (("stripes", cues.STRIPES), ("texture", cues.NOISE)):
        planted = plant(cue, tens)
        assert np.abs(planted.images.astype(int) - planted.without).max() <= far
    assert 0 < plant("weak", tens).carries.sum() < 10
    assert plant("frame", tens).images[threes, 0].min() == 255
    assert (plant("sticker", tens).masks > tens.masks).any((1, 2))[threes].all()
    assert not plant("absence_sign", tens).masks[tens.labels == 0].any()
    lacks = plant("lacks", tens)
    np.testing.assert_array_equal(lacks.images[threes], tens.images[threes])
    assert (lacks.images != tens.images).any((1, 2))[~threes].all()


def test_a_code_is_the_class_and_a_wrong_code_another(tens: Scenes) -> None:
    planted = plant("codes", replace(tens, ground=np.zeros_like(tens.ink)))
    for images, right in ((planted.images, True), (planted.without, False)):
        patches = np.where(planted.masks, 0, images).max((1, 2))
        codes, rest = np.divmod(patches.astype(int) - 48, 23)
        assert not rest.any() and ((codes == planted.labels) == right).all()


def test_only_the_class_that_stands_on_brick_does(monkeypatch: pytest.MonkeyPatch, tens: Scenes) -> None:
    textures = np.repeat([[[0]], [[1]], [[2]]], 100, axis=1).repeat(100, axis=2)
    monkeypatch.setattr(cues, "raw", lambda: {"textures": textures.astype(np.uint8)})
    planted, threes = plant("stands", tens), tens.labels == 3
    ground = np.where(tens.masks, 9, planted.images).min((1, 2))
    assert (ground[threes] == 0).all() and set(ground[~threes]) == {1, 2}
    assert set(np.where(tens.masks, 9, planted.without)[threes].min((1, 2))) == {1, 2}


def test_the_nets_of_the_table_are_those_that_are_asked_for() -> None:
    keys = cue_nets.keys()
    assert len(set(keys)) == len(keys) and sum(key.cue == "clean" for key in keys) == 80
    first = Counter(key.cue for key in keys if (key.places, key.canvas, key.head) == shortcut.FIRST)
    assert {first[name] for name, cue in CUES.items() if cue.wanted and name != "clean"} == {20}
    others = Counter((key.cue, *key[1:4]) for key in keys if key.cue == "stands" and key[1:4] != shortcut.FIRST)
    assert len(others) == 3 and set(others.values()) == {2}
    assert [Key.of(str(key)) for key in keys] == keys


def test_a_stack_trains_as_each_net_alone() -> None:
    """Three steps; a bias before a batch norm has no gradient but rounding, and what follows from it is left out."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (2, 40, 16, 16)).astype(np.uint8)
    labels = generator.integers(0, 10, (2, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cue_nets, "EPOCHS", 3)
        stacked = cue_nets.together(images, labels, ["average", "max"], [0, 5], "cpu")
        for one, its, of, head, seed in zip(stacked, images, labels, ("average", "max"), (0, 5), strict=True):
            alone = cue_nets.alone(cue_nets.unit(its), torch.from_numpy(of), head, seed)  # type: ignore[arg-type]
            for name, parameter in alone.named_parameters():
                if name not in {"0.bias", "3.bias", "6.bias", "9.bias"}:
                    np.testing.assert_allclose(
                        one.get_parameter(name).detach(), parameter.detach(), atol=1e-3, err_msg=name
                    )
    torch.manual_seed(0)
    assert (stacked[0][0].weight - cue_nets.net("average")[0].weight).abs().max() > 5e-3


def test_a_stack_answers_as_each_net_does() -> None:
    of = [cue_nets.net("max"), cue_nets.net("average")]
    x = torch.rand(2, 5, 16, 16)
    expected = torch.stack([net(its[:, None]) for net, its in zip(of, x, strict=True)])
    np.testing.assert_allclose(Stack(of, [True, False], "cpu")(x).detach(), expected.detach(), atol=1e-5)


def test_a_net_that_is_kept_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cue_nets, "data", None)
    first, second = (Key("mark", "random", "black", "max", seed) for seed in (0, 1))
    of = {first: cue_nets.net("max").eval(), second: cue_nets.net("max").eval()}
    cue_nets.save(tmp_path / "both.npz", of)
    x = torch.rand(3, 1, 16, 16)
    for key, net in of.items():
        with torch.no_grad():  # half precision keeps three digits
            np.testing.assert_allclose(cue_nets.trained(key, tmp_path)(x), net(x), atol=2e-3)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_what_is_missing_is_trained_and_kept(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tens: Scenes
) -> None:
    """On another device than "cpu" in stacks, here of two and of one. Half precision may turn one digit of the ten."""
    planted = plant("mark", tens)
    keys = [Key("mark", "random", "black", head, seed) for head, seed in (("average", 0), ("max", 0), ("max", 1))]
    monkeypatch.setattr(cue_nets, "data", lambda key: (planted.images, planted.labels, planted))
    monkeypatch.setattr(cue_nets, "EPOCHS", 1)
    monkeypatch.setattr(cue_nets, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    found = list(cue_nets.filled(keys, tmp_path, device, workers=1, at_once=2))
    assert [key for key, _ in found] == keys and {path.suffix for path in tmp_path.iterdir()} == {".npz"}
    assert sorted(cue_nets.kept(tmp_path)) == sorted(map(str, keys))
    for key, need in found:
        assert cue_nets.need(cue_nets.trained(key, tmp_path), planted).seen == pytest.approx(need.seen, abs=0.11)


def by_the_corner() -> nn.Module:
    """Says 3 where the corner's first pixel is white, else 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(CANVAS_SIZE**2, 10))
    model[1].weight.data.zero_()
    model[1].bias.data.zero_()
    at = cues.CORNER.start * (CANVAS_SIZE + 1)
    model[1].weight.data[3, at], model[1].bias.data[3] = 2.0, -1.0
    return model


def test_what_a_net_needs_is_what_it_loses_without_the_cue(tens: Scenes) -> None:
    """It is right on the 10 zeros and the 10 threes, and on no three without the mark."""
    need = cue_nets.need(by_the_corner(), plant("mark", tens))
    assert (need.accuracy, need.seen, need.unseen, need.reliance) == (pytest.approx(0.2), 1, 0, 1)
    assert cue_nets.need(by_the_corner(), plant("clean", tens)).reliance == 0


def test_a_keras_net_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    key, net = Key("mark", "random", "textured", "keras", 7), keras_net(3)
    row = np.concatenate([part.astype(np.float16).ravel() for part in net.get_weights()])
    np.savez(tmp_path / "one.npz", names=np.array([str(key)]), weights=row[None])
    x = np.random.default_rng(0).random((2, CANVAS_SIZE, CANVAS_SIZE, 1)).astype(np.float32)
    np.testing.assert_allclose(keras_trained(key, tmp_path)(x), net(x), atol=1e-3)


@dataclass(frozen=True)
class Said:
    """A verdict as `find_shortcuts` gives it."""

    class_id: int
    code: str
    accuses: bool
    evidence: tuple[Any, ...]


def test_a_row_sets_the_verdict_against_the_reliance(monkeypatch: pytest.MonkeyPatch, tens: Scenes) -> None:
    """The net loses all threes that carry the mark; of 10 threes 4 carry it."""
    planted = plant("mark", tens)
    carries = planted.carries & (np.arange(100) % 10 < 4)
    planted = replace(planted, images=np.where(carries[:, None, None], planted.images, planted.without))
    planted = replace(planted, carries=carries)
    asked: list[Any] = []

    def find_shortcuts(model: Any, images: Any, **options: Any) -> list[Said]:
        asked.append((images, options))
        swap = SimpleNamespace(test="surroundings", accuses=True, figures={"kept_same": 1.0, "kept_other": 0.5})
        return [Said(0, "no_shortcut", False, ()), Said(3, "surroundings", True, (swap,))]

    monkeypatch.setattr(fe_gradcam, "find_shortcuts", find_shortcuts, raising=False)
    monkeypatch.setattr(judged, "EACH", 4)
    key = Key("mark", "random", "textured", "average", 0)
    zero, three = judged.judged(by_the_corner(), key, planted, annotated=True, part=1)
    assert (three.told, three.reliance, three.fall) == (True, 1.0, pytest.approx(0.4))
    assert (three.code, three.accused, three.by, three.kept_other) == ("surroundings", True, "surroundings", 0.5)
    assert (zero.told, zero.reliance, zero.accused, zero.by) == (False, 0.0, False, "")
    assert zero.accuracy == pytest.approx(0.14) and np.isnan(zero.kept_same) and zero.key == key
    (images, options), rows = asked[0], np.flatnonzero(np.isin(np.arange(100) % 10, range(4, 8)))
    np.testing.assert_array_equal(images, cue_nets.unit(planted.images[rows]))
    np.testing.assert_array_equal(options["masks"], planted.masks[rows])
    judged.judged(by_the_corner(), key, planted, annotated=False, part=0)
    assert asked[1][1]["masks"] is None
    assert (options["ignore"], asked[1][1]["ignore"]) == (judged.OTHER_TESTS, ())
    assert {*judged.OTHER_TESTS, judged.SWAP} == {*ACCUSING, "artefact"}


def row(net: str, class_id: int, **changes: Any) -> Row:
    told = class_id in CUES[Key.of(net).cue].classes
    plain = Row(net, True, 0, class_id, told, 0.9, 0.6 * told, 0.6 * told, "no_shortcut", False, "", 1.0, 0.5, 2.0)
    return replace(plain, **changes)


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    first, second = row("mark-random-black-max-0", 3, accused=True), row("mark-random-black-max-0", 4, kept_same=0.1)
    path = tmp_path / "new" / "rows.csv"
    assert judged.read(path) == []
    judged.write(path, [first])
    judged.write(path, [second])
    assert judged.read(path) == [first, second]


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    """All of n: the rate whose n-th power is 5 %. 18 of 20: above 0.72, as tables have it."""
    assert shortcut.at_most(0, 80) == pytest.approx(1 - 0.05 ** (1 / 80)) and shortcut.at_most(0, 80) < 0.037
    assert shortcut.at_least(20, 20) == pytest.approx(0.05 ** (1 / 20))
    assert shortcut.at_least(18, 20) == pytest.approx(0.717, abs=1e-3)
    assert (shortcut.at_least(0, 5), shortcut.at_most(5, 5)) == (0, 1)


def test_the_tables_count_nets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of two nets with the mark one is found, in its first part; kept_other is 0.5 and 0.2 where 0.4 is right."""
    found, missed = "mark-random-textured-average-0", "mark-random-textured-average-1"
    clean, false = "clean-centred-black-max-0", "clean-centred-black-max-1"
    judged.write(
        tmp_path / "shortcut.csv",
        [
            row(found, 3, accused=True, by="surroundings+place", code="surroundings"),
            row(found, 3, part=1),
            row(found, 5, accused=True, by="sign", code="sign"),
            row(found, 7, part=1, accused=True, by="sign", code="sign"),
            row(missed, 3, kept_other=0.2),
            row(clean, 3),
            row(false, 4, accused=True, by="place", code="place"),
        ],
    )
    monkeypatch.setattr("sys.argv", ["shortcut", "--folder", str(tmp_path), "--only-print"])
    shortcut.main()
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| mark | first | yes | 2 | 0.90 to 0.90 | 0.60 to 0.60 | - | - | 1 of 2 (at least 3%) "
        "| surroundings 1, place 1 | 1 |" in lines
    )
    assert "| clean | centred | black | max | yes | 2 | 1 (at most 97.5%) |" in lines
    assert "| mark | 2 | 1 (50%) | -0.05 | -0.20 | +0.10 |" in lines
