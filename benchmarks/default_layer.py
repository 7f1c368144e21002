"""Which layer `explain` should take by default, by measurement.

The candidates are the last convolution's own output ("conv"), the ReLU behind it ("conv + relu", the default) and the
last output that is still a map ("last map"); behind a pooling that is the pooled map. They are compared on nets with
several heads, trained on the digit canvases, and on photos with a pretrained ImageNet classifier. The measures: the
localisation gain of `benchmarks.localisation`, and the deletion and insertion of Petsiuk 2018, arXiv:1806.07421. The
heat of each candidate is compared on the same images, so that the intervals of the differences are those of pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("FE_NUM_THREADS", "1")  # FastEstimator sets the threads of both frameworks: one a process

import numpy as np
import torch
from fastestimator.architecture.pytorch import LeNet
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.localisation import EPOCHS, ONE_PASS, WIDTHS, gain
from fe_gradcam import Heatmap, explain_many
from fe_gradcam.metrics.asked import Make
from fe_gradcam.metrics.imputation import blurred, falling, filled, replaced
from tutorials.digits import TRAINED, Framework, input_shape, train
from tutorials.real_data import digit_canvases, photos, pretrained_torch, torch_input

STEPS = 32
RESAMPLES = 2000
CANDIDATES = ("conv", "conv + relu", "last map")
MEASURES = ("gain", "deletion", "insertion")
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "global average pooling, linear": partial(nn.AdaptiveAvgPool2d, 1),
    "2x2 max pooling, flatten, linear": partial(nn.MaxPool2d, 2),
    "global max pooling, linear": partial(nn.AdaptiveMaxPool2d, 1),
}
LENET = "LeNet of FastEstimator"

Probabilities = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to the probabilities of the classes, (N, K)."""

Values = NDArray[np.float64]
"""One number per image, (N,); NaN where there is none."""


def deletion(
    probabilities: Probabilities,
    images: Tensor,
    baseline: Tensor,
    heat: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    steps: int = STEPS,
    seed: int = 0,
) -> Values:
    """The area under the deletion curve of Petsiuk 2018: `replaced` from the images to the baseline.

    Low where the heat is on what the model needs: the class is gone with the first pixels.

    Args:
        probabilities: The model; called without gradients with up to steps + 1 versions of images.
        images: (N, C, H, W).
        baseline: (N, C, H, W), what the pixels become.
        heat: (N, H, W).
        class_ids: (N,), the class of each image.
        steps: How many.
        seed: Of the random order of pixels of equal heat; the same for every heat of this shape.

    Returns:
        (N,) within [0, 1].
    """
    ids = torch.from_numpy(class_ids)

    def ask(rows: Tensor, make: Make) -> Tensor:
        answers = torch.zeros(len(rows))
        with torch.inference_mode():
            for start in range(0, len(rows), steps + 1):
                at = torch.arange(start, min(start + steps + 1, len(rows)))
                answers[at] = probabilities(make(at)).gather(1, ids[rows[at], None])[:, 0]
        return answers

    ties = np.random.default_rng(seed).random((len(heat), heat[0].size))
    return replaced(ask, images, baseline, torch.from_numpy(falling(heat, ties)), steps).numpy()


def insertion(
    probabilities: Probabilities,
    images: Tensor,
    baseline: Tensor,
    heat: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    steps: int = STEPS,
    seed: int = 0,
) -> Values:
    """The area under the insertion curve of Petsiuk 2018: `replaced` from the baseline to the images.

    High where the heat is on what the model needs: the class is there with the first pixels. Otherwise as `deletion`.
    """
    return deletion(probabilities, baseline, images, heat, class_ids, steps, seed)


def check() -> None:
    """Raises unless deletion and insertion are what they are by hand.

    The models see white images of 8 x 8 on black. One gives the value of a single pixel, which falls from 1 to 0, or
    rises, in the step that takes this pixel: the first where it is the hottest, the last where it is the coldest,
    any where all are equal. The other gives the mean of all pixels, a line whatever the heat.
    """
    count, size, steps = 400, 8, 32
    white, black = torch.ones(count, 1, size, size), torch.zeros(count, 1, size, size)
    ids = np.zeros(count, np.int64)
    hot = np.zeros((count, size, size), np.float32)
    hot[:, 2, 3] = 1
    models: list[Probabilities] = [lambda x: x[:, :, 2, 3], lambda x: x.flatten(1).mean(1, keepdim=True)]
    half = 1 / (2 * steps)
    expected = {"hot": (hot, half, 1 - half), "cold": (-hot, 1 - half, half)}
    for heat, deleted, inserted in expected.values():
        np.testing.assert_allclose(deletion(models[0], white, black, heat, ids, steps), deleted)
        np.testing.assert_allclose(insertion(models[0], white, black, heat, ids, steps), inserted)
        np.testing.assert_allclose(deletion(models[1], white, black, heat, ids, steps), 0.5, atol=1e-6)
    equal = deletion(models[0], white, black, 0 * hot, ids, steps)
    assert abs(equal.mean() - 0.5) < 4 * 0.29 / np.sqrt(count), equal.mean()  # 0.29: of the uniform distribution
    print(f"check: one pixel read, {steps} steps: hottest {half:.4f} / {1 - half:.4f}, coldest the reverse;", end=" ")
    print(f"all equal {equal.mean():.3f} ± {equal.std():.3f}; mean of all pixels 0.5")


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        mean: Over the images that have a value.
        low: Lower end of the 95 % percentile bootstrap interval over images.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float

    def text(self, *, signed: bool = False) -> str:
        """The numbers; where `signed`, with their signs and a star where the interval excludes 0."""
        digits = 2 if max(abs(self.low), abs(self.high)) >= 2 else 3
        form = f"{'+' if signed else ''}.{digits}f"
        star = "*" if signed and (self.low > 0 or self.high < 0) else ""
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]{star}"


