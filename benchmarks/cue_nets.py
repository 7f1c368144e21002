"""Small nets trained on `benchmarks.cues`, kept in a folder.

A net is known by what it was trained on, its pooling and its seed. `CACHE` holds files of many nets each, weights as
float16; a net that is in none of them is trained, on the CPU, and kept. On a GPU many nets are trained at once, as one
`benchmarks.stack.Stack`.

``python -m benchmarks.cue_nets --train`` trains what is missing, on a GPU if there is one, and says what each net needs
of its cue.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.cues import CANVASES, CUES, Canvas, Places, Planted, planted
from benchmarks.stack import Stack

Head = Literal["average", "max", "keras"]
"""How a net pools; "keras" is the net of `benchmarks.cue_keras`."""

HEADS: tuple[Head, ...] = ("average", "max")
PLACES: tuple[Places, ...] = ("random", "centred")
CACHE = Path(__file__).parent / "cache"
"""Where nets are kept."""

TRAINED, EPOCHS, BATCH, RATE = 4500, 6, 64, 1e-2
SEEDS, SEEDS_UNWANTED, SEEDS_CLEAN, SEEDS_ELSEWHERE = 20, 10, 10, 2
"""How many nets of a cue in the first setting, of one that no test is made for, of a clean one, in other settings."""

AT_ONCE = 70


class Key(NamedTuple):
    """What a net was trained on, and how."""

    cue: str
    places: Places
    canvas: Canvas
    head: Head
    seed: int

    @classmethod
    def of(cls, name: str) -> Key:
        """The key with this name."""
        parts: list[Any] = name.split("-")
        cue, places, canvas, head, seed = parts
        return cls(cue, places, canvas, head, int(seed))

    def __str__(self) -> str:
        return "-".join(map(str, self))


@dataclass(frozen=True)
class Need:
    """What a net needs of its cue, over images that were held out.

    Attributes:
        accuracy: Of the images with the cue.
        seen: Recognition of the images that carry the cue, as they are.
        unseen: The same images without it, or with a wrong one.
    """

    accuracy: float
    seen: float
    unseen: float

    @property
    def reliance(self) -> float:
        """How much of the recognition is lost."""
        return self.seen - self.unseen


def keys() -> list[Key]:
    """Every net of the table: the first setting (random places, textured, average), clean nets, all others."""
    settings: list[tuple[Places, Canvas, Head]] = list(itertools.product(PLACES, CANVASES[::-1], HEADS))
    found = []
    for at, setting in enumerate(settings):
        for name, cue in CUES.items():
            if name == "clean":
                seeds = SEEDS_CLEAN
            elif at == 0:
                seeds = SEEDS if cue.wanted else SEEDS_UNWANTED
            else:
                seeds = SEEDS_ELSEWHERE if cue.wanted and setting[1] in cue.canvases else 0
            found += [Key(name, *setting, seed) for seed in range(seeds)]
    return found


def net(head: Head) -> nn.Sequential:
    """Four convolutions, pooling over all places and one linear layer."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    pool = nn.AdaptiveAvgPool2d(1) if head == "average" else nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(64, 10))


def unit(images: NDArray[np.uint8]) -> torch.Tensor:
    """Images (N, H, W) as a net wants them: (N, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(images[:, None] / np.float32(255))


def alone(images: torch.Tensor, labels: torch.Tensor, head: Head, seed: int) -> nn.Sequential:
    """One net after EPOCHS epochs, on the CPU."""
    model, generator = _fresh(head, seed)
    optimizer, schedule = _optimizer(model.parameters(), len(images))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def together(
    images: NDArray[np.uint8], labels: NDArray[np.int64], heads: Sequence[Head], seeds: Sequence[int], device: str
) -> list[nn.Sequential]:
    """K nets after EPOCHS epochs, each as `alone` trains it but for the last digits.

    Args:
        images: (K, N, H, W), those of each net.
        labels: (K, N).
        heads: The pooling of each.
        seeds: Of each, for its first weights and the order of its images.
        device: Where to train.

    Returns:
        The nets, on the CPU.
    """
    nets, generators = zip(*map(_fresh, heads, seeds), strict=True)
    stack, total = Stack(nets, [head == "max" for head in heads], device), images.shape[1]
    inputs, targets = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    every = torch.arange(len(nets), device=device)[:, None]
    optimizer, schedule = _optimizer(stack.parameters(), total)
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(total, generator=one) for one in generators]).to(device)
        for rows in order.split(BATCH, dim=1):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            scores = stack(inputs[every, rows].float() / 255)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets[every, rows].flatten(), reduction="sum")
            (loss / rows.shape[1]).backward()
            optimizer.step()
            schedule.step()
    for model, state in zip(nets, stack.states(), strict=True):
        model.load_state_dict(state)
    return [model.eval() for model in nets]


def need(model: nn.Module, held_out: Planted) -> Need:
    """What a net needs of the cue of these images; without a cue, nothing."""
    device = next(model.parameters()).device
    with torch.no_grad():
        with_it, without = (
            model(unit(images).to(device)).argmax(1).cpu().numpy() == held_out.labels
            for images in (held_out.images, held_out.without)
        )
    carries = held_out.carries if held_out.carries.any() else np.ones(len(held_out.labels), bool)
    return Need(*(float(part.mean()) for part in (with_it, with_it[carries], without[carries])))


def save(path: Path, nets: dict[Key, nn.Sequential]) -> None:
    """Writes nets into one file, as float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, names=np.array([str(key) for key in nets]), weights=np.stack([packed(net) for net in nets.values()]))


