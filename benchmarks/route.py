"""What `explain` costs over Grad-CAM by hand and over plain inference: CPU time in interleaved rounds, peak memory.

The function by hand (`benchmarks.nets`) does the same work for one net: its maps are first seen to be those of
`explain`. Plain inference is ``torch.inference_mode`` for PyTorch and a compiled, traced call for TensorFlow. Each
net is measured in a process of its own, in one thread; memory in a fresh one for each function, at batch 64.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.measure import Call, Ratio, rise, rise_of, rounds_within, row_by_row
from benchmarks.nets import NETS, Framework, by_hand, plain, ready
from fe_gradcam import explain

MEMORY_BATCH = 64
MEMORY_OF = ("resnet50", "efficientnet_lite0")
SAME = 1e-4
"""How far apart the two heats may be, of 1."""


def functions(framework: Framework, name: str, count: int | None = None) -> dict[str, Call]:
    """By hand, plain, explain: of one batch."""
    net, model, x = ready(framework, name, count)
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
    taken = rounds_within(made, seconds, 9, 400)
    by_hand, inference, explaining = (taken[which] for which in ("by hand", "plain", "explain"))
    ratios = [Ratio.of(*pair) for pair in ((explaining, by_hand), (explaining, inference), (inference, by_hand))]
    cells = [f"{framework} {name}", f"{1e3 * np.median(by_hand):.3g} ms", *map(str, ratios)]
    if name in MEMORY_OF:
        arguments = (framework, name, str(MEMORY_BATCH))
        peaks = {which: rise_of("benchmarks.route", *arguments, which) for which in ("explain", "by hand", "plain")}
        cells += [f"{peaks[which]:.0f} MiB, {peaks[which] / peaks['plain']:.3f}" for which in ("explain", "by hand")]
    print(" | ".join(cells), flush=True)


def peak(framework: Framework, name: str, count: str, which: str) -> float:
    """MiB by which it rises."""
    functions(framework, name, 1)[which]()  # what is loaded once is no memory of the images
    return rise(functions(framework, name, int(count))[which], 3)


def main() -> None:
    """Prints a row for each net."""
    head = "net | by hand | explain / by hand | explain / plain | plain / by hand | peak at batch 64, over plain's:"
    every = [f"{framework} {name}" for framework, nets in NETS.items() for name in nets]
    row_by_row("benchmarks.route", head, every, print_row, peak)


if __name__ == "__main__":
    main()
