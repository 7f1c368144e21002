"""What `explain` costs over plain inference: time in interleaved pairs, peak memory in a process each.

Plain inference is ``torch.inference_mode`` for PyTorch and a compiled, traced call for TensorFlow.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.measure import compared
from tutorials.real_data import normalise, photos, pretrained_torch

FRAMEWORKS = ("torch", "tf")
MODELS = ("efficientnet_lite0", "resnet50")
BATCHES = (8, 64)


def images(count: int) -> np.ndarray[Any, Any]:
    """Photos, over and over, (count, 224, 224, 3), normalised."""
    originals = normalise(photos()[0])
    return np.concatenate([originals] * (count // len(originals) + 1))[:count]


def torch_model(name: str) -> Any:
    """The pretrained classifier, or a ResNet-50 with random weights."""
    import torch

    if name == "efficientnet_lite0":
        return pretrained_torch()
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNetForImageClassification(ResNetConfig(num_labels=1000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x).logits
            return logits

    return Logits().eval()


def keras_model(name: str) -> Any:
    """The same classifiers in Keras."""
    import tensorflow as tf

    if name == "efficientnet_lite0":
        from tests.models.keras_twin import pretrained_keras

        return pretrained_keras()
    return tf.keras.applications.ResNet50(weights=None, classifier_activation=None)


def functions(framework: str, name: str, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Explaining and plain inference of one batch."""
    from fe_gradcam import explain

    if framework == "torch":
        import torch

        model: Any = torch_model(name)
        x: Any = torch.from_numpy(np.ascontiguousarray(images(batch).transpose(0, 3, 1, 2)))

        def plain() -> object:
            with torch.inference_mode():
                return model(x)
    else:
        import tensorflow as tf

        model, x = keras_model(name), tf.constant(images(batch))
        compiled = tf.function(lambda given: model(given, training=False))
        concrete = compiled.get_concrete_function(tf.TensorSpec([None, 224, 224, 3]))

        def plain() -> object:
            return concrete(x).numpy()

    return (lambda: explain(model, x)), plain


def peak_rise(framework: str, name: str, batch: int, which: str) -> float:
    """MiB by which the peak of a fresh process rises when it explains, or only infers, five times.

    Every larger block is mapped by itself, so that what is measured is what is in use, and not what the C library
    keeps of what was given back, which differs by a fifth from run to run.
    """
    command = [sys.executable, "-m", "benchmarks.route", "--peak", framework, name, str(batch), which]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def print_peak_rise(framework: str, name: str, batch: int, which: str) -> None:
    """Runs in the fresh process. Linux keeps the peak and lets it be reset, so that loading does not count."""
    explaining, plain = functions(framework, name, batch)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(5):
        (explaining if which == "explain" else plain)()
    print(resident("VmHWM") - before)


def resident(field: str) -> float:
    """MiB that this process holds, or held at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Prints a row for each framework, model and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=4, metavar=("FRAMEWORK", "MODEL", "BATCH", "WHICH"))
    parser.add_argument("--pairs", type=int, default=15, help="at batch 8; a third of them at batch 64")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.peak:
        framework, name, batch, which = chosen.peak
        print_peak_rise(framework, name, int(batch), which)
        return
    print("framework model batch | time over plain inference: median [quartiles] | peak memory rise over plain's")
    for framework in FRAMEWORKS:
        for name in MODELS:
            for batch in BATCHES:
                pairs = chosen.pairs if batch == BATCHES[0] else max(5, chosen.pairs // 3)
                ratio = compared(*functions(framework, name, batch), pairs=pairs)
                rises = [peak_rise(framework, name, batch, which) for which in ("explain", "plain")]
                memory = f"{rises[0] / rises[1]:.3f} ({rises[0]:.0f} / {rises[1]:.0f} MiB)"
                print(f"{framework} {name} {batch} | {ratio} | {memory}", flush=True)


if __name__ == "__main__":
    main()
