"""The class atlas: how much of the heat stays at one place, on made-up heat whose answer is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam import ArgumentError
from fe_gradcam.scaling import upsample
from fe_gradcam.verdicts.atlas import Atlas, Box, ClassHeat, Upsampling, sampled
from tests.heat import heatmap_of

SIZE = (20, 24)


def blob(down: float, across: float, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Heat around a place, on a torus, so that a shift changes nothing else."""
    rows, columns = np.indices(size)
    y = np.minimum(np.abs(rows - down), size[0] - np.abs(rows - down))
    x = np.minimum(np.abs(columns - across), size[1] - np.abs(columns - across))
    return np.exp(-(x**2 + y**2) / 8).astype(np.float32)


def picture(value: int = 90, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.full((*size, 3), value, np.uint8)


def class_heat(maps: NDArray[np.float32]) -> ClassHeat:
    atlas = Atlas((maps.shape[1], maps.shape[2]))
    for heat in maps:
        atlas.add(0, heat, picture(size=(maps.shape[1], maps.shape[2])))
    return atlas.classes[0]


def test_heat_that_moves_all_over_the_frame_is_not_fixed() -> None:
    scores = []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        shifts = zip(generator.integers(0, SIZE[0], 40), generator.integers(0, SIZE[1], 40), strict=True)
        maps = np.stack([np.roll(blob(10, 12), shift, (0, 1)) for shift in shifts])
        scores.append(class_heat(maps).fixed_place)
    assert abs(np.mean(scores)) < 0.05
    assert max(scores) < 0.3  # nor by chance in one of them


@given(st.integers(2, 9), st.integers(0, 1000), st.sampled_from(["uniform", "signed", "sparse"]))
def test_the_running_sums_give_the_mean_correlation_over_all_pairs(count: int, seed: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    maps = generator.uniform(-1 if kind == "signed" else 0, 1, (count, 5, 7)).astype(np.float32)
    if kind == "sparse":
        maps *= generator.random(maps.shape) < 0.3
        maps[:, 0, 0] = 1  # no map is without heat
    flat = np.maximum(maps, 0).reshape(count, -1).astype(np.float64)
    pairs = [np.corrcoef(flat[i], flat[j])[0, 1] for i in range(count) for j in range(i)]
    assert_allclose(class_heat(maps).fixed_place, np.mean(pairs), atol=1e-9)  # both of float64


def test_blank_and_uniform_heat_is_not_counted_and_one_image_says_nothing() -> None:
    one = ClassHeat(Upsampling(SIZE, SIZE))
    for heat in (np.zeros(SIZE), -blob(3, 3), np.full(SIZE, 0.7), np.full(SIZE, 1 / 3)):
        one.add(heat.astype(np.float32), picture())
    assert (one.images, one.warm) == (4, 0)
    assert np.isnan(one.fixed_place)
    assert one.heat.max() == 0
    one.add(blob(4, 5), picture())
    assert np.isnan(one.fixed_place)
    one.add(0.1 * blob(4, 5), picture())
    assert (one.images, one.warm) == (6, 2)
    assert_allclose(one.fixed_place, 1, atol=1e-6)  # whatever its strength


def test_the_mean_heat_is_that_of_each_image_over_its_own_sum() -> None:
    """By hand: a weak map of one pixel and a strong one of two weigh the same."""
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0, 0, 0] = 0.01
    maps[1, 1] = 5
    one = class_heat(maps)
    assert_allclose(one.heat, [[0.5, 0], [0.25, 0.25]], atol=1e-7)
    assert_allclose(one.heat.sum(), 1, atol=1e-7)


def test_the_mean_picture_is_rounded() -> None:
    one = ClassHeat(Upsampling(SIZE, SIZE))
    for value in (10, 11, 255):
        one.add(blob(1, 1), picture(value))
    assert np.array_equal(one.picture, picture(92))  # 276 / 3
    one.add(blob(1, 1), picture(255))
    assert np.array_equal(one.picture, picture(133))  # 531 / 4 = 132.75


def test_an_atlas_takes_the_same_memory_for_any_number_of_images() -> None:
    atlas, sizes = Atlas(SIZE), []
    for round_ in range(3):
        for at in range(200):
            atlas.add(at % 3, blob(at % 20, round_), picture(at))
        arrays = [getattr(one, name) for one in atlas.classes.values() for name in ("shares", "units", "pictures")]
        sizes.append(sum(array.nbytes for array in arrays) + sys.getsizeof(atlas.classes))
    assert sizes[0] == sizes[1] == sizes[2]
    assert set(vars(atlas)) == {"upsampling", "classes"}
    for one in atlas.classes.values():
        assert set(vars(one)) == {"upsampling", "images", "warm", "shares", "units", "pictures"}
    assert sum(one.images for one in atlas.classes.values()) == 600


def test_of_heatmaps_the_classes_are_kept_apart_and_those_of_no_class_left_out() -> None:
    values = np.stack([*[blob(2, 2)] * 6, blob(9, 9), blob(15, 3), blob(4, 18)])
    shades = [0, 100] * 3 + [7, 255, 9]
    atlas = Atlas.of(heatmap_of(values, [3] * 6 + [0, -1, 0]), np.stack([picture(value) for value in shades]))
    assert atlas.size == SIZE
    assert {class_id: one.images for class_id, one in atlas.classes.items()} == {3: 6, 0: 2}
    assert np.array_equal(atlas.classes[3].picture, picture(50))
    assert np.array_equal(atlas.classes[0].picture, picture(8))
    assert_allclose(atlas.fixed_place, 1, atol=1e-6)  # that of class 3, which has images enough
    assert atlas.classes[0].fixed_place < 0.5
    assert np.isnan(Atlas(SIZE).fixed_place)


def test_the_box_of_a_place() -> None:
    box, expected = Box(left=3, top=1, width=4, height=2), np.zeros((5, 9), bool)
    expected[1:3, 3:7] = True
    assert np.array_equal(box.mask((5, 9)), expected)
    assert box.slices == (slice(1, 3), slice(3, 7))


def test_pictures_of_another_size_are_brought_to_that_of_the_heat() -> None:
    large = np.kron(picture(0), np.ones((2, 2, 1), np.uint8))
    large[::2] = 100  # every second line, so that the mean of each block of 2 x 2 is 50
    atlas = Atlas.of(heatmap_of(blob(2, 2)[None], [0]), large[None])
    assert atlas.size == SIZE
    assert np.array_equal(atlas.classes[0].picture, picture(50))


def test_too_few_images_for_the_classes_are_said_with_the_number_that_is_enough() -> None:
    atlas = Atlas.of(heatmap_of(np.stack([blob(2, 2)] * 3), [0, 1, 1]), np.stack([picture()] * 3))
    assert atlas.too_few(12, "12", "{}") is None  # six for each of two classes
    assert not atlas.tells
    assert atlas.too_few(11, "atlas=11 images", "Pass atlas={}.") == (
        "atlas=11 images are too few for 2 classes: a class with fewer than 6 images is not tested for shortcuts. "
        "Pass atlas=24."
    )
    for _ in range(4):
        atlas.add(1, blob(2, 2), picture())
    assert atlas.tells


LAYER = (3, 4)


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(6, 19), st.integers(6, 19)))
def test_the_upsampling_as_linear_algebra_is_the_usual_one(layer: tuple[int, int], size: tuple[int, int]) -> None:
    generator = np.random.default_rng(layer[0] + 10 * size[0])
    maps, way = generator.normal(size=(2, *layer)), Upsampling(layer, size)
    full = upsample(torch.from_numpy(maps), size).numpy()
    box = Box(left=2, top=1, width=3, height=4)
    assert_allclose(way.of(maps[0]), full[0], atol=1e-12)  # all of float64
    assert_allclose((way.weights * maps[0]).sum(), full[0].sum(), atol=1e-10)
    assert_allclose(way.squared(maps[1]), (full[1] ** 2).sum(), atol=1e-10)
    in_both = way.in_boxes(maps, [box, Box(0, 0, size[1], size[0])])
    assert_allclose(in_both[:, 0], full[:, 1:5, 2:5].sum((1, 2)), atol=1e-10)
    assert_allclose(in_both[:, 1], full.sum((1, 2)), atol=1e-10)