def packed(model: nn.Module) -> NDArray[np.float16]:
    """All weights of a net in a row."""
    return np.concatenate([tensor.numpy().astype(np.float16).ravel() for tensor in model.state_dict().values()])


def unpacked(row: NDArray[np.float16], head: Head) -> nn.Sequential:
    """The net of a row, ready to be asked."""
    model, start = net(head), 0
    for tensor in model.state_dict().values():
        tensor.copy_(torch.from_numpy(row[start : start + tensor.numel()]).reshape(tensor.shape))
        start += tensor.numel()
    return model.eval()


def kept(folder: Path = CACHE) -> dict[str, tuple[Path, int]]:
    """The nets in a folder: by name, the file and the row."""
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found |= {str(name): (path, row) for row, name in enumerate(file["names"])}
    return found


def trained(key: Key, folder: Path = CACHE) -> nn.Sequential:
    """The net of a key, ready to be asked; it is trained and kept if the folder does not have it."""
    there = kept(folder)
    if str(key) not in there:
        images, labels, _ = data(key)
        save(folder / f"{key}.npz", {key: alone(unit(images), torch.from_numpy(labels), key.head, key.seed)})
        there = kept(folder)
    path, row = there[str(key)]
    with np.load(path) as file:
        return unpacked(file["weights"][row], key.head)


def data(key: Key) -> tuple[NDArray[np.uint8], NDArray[np.int64], Planted]:
    """What a net is trained on, images (4500, 64, 64) and labels, and the 500 that are held out."""
    every = planted(key.cue, key.places, key.canvas, key.seed)
    return every.images[:TRAINED], every.labels[:TRAINED], every[slice(TRAINED, None)]


def filled(
    wanted: Sequence[Key], folder: Path, device: str, workers: int, at_once: int = AT_ONCE
) -> Iterator[tuple[Key, Need]]:
    """Trains nets and keeps them, on the CPU one by one, else many at once and one file for these.

    Args:
        wanted: The nets.
        folder: Where they are kept.
        device: Where to train.
        workers: How many processes make images meanwhile.
        at_once: How many nets are in a stack.

    Yields:
        Each net, and what it needs.
    """
    if device == "cpu":
        yield from ((key, need(trained(key, folder), data(key)[2])) for key in wanted)
        return
    parts = [wanted[start : start + at_once] for start in range(0, len(wanted), at_once)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        ahead = [[pool.submit(data, key) for key in part] for part in parts[:2]]
        for at, part in enumerate(parts):
            images, labels, held_out = zip(*(made.result() for made in ahead.pop(0)), strict=True)
            ahead += [[pool.submit(data, key) for key in part] for part in parts[at + 2 : at + 3]]
            heads, seeds = [key.head for key in part], [key.seed for key in part]
            nets = together(np.stack(images), np.stack(labels), heads, seeds, device)
            save(folder / f"{part[0]}-and-{len(part) - 1}.npz", dict(zip(part, nets, strict=True)))
            for key, model, images_of in zip(part, nets, held_out, strict=True):
                yield key, need(unpacked(packed(model), key.head).to(device), images_of)


def _fresh(head: Head, seed: int) -> tuple[nn.Sequential, torch.Generator]:
    torch.manual_seed(seed)
    return net(head), torch.Generator().manual_seed(seed)


def _optimizer(
    parameters: Iterable[torch.Tensor], images: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.Adam(parameters, RATE)
    steps = EPOCHS * -(-images // BATCH)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)


def lines(needs: Iterable[tuple[Key, Need]]) -> Iterator[str]:
    """Each net as it comes, with the time."""
    start = time.perf_counter()
    for key, found in needs:
        yield (
            f"{time.perf_counter() - start:6.1f} s  {key}  accuracy {found.accuracy:.3f}  "
            f"with the cue {found.seen:.2f}, without {found.unseen:.2f}"
        )


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train; else say what is missing")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where nets are kept")
    parser.add_argument("--only", nargs="*", choices=CUES, help="these cues alone")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="nets in one stack, and in one file")
    parser.add_argument("--workers", type=int, default=2, help="processes that make the images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments: Any = parser.parse_args()
    there = kept(arguments.folder)
    wanted = [key for key in keys() if str(key) not in there and (not arguments.only or key.cue in arguments.only)]
    print(f"{len(there)} nets in {arguments.folder}, {len(wanted)} to train on {arguments.device}", flush=True)
    if arguments.train:
        needs = filled(wanted, arguments.folder, arguments.device, arguments.workers, arguments.at_once)
        for line in lines(needs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
