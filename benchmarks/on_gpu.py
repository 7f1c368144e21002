"""What `explain` does on a GPU: cost over plain inference, images a second, synchronisations and transfers.

ResNet-50 and a vision transformer, as they are, in bfloat16, with channels last and compiled; times by the clock on the
wall, since work on a GPU is no CPU time: what `explain` and plain inference return is in NumPy, so both have waited.
Synchronisations and transfers are counted by torch.profiler in one call of each, once both are warm; below, the lines
of this package that wait for the GPU. Then other packages beside `explain`, as far as they are installed, with the
peak of the GPU's memory; and what a method that asks often takes by the rows of a pass. Ends within five minutes.
``--device cpu --small`` tries the script where there is no GPU; its figures say nothing about one.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import fe_gradcam
from benchmarks.measure import Call, Ratio, rounds
from benchmarks.nets import resnet
from benchmarks.peers import OURS, on_its_layer
from fe_gradcam import explain

NO_GPU = "no GPU is there: nothing was measured; --device cpu --small tries the script"
COUNTED = {
    "synchronisations": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "to the GPU": ("Memcpy HtoD",),
    "to the host": ("Memcpy DtoH",),
}
"""What is counted, and how the profiler's events begin that it is counted by."""


def transformer(*, small: bool) -> Any:
    """A ViT-B/16 with random weights, or one of two narrow layers."""
    from transformers import ViTConfig, ViTForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            narrow = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
            config = ViTConfig(image_size=64, num_labels=10, **narrow) if small else ViTConfig(num_labels=1000)
            self.net = ViTForImageClassification(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x).logits
            return logits

    return Logits().eval()


def counts(names: Counter[str]) -> dict[str, int]:
    """How often each of COUNTED is among the names of events."""
    return {
        what: sum(number for name, number in names.items() if name.startswith(begins))
        for what, begins in COUNTED.items()
    }


def profiled(function: Call, device: str) -> Counter[str]:
    """The events of one call."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as found:
        function()
    return Counter(event.name for event in found.events())


def kinds(device: str, *, small: bool) -> Iterator[tuple[str, Any, Any]]:
    """Names, models and images on the device."""
    makes: dict[str, Callable[[], Any]] = {
        "ResNet": lambda: resnet(18 if small else 50),
        "ViT": lambda: transformer(small=small),
    }
    for name, make in makes.items():
        torch.manual_seed(0)
        x = torch.rand(2 if small else 64, 3, *([64, 64] if small else [224, 224])).to(device)
        model = make().to(device)
        yield name, model, x
        yield (
            f"{name}, channels last",
            model.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
        yield f"{name}, compiled", torch.compile(model, backend="eager" if small else "inductor"), x
        yield f"{name}, bfloat16", model.to(torch.bfloat16), x.to(torch.bfloat16)


def waits(function: Call) -> Counter[str]:
    """The lines of this package in which one call waits for the GPU, and how often."""
    package = Path(fe_gradcam.__file__).parent
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [(Path(one.filename), one.lineno) for one in told if "synchroniz" in str(one.message)]
    return Counter(
        f"{path.relative_to(package) if path.is_relative_to(package) else path.name}:{line}" for path, line in places
    )


def peak(function: Call) -> float:
    """MiB by which one call raises what tensors hold of the GPU; 0 on the CPU."""
    if not torch.cuda.is_available():
        return 0
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def peers(device: str, *, small: bool) -> Iterator[str]:
    """A row for each package that is there, method and number of images; a ResNet-50."""
    for method, count in (("grad_cam", 8), ("grad_cam", 64), ("score_cam", 1))[: 1 if small else None]:
        torch.manual_seed(0)
        model, size = resnet(18 if small else 50).to(device), 64 if small else 224
        x = torch.rand(2 if small else count, 3, size, size).to(device)
        made = on_its_layer("net.resnet.encoder.stages.3", model, x, method)
        pairs = 3 if small or method == "score_cam" else 21
        taken = rounds(made, pairs, time.perf_counter)
        for name, times in taken.items():
            median, ratio = 1e3 * sorted(times)[pairs // 2], Ratio.of(times, taken[OURS])
            yield f"{method}, {len(x)} images | {name} | {median:.1f} ms | {ratio} | {peak(made[name]):.0f} MiB"


def by_rows(device: str, *, small: bool) -> Iterator[str]:
    """What score_cam takes by the rows of a pass, over what it takes with those that it chooses."""
    for name, model, x in kinds(device, small=small):
        if "," in name or (small and name == "ResNet"):
            continue
        its = {str(rows or "chosen"): _scoring(model, x[:1], rows) for rows in (None, 16, 64, 256)}
        taken = rounds(its, 3, time.perf_counter)
        for rows, times in taken.items():
            yield f"{name} | {rows} | {1e3 * sorted(times)[1]:.0f} ms | {Ratio.of(times, taken['chosen'])}"


def _scoring(model: Any, x: Any, rows: int | None) -> Call:
    return lambda: explain(model, x, method="score_cam", batch_size=rows, progress=False)


def row(name: str, model: Any, x: Any, pairs: int) -> str:
    """The figures of one kind."""

    def plain() -> Any:
        with torch.inference_mode():
            return model(x).float().cpu().numpy()

    def explaining() -> Any:
        return explain(model, x)

    taken = rounds({"plain": plain, "explain": explaining}, pairs, time.perf_counter)
    cells = [name, str(Ratio.of(taken["explain"], taken["plain"]))]
    cells += [f"{len(x) / sorted(times)[pairs // 2]:.0f}" for times in (taken["explain"], taken["plain"])]
    both = [counts(profiled(function, x.device.type)) for function in (explaining, plain)]
    cells += [f"{both[0][what]} ({both[1][what]})" for what in COUNTED]
    cells.append(f"{peak(explaining):.0f} ({peak(plain):.0f}) MiB")
    its = waits(explaining) if x.is_cuda else Counter[str]()
    return " | ".join(cells) + "".join(f"\n    waits {often} times: {where}" for where, often in its.items())


def main() -> int:
    """Prints a row for each kind; the exit code is 1 where the device is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="small nets, two images of 64 px")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return 1
    print(torch.cuda.get_device_name() if chosen.device == "cuda" else "on the CPU: these figures say nothing of a GPU")
    counted = " | ".join([*COUNTED, "peak of memory"])
    print(f"kind | explain over plain | images a second: explain | plain | {counted}: explain (plain)")
    for name, model, x in kinds(chosen.device, small=chosen.small):
        print(row(name, model, x, 5 if chosen.small else 21), flush=True)
    print("asked for | package | median | over fe_gradcam | peak of memory")
    for line in peers(chosen.device, small=chosen.small):
        print(line, flush=True)
    print("score_cam of one image | rows of a pass | median | over those chosen")
    for line in by_rows(chosen.device, small=chosen.small):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
