"""What `explain` costs over Grad-CAM by hand and over plain inference: CPU time in interleaved rounds, peak memory.

The function by hand (`benchmarks.nets`) does the same work for one net: its maps are first seen to be those of
`explain`. Plain inference is ``torch.inference_mode`` for PyTorch and a compiled, traced call for TensorFlow. Each
net is measured in a process of its own, in one thread; memory in a fresh one for each function, at batch 64.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.measure import Call, Ratio, one_thread, rise, rise_of, rounds
from benchmarks.nets import NETS, Framework, batch, by_hand, plain
from fe_gradcam import explain

MEMORY_BATCH = 64
MEMORY_OF = ("resnet50", "efficientnet_lite0")
SAME = 1e-4
"""How far apart the two heats may be, of 1."""


def functions(framework: Framework, name: str, count: int | None = None) -> dict[str, Call]:
    """By hand, plain, explain: of one batch."""
    import torch

    torch.manual_seed(0)
    if framework == "tf":
        import tensorflow as tf

        tf.random.set_seed(0)
    one_thread()
    net = NETS[framework][name]
    model, x = net.make(), batch(framework, net, count)
    return {
        "by hand": by_hand(framework, net, model, x),
        "plain": plain(framework, model, x),
        "explain": lambda: explain(model, x),
    }


def print_row(framework: Framework, name: str, seconds: float) -> None:
    """Compares the maps, then the times."""
    made = functions(framework, name)
    heatmap: Any = made["explain"]()
    layer, apart = NETS[framework][name].layer, np.abs(heatmap.values - made["by hand"]()).max()
    if heatmap.layer != layer or heatmap.blank.all() or apart > SAME:
        raise SystemExit(f"{framework} {name}: the heat of {heatmap.layer} is {apart:.1e} off that of {layer} by hand")
    once = sum(times.mean() for times in rounds(made, 3).values())
    taken = rounds(made, int(np.clip(seconds / once, 9, 400)))
    by_hand, inference, explaining = (taken[which] for which in ("by hand", "plain", "explain"))
    ratios = [Ratio.of(*pair) for pair in ((explaining, by_hand), (explaining, inference), (inference, by_hand))]
    cells = [f"{framework} {name}", f"{1e3 * np.median(by_hand):.3g} ms", *map(str, ratios)]
    if name in MEMORY_OF:
        arguments = (framework, name, str(MEMORY_BATCH))
        peaks = {which: rise_of("benchmarks.route", *arguments, which) for which in ("explain", "by hand", "plain")}
        cells += [f"{peaks[which]:.0f} MiB, {peaks[which] / peaks['plain']:.3f}" for which in ("explain", "by hand")]
    print(" | ".join(cells), flush=True)


def main() -> None:
    """Prints a row for each net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help='such as "torch resnet18"; all by default')
    parser.add_argument("--seconds", type=float, default=30, help="for the rounds of a net, of which 9 to 400 run")
    parser.add_argument("--peak", nargs=4, metavar=("FRAMEWORK", "NET", "BATCH", "WHICH"), help=argparse.SUPPRESS)
    chosen: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.peak:
        framework, name, count, which = chosen.peak
        functions(framework, name, 1)[which]()  # what is loaded once is no memory of the images
        print(rise(functions(framework, name, int(count))[which], 3))
    elif len(chosen.names) == 1:
        framework, name = chosen.names[0].split()
        print_row(framework, name, chosen.seconds)
    else:
        print("net | by hand | explain / by hand | explain / plain | plain / by hand | peak at batch 64, over plain's:")
        every = [f"{framework} {name}" for framework, nets in NETS.items() for name in nets]
        for name in chosen.names or every:
            command = [sys.executable, "-m", "benchmarks.route", name, "--seconds", str(chosen.seconds)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
