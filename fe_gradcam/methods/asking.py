"""Passes over many variants of each image, a bounded number at once; and random numbers for each image."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fe_gradcam.errors import ArgumentError
from fe_gradcam.types import CamInputs, Probe

PATIENCE = 3.0
"""Seconds before a progress bar appears."""

SAME = 2.0**-19
"""How far apart two equal scores may come out, relative to the largest score at hand: a network takes its sums in
another order if the number of rows is another."""

Ask: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Gets the indices of images and of variants, both (B,), and returns the model's answers, (B, ...)."""


def probe_of(inputs: CamInputs) -> Probe:
    """The probe of the inputs, or ArgumentError if there is none."""
    if inputs.probe is None:
        raise ArgumentError(
            "inputs.probe is None, and this method needs further passes of the model: pass the model (to the trace: "
            "model=) instead of gradients under a key."
        )
    return inputs.probe


def chunks_of(inputs: CamInputs, variants: int, *, by_image: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of images and variants in chunks of `probe.at_once`, until every variant of every image is done.

    With `by_image` each chunk holds variants of one image alone, if that is possible.
    """
    probe, count, device = probe_of(inputs), len(inputs.activations), inputs.activations.device
    by_image = by_image and probe.row_by_row
    hidden = None if probe.progress else True  # None: where nobody is looking
    with tqdm(total=count * variants, unit="pass", delay=PATIENCE, leave=False, disable=hidden) as bar:
        for start, stop in _chunks(count, variants, probe, by_image=by_image):
            pairs = torch.arange(start, stop, device=device)
            yield (pairs // variants, pairs % variants) if by_image else (pairs % count, pairs // count)
            bar.update(stop - start)
            if probe.trial:
                break


def scores_of(inputs: CamInputs, variants: int, ask: Ask, *, by_image: bool = False) -> Tensor:
    """(N, variants) scores; see `chunks_of`."""
    scores = torch.zeros(len(inputs.activations), variants, dtype=torch.float32, device=inputs.activations.device)
    for rows, which in chunks_of(inputs, variants, by_image=by_image):
        scores[rows, which] = ask(rows, which)
    return scores


def _chunks(count: int, variants: int, probe: Probe, *, by_image: bool) -> list[tuple[int, int]]:
    """Where each chunk of the pairs begins and ends; no chunk crosses the end of a group of pairs."""
    total = count * variants
    group, size = (variants, probe.at_once_behind) if by_image else (total, probe.at_once)
    if not probe.row_by_row:  # the target may know the batch as it is
        group = size = count
    firsts = range(0, total, group)
    return [(at, min(at + size, first + group)) for first in firsts for at in range(first, first + group, size)]


def without_rounding(drops: Tensor, scores: Tensor, inputs: CamInputs) -> Tensor:
    """Differences (N, V) to the scores of `inputs`; zero where rounding alone may make two equal scores differ so."""
    largest = torch.maximum(scores.abs().amax(1), inputs.scores.abs())
    if inputs.logits is not None:
        largest = torch.maximum(largest, inputs.logits.abs().amax(1))
    return drops.where(~(drops.abs() <= SAME * largest[:, None]), 0)


class RandomNumbers:
    """Random numbers that depend on the seed and on the image, not on other images of the batch.

    They are drawn on the CPU, so they are the same on every device; the global random streams are not touched.
    """

    def __init__(self, inputs: CamInputs) -> None:
        rows, images = range(len(inputs.activations)), inputs.images
        self._seed, self._device = int(inputs.seed), inputs.activations.device
        self._sums = [0 if images is None else _checksum(images, row) for row in rows]

    def uniform(self, shape: tuple[int, ...], draw: int = 0) -> Tensor:
        """(N, *shape) within [-1, 1)."""
        generators = (self._generator(row, draw) for row in range(len(self._sums)))
        drawn = [torch.rand(shape, generator=generator, dtype=torch.float32) for generator in generators]
        return torch.stack(drawn).to(self._device) * 2 - 1

    def normal(self, rows: Tensor, draws: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape), standard normal, for each row and the index of its draw."""
        pairs = list(zip(rows.tolist(), draws.tolist(), strict=True))
        drawn = {pair: torch.randn(shape, generator=self._generator(*pair), dtype=torch.float32) for pair in set(pairs)}
        return torch.stack([drawn[pair] for pair in pairs]).to(rows.device)

    def _generator(self, row: int, draw: int) -> torch.Generator:
        said = f"{self._seed} {self._sums[row]} {draw}".encode()
        return torch.Generator().manual_seed(zlib.crc32(said) | zlib.adler32(said) << 32)


def _checksum(images: Any, row: int) -> int:
    """A checksum of the picture's values in any order, since frameworks differ in the axis of the channels."""
    parts = images if isinstance(images, (tuple, list)) else (images,)
    picture = max(parts, key=lambda part: len(part.shape))
    one = picture[row]
    one = one.detach().float().cpu().numpy() if isinstance(one, Tensor) else np.asarray(one, np.float32)
    bits = np.ascontiguousarray(one).reshape(-1).view(np.uint32)
    return int(bits.sum(dtype=np.uint64)) ^ int(np.bitwise_xor.reduce(bits)) << 64