def estimate(values: Values) -> Estimate:
    """The mean of the values that are not NaN, and its interval."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Estimate(np.nan, np.nan, np.nan)
    rows = np.random.default_rng(0).integers(0, len(finite), (RESAMPLES, len(finite)))
    low, high = np.percentile(finite[rows].mean(1), [2.5, 97.5])
    return Estimate(float(finite.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Row:
    """The measures of one heat for each image.

    Attributes:
        method: The name of the method, or of the heat that has none.
        candidate: One of CANDIDATES, or "".
        place: The layer that was explained.
        blank: Number of images without heat.
        values: By the name of the measure; those that were taken.
    """

    method: str
    candidate: str
    place: str
    blank: int
    values: dict[str, Values]


Measure = Callable[[NDArray[np.float32]], dict[str, Values]]


def rows(maps: Sequence[Heatmap], candidates: Sequence[str], measure: Measure) -> list[Row]:
    """The random heat's row, and one for each heatmap; equal heat is measured once.

    Args:
        maps: Methods outermost, candidates innermost, as `explain_many` gives them.
        candidates: Their names.
        measure: Gives the measures of a heat.
    """
    random_heat = np.random.default_rng(0).random(maps[0].values.shape, np.float32)
    table = [Row("uniform random", "", "", 0, measure(random_heat))]
    before: list[tuple[Heatmap, dict[str, Values]]] = []
    for at, heatmap in enumerate(maps):
        known = [values for other, values in before if np.array_equal(other.values, heatmap.values)]
        values = known[0] if known else measure(heatmap.values)
        before.append((heatmap, values))
        candidate = candidates[at % len(candidates)]
        table.append(Row(heatmap.method, candidate, heatmap.layer, int(heatmap.blank.sum()), values))
    return table


def tables(title: str, table: Sequence[Row]) -> str:
    """The means as text, and the paired differences of each candidate from the last map."""
    taken = [name for name in MEASURES if name in table[0].values]
    lines = ["", title, f"  {'method':14} {'candidate':11} {'place':10} blank " + "".join(f"{x:25}" for x in taken)]
    for row in table:
        texts = "".join(f"{estimate(row.values[name]).text():25}" for name in taken)
        lines.append(f"  {row.method:14} {row.candidate:11} {row.place:10} {row.blank:5} {texts}")
    last = {row.method: row.values for row in table if row.candidate == CANDIDATES[-1]}
    for row in table:
        if row.candidate in CANDIDATES[:-1]:
            texts = "".join(f"{difference_text(row.values[name], last[row.method][name]):29}" for name in taken)
            lines.append(f"  {row.method:14} {row.candidate + ' − last map':23} {texts}")
    return "\n".join(line.rstrip() for line in lines)


def difference_text(values: Values, base: Values) -> str:
    """The mean paired difference with its interval."""
    if np.array_equal(values, base, equal_nan=True):
        return "0 (same heat)"
    return estimate(values - base).text(signed=True)


class ModuleLeNet(LeNet):
    """FastEstimator's LeNet with its ReLUs as modules, so that they are layers by name."""

    def __init__(self) -> None:
        super().__init__(input_shape("torch"))
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """As the base class."""
        x = nn.functional.max_pool2d(self.relu1(self.conv1(x)), self.pool_kernel)
        x = nn.functional.max_pool2d(self.relu2(self.conv2(x)), self.pool_kernel)
        x = self.relu3(self.conv3(x)).flatten(1)
        probabilities: Tensor = self.fc2(nn.functional.relu(self.fc1(x))).softmax(-1)
        return probabilities


def torch_net(head: str, seed: int) -> nn.Module:
    """One of POOLINGS behind four convolutions with batch norms and ReLUs, or LeNet."""
    torch.manual_seed(seed)
    if head == LENET:
        return ModuleLeNet()
    net = nn.Sequential()
    for at, (before, after) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False), 1):
        net.add_module(f"conv{at}", nn.Conv2d(before, after, 3, padding=1))
        net.add_module(f"bn{at}", nn.BatchNorm2d(after))
        net.add_module(f"relu{at}", nn.ReLU())
        if at < 3:
            net.add_module(f"pool{at}", nn.MaxPool2d(2))
    net.add_module("pool", POOLINGS[head]())
    net.add_module("flatten", nn.Flatten())
    net.add_module("linear", nn.LazyLinear(10))
    net.add_module("softmax", nn.Softmax(-1))
    net(torch.zeros(2, *input_shape("torch")))
    return net