def test_sums_at_the_layers_size_mean_what_they_mean_at_that_of_the_images() -> None:
    generator = np.random.default_rng(5)
    maps = np.maximum(generator.normal(size=(12, *LAYER)), 0).astype(np.float32)
    small, full = Atlas(SIZE, LAYER), Atlas(SIZE)
    for at, heat in enumerate(maps):
        small.add(at % 2, heat)
        full.add(at % 2, upsample(torch.from_numpy(heat[None]), SIZE)[0].numpy())
    boxes = [Box(0, 0, 5, 7), Box(9, 3, 12, 11)]
    assert small.classes[0].shares.size + small.classes[0].units.size == 24
    for class_id in (0, 1):
        one, other = small.classes[class_id], full.classes[class_id]
        assert_allclose(one.fixed_place, other.fixed_place, atol=1e-6)  # the maps were upsampled as float32
        assert_allclose(one.heat, other.heat, atol=1e-8)
        inside = [other.heat[box.slices].sum() for box in boxes]
        assert_allclose(small.shares_in([class_id], boxes)[0], inside, atol=1e-6)
    assert small.shares_in([], boxes).shape == (0, 2)
    assert np.array_equal(small.classes[0].picture, np.zeros((*SIZE, 3)))  # none was added


def test_of_heatmaps_the_raw_maps_are_summed_and_rounding_is_no_heat() -> None:
    raw = np.zeros((3, *LAYER), np.float32)
    raw[:, 1, 2], raw[:, 0, 0] = (2, 1, 1e-9), -5
    values = upsample(torch.from_numpy(np.maximum(raw, 0)), SIZE).numpy()
    atlas = Atlas.of(heatmap_of(values, [0, 0, 0], raw=raw, blank=[False, False, True]), np.stack([picture()] * 3))
    one = atlas.classes[0]
    assert (one.images, one.warm) == (3, 2)
    assert_allclose(one.heat, values[0] / values[0].sum(), atol=1e-7)
    assert_allclose(one.fixed_place, 1, atol=1e-9)


