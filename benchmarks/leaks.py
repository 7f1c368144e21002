"""What calls and epochs leave behind: how fast memory, objects, tensors, hooks, files and threads grow.

``calls``: each public function, again and again with the same model and fresh images. ``epochs``: trainings of both
frameworks with everything on. What is held is counted after each step, the first ones are left out (there plans and
compiled functions are made), and a straight line is fitted. A leak is a
slope that is, less twice its standard error, above LEAST_KIB, or LEAST of anything that is counted.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

import fe_gradcam
from benchmarks.measure import Call, one_thread, resident
from benchmarks.nets import Framework

PARTS = ("calls", "epochs")
FRAMEWORKS: dict[Framework, str] = {"torch": "torch", "tf": "tensorflow"}
FIRST = 0.5
"""The share of the steps that is left out."""

LEAST_KIB, LEAST = 10.0, 0.05
"""With each step: the C library moves what it holds by a page now and then."""

Held = dict[str, float]
"""What is held, by name."""


@dataclass(frozen=True)
class Slope:
    """How fast something grows.

    Attributes:
        each: By how much with each step, the slope of the least squares.
        error: Its standard error.
    """

    each: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Slope:
        """The slope of values that were counted after each step, the first FIRST of them left out."""
        y = np.asarray(values[int(FIRST * len(values)) :], np.float64)
        x = np.arange(len(y)) - (len(y) - 1) / 2
        each = float(x @ y / (x @ x))
        rest = y - y.mean() - each * x
        return cls(each, float(np.sqrt(rest @ rest / (len(y) - 2) / (x @ x))))

    def leaks(self, least: float) -> bool:
        """Whether it surely grows by more than `least` with each step."""
        return self.each - 2 * self.error > least

    def __str__(self) -> str:
        return f"{self.each:+.3g} ± {self.error:.1g}"


def held(model: Any) -> Held:
    """What this process holds now, and what is on a model."""
    gc.collect()
    objects = gc.get_objects()
    return {
        "KiB": resident() * 1024,
        "objects": len(objects),
        "tensors": sum(_is_tensor(one) for one in objects),
        "hooks": _hooks(model),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
    }


def _is_tensor(one: Any) -> bool:
    return isinstance(one, torch.Tensor) or type(one).__name__ in ("EagerTensor", "ResourceVariable")


def _hooks(model: Any) -> int:
    """How many hooks modules have, or functions a Keras model."""
    if isinstance(model, torch.nn.Module):
        return sum(
            len(table) for one in model.modules() for name, table in vars(one).items() if name.endswith("_hooks")
        )
    return sum(len(getattr(layer, "_inbound_nodes", ())) for layer in model.layers)


def slopes_of(step: Call, model: Any, steps: int) -> dict[str, Slope]:
    """How fast each thing grows with a step."""
    seen: list[Held] = []
    for _ in range(steps):
        step()
        seen.append(held(model))
    return {name: Slope.of([one[name] for one in seen]) for name in seen[0]}


def net(framework: Framework) -> Any:
    """A small network of four classes, for images of 16 x 16 pixels in colour."""
    if framework == "torch":
        nn = torch.nn
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    of = tf.keras.layers
    layers = [of.InputLayer((16, 16, 3)), of.Conv2D(8, 3), of.BatchNormalization(), of.ReLU(), of.Conv2D(8, 3)]
    return tf.keras.Sequential([*layers, of.ReLU(), of.GlobalAveragePooling2D(), of.Dense(4)])


def images_of(framework: Framework, generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Noise, in the layout of the framework."""
    shape = (count, 3, 16, 16) if framework == "torch" else (count, 16, 16, 3)
    return generator.normal(size=shape).astype(np.float32)