def keras_net(head: str, seed: int) -> Any:
    """The same in Keras, for the first two of POOLINGS."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    of = tf.keras.layers
    net = tf.keras.Sequential([of.InputLayer(input_shape("tf"))])
    for at, width in enumerate(WIDTHS, 1):
        net.add(of.Conv2D(width, 3, padding="same", name=f"conv{at}"))
        net.add(of.BatchNormalization(momentum=0.9, name=f"bn{at}"))
        net.add(of.ReLU(name=f"relu{at}"))
        if at < 3:
            net.add(of.MaxPool2D(name=f"pool{at}"))
    average = head.startswith("global average")
    net.add(of.GlobalAveragePooling2D() if average else of.MaxPool2D(name="pool"))
    net.add(of.Flatten())
    net.add(of.Dense(10, activation="softmax"))
    return net


def trained(framework: Framework, head: str, seed: int) -> Any:
    """A trained net, without FastEstimator's log."""
    make = partial(torch_net if framework == "torch" else keras_net, head, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return train(framework, make, lambda model: [], EPOCHS)


def canvas_tables(framework: Framework, head: str, seed: int) -> str:
    """Trains a net and gives its tables; deletion and insertion, to and from black, for PyTorch alone."""
    model = trained(framework, head, seed)
    canvases = digit_canvases()[TRAINED:]
    images = canvases.images.reshape(-1, *input_shape(framework)).astype(np.float32) / 255
    last = 3 if head == LENET else len(WIDTHS)
    places = (f"conv{last}", f"relu{last}", "pool" if "2x2" in head else f"relu{last}")
    maps = explain_many(model, images, methods=ONE_PASS, layers=places, batch_size=100)
    ids = maps[0].class_ids
    if framework == "torch":
        model = model.eval().to(memory_format=torch.channels_last)
    white = torch.from_numpy(images)
    black = torch.zeros_like(white)

    def measure(heat: NDArray[np.float32]) -> dict[str, Values]:
        values = {"gain": gain(heat, canvases)}
        if framework == "torch":
            values["deletion"] = deletion(model, white, black, heat, ids)
            values["insertion"] = insertion(model, white, black, heat, ids)
        return values

    accuracy = (ids == canvases.labels).mean()
    title = (
        f"{framework}, {head} (training {seed}): accuracy {accuracy:.3f}, confidence {maps[0].confidences.mean():.3f}"
    )
    return tables(f"{title}, {len(ids)} canvases", rows(maps, CANDIDATES, measure))


def photo_tables() -> str:
    """The tables of the photos: deletion to a photo's mean colour, insertion into the blurred photo."""
    images = torch_input(photos()[0])
    grey = filled(images, "mean")
    blurry = blurred(images)
    model = pretrained_torch()
    maps = explain_many(model, images, methods=ONE_PASS, layers=("_conv_head", "_swish"))
    ids = maps[0].class_ids
    net: Any = nn.Sequential(model, nn.Softmax(-1))
    net.to(memory_format=torch.channels_last)

    def measure(heat: NDArray[np.float32]) -> dict[str, Values]:
        return {
            "deletion": deletion(net, images, grey, heat, ids),
            "insertion": insertion(net, images, blurry, heat, ids),
        }

    with torch.inference_mode():
        confidences = [float(net(x)[range(len(ids)), ids].mean()) for x in (images, grey, blurry)]
    title = "torch, EfficientNet-Lite0: confidence {:.3f}, in the mean colour {:.3f}, in the blurred photo {:.3f}"
    table = rows(maps, (CANDIDATES[0], CANDIDATES[-1]), measure)
    return tables(f"{title.format(*confidences)}, {len(ids)} photos", table)


def start_worker() -> None:
    """Makes a process quiet, and one that takes one core: the passes are small, and threads would only wait."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def main() -> None:
    """Prints the tables of every net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, nargs="+", default=[0], help="seeds of the nets' first weights")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    chosen = parser.parse_args()
    started = time.perf_counter()
    check()
    print(f"deletion: less is better; insertion: more is better; {STEPS} steps; [95 % bootstrap interval over images]")
    print("the differences are paired; *: the interval excludes 0", flush=True)
    jobs: list[Callable[[], str]] = []
    for seed in chosen.trainings:
        jobs += [partial(canvas_tables, "torch", head, seed) for head in (*POOLINGS, LENET)]
        jobs += [partial(canvas_tables, "tf", head, seed) for head in list(POOLINGS)[:2]]
    with ProcessPoolExecutor(chosen.workers, get_context("spawn"), start_worker) as pool:
        for done in [pool.submit(job) for job in (*jobs, photo_tables)]:
            print(done.result(), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