def test_atlases_are_merged_in_any_order() -> None:
    generator = np.random.default_rng(6)
    every = [(int(at % 3), generator.random(LAYER).astype(np.float32), picture(int(at))) for at in range(30)]

    def of(rows: list[int]) -> Atlas:
        atlas = Atlas(SIZE, LAYER)
        for row in rows:
            atlas.add(*every[row])
        return atlas

    whole, parts = of(list(range(30))), [of(list(range(at, 30, 4))) for at in range(4)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = Atlas(SIZE, LAYER)
        for at in order:
            merged = merged + parts[at]
        for class_id, one in whole.classes.items():
            other = merged.classes[class_id]
            assert (other.images, other.warm) == (one.images, one.warm)
            assert_allclose(other.shares, one.shares, rtol=1e-12)  # the order of the sums
            assert_allclose(other.fixed_place, one.fixed_place, rtol=1e-9)
            assert np.array_equal(other.picture, one.picture)
    assert whole.classes[0].images == 10  # and merging left the parts as they were
    with pytest.raises(ArgumentError, match=r"images of \(20, 24\) and heat of \(3, 4\), the other"):
        whole + Atlas(SIZE)


def test_the_classes_with_most_images_come_first_and_those_with_few_not_at_all() -> None:
    atlas = Atlas(SIZE)
    for class_id, count in ((4, 7), (2, 9), (1, 7), (3, 5)):
        for _ in range(count):
            atlas.add(class_id, blob(2, 2))
    assert atlas.largest(9) == [2, 1, 4]
    assert atlas.largest(2) == [2, 1]


def test_which_ids_are_sampled_hangs_on_ids_and_seed_alone() -> None:
    ids = [f"image {at}" for at in range(40)]
    taken = {ids[at] for at in sampled(ids, 9, seed=3)}
    assert len(taken) == 9
    assert {ids[::-1][at] for at in sampled(ids[::-1], 9, seed=3)} == taken
    assert {ids[at] for at in sampled(ids, 9, seed=4)} != taken
    without = [one for one in ids if one not in taken]
    still = [one for one in ids if one in taken or one in without[:5]]
    assert {still[at] for at in sampled(still, 9, seed=3)} == taken  # whatever else there is
    counts = np.zeros(40)
    for seed in range(400):
        counts[sampled(range(40), 10, seed)] += 1
    assert 60 < counts.min() <= counts.max() < 140  # 100 each, with a deviation of 9
    assert len(sampled([], 3, 0)) == 0