def calls(framework: Framework, model: Any, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The public functions, each with fresh images at each call."""
    generator, public = np.random.default_rng(0), fe_gradcam
    fresh = partial(images_of, framework, generator)
    masks = np.zeros((24, 16, 16), bool)
    masks[:, 4:9, 4:9] = True

    def measured() -> object:
        images = fresh(2)
        return public.measure(model, images, public.explain(model, images), ["deletion", "road"])

    def drawn() -> object:
        images = fresh(2)
        picture = public.draw(images, public.explain(model, images))
        picture.save(folder / "drawn.png")
        return picture

    def reported() -> object:
        images = fresh(2)
        return public.report(folder / "page.html", images, public.explain(model, images))

    yield "explain", lambda: public.explain(model, fresh(2))
    yield "explain, another target", lambda: public.explain(model, fresh(2), target=lambda out: out[:, 0])
    yield "explain_many", lambda: public.explain_many(model, fresh(2), methods=["grad_cam", "score_cam", "full_grad"])
    yield "measure", measured
    yield "find_shortcuts", lambda: public.find_shortcuts(model, fresh(24), masks=masks)
    yield "atlas", lambda: public.atlas(model, fresh(24))
    yield "draw", drawn
    yield "report", reported


def training(framework: Framework, folder: Path, epochs: int) -> dict[str, Slope]:
    """How fast each thing grows with an epoch of a training that has everything on."""
    import fastestimator as fe
    from fastestimator.dataset.numpy_dataset import NumpyDataset
    from fastestimator.op.tensorop.loss import CrossEntropy
    from fastestimator.op.tensorop.model import ModelOp, UpdateOp
    from fastestimator.trace.trace import Trace

    model = fe.build(lambda: net(framework), optimizer_fn="adam", model_name="leaks")
    seen: list[Held] = []

    class Counts(Trace):  # type: ignore[misc, unused-ignore]
        """Counts what is held after each epoch."""

        def on_epoch_end(self, data: Any) -> None:
            seen.append(held(model))

    count, masks = 48, np.zeros((48, 16, 16), np.uint8)
    masks[:, 4:9, 4:9] = 1
    generator = np.random.default_rng(0)
    rows = {"x": images_of(framework, generator, count), "y": np.arange(count) % 4, "mask": masks}
    trace = fe_gradcam.GradCAM(
        "x", model=model, labels="y", preds="p", masks="mask", mode="eval", n_samples=4, select="worst",
        methods=["grad_cam", "score_cam"], metrics=["deletion", "sanity"], track=True, atlas=True, report=True,
        save_dir=folder,
    )  # fmt: skip
    ops = [ModelOp(model, "x", "p"), CrossEntropy(("p", "y"), "ce", from_logits=True), UpdateOp(model, "ce")]
    data = NumpyDataset(rows)
    pipeline = fe.Pipeline(train_data=data, eval_data=data, batch_size=16, num_process=0)
    traces = [trace, Counts(mode="eval")]
    fe.Estimator(pipeline, fe.Network(ops=ops), epochs, traces=traces, log_steps=0).fit(warmup=False)
    return {name: Slope.of([one[name] for one in seen]) for name in seen[0]}


def leaks_of(slopes: dict[str, Slope]) -> list[str]:
    """The names of what surely grows."""
    return [name for name, one in slopes.items() if one.leaks(LEAST_KIB if name == "KiB" else LEAST)]


def main() -> int:
    """Prints a table for each part; the exit code is 1 if something leaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: both")
    parser.add_argument("--steps", type=int, default=200, help="calls of each function")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for module in ("fe_gradcam.integrations.fastestimator.trace", *FRAMEWORKS.values()):  # the host's needs come first
        import_module(module)
    one_thread()
    bad = 0
    for part in given.parts or PARTS:
        print(f"{part} | KiB | objects | tensors | hooks | files | threads | leaks", flush=True)
        for framework in given.frameworks:
            with tempfile.TemporaryDirectory() as folder:
                model = net(framework)
                cases: Iterator[tuple[str, dict[str, Slope]]] = (
                    (
                        (name, slopes_of(step, model, given.steps))
                        for name, step in calls(framework, model, Path(folder))
                    )
                    if part == "calls"
                    else iter([("everything on", training(framework, Path(folder), given.epochs))])
                )
                for name, slopes in cases:
                    leaking = leaks_of(slopes)
                    said = f"LEAKS {', '.join(leaking)}" if leaking else "-"
                    print(" | ".join([f"{framework}: {name}", *map(str, slopes.values()), said]), flush=True)
                    bad += len(leaking)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
