"""Many small nets as one, so that training them fills a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

_CONVOLUTIONS = ((0, 2), (3, 2), (6, 2), (9, 1))
"""Where the convolutions of `benchmarks.cue_nets.net` are, and their stride."""


class Stack:
    """K nets of the same layers in one: every tensor has K rows, and one step trains all.

    Convolutions are products of matrices over shifted copies of the input, batch norm is that of K times the channels.
    """

    def __init__(self, nets: Sequence[nn.Module], of_maximum: Sequence[bool], device: str) -> None:
        states = [one.state_dict() for one in nets]
        self._state = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}
        self._max = torch.tensor(of_maximum, device=device)[:, None, None]
        for parameter in self.parameters():
            parameter.requires_grad_()

    def parameters(self) -> list[torch.Tensor]:
        """All that is trained."""
        kept = ("running_mean", "running_var", "num_batches_tracked")
        return [tensor for name, tensor in self._state.items() if not name.endswith(kept)]

    def states(self) -> list[dict[str, torch.Tensor]]:
        """The weights of each net, on the CPU."""
        state = {name: tensor.detach().cpu() for name, tensor in self._state.items()}
        return [{name: tensor[at] for name, tensor in state.items()} for at in range(len(self._max))]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """From (K, B, H, W) to scores (K, B, 10), in training mode."""
        x = images[:, None]
        for at, stride in _CONVOLUTIONS:
            x = self._normalised(self._convolved(x, at, stride), at + 1).relu()
        places = x.flatten(3)
        pooled = torch.where(self._max, places.max(dim=3).values, places.mean(dim=3))
        return torch.baddbmm(self._state["14.bias"][:, None], pooled.mT, self._state["14.weight"].mT)

    def _convolved(self, x: torch.Tensor, at: int, stride: int) -> torch.Tensor:
        weight, bias = self._state[f"{at}.weight"], self._state[f"{at}.bias"]
        count, _, images, height, width = x.shape
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        shifted = [
            padded[..., down : down + height : stride, across : across + width : stride]
            for down, across in itertools.product(range(3), range(3))
        ]
        columns = torch.stack(shifted, dim=2).flatten(1, 2).flatten(2)
        product = torch.baddbmm(bias[:, :, None], weight.flatten(2), columns)
        return product.view(count, -1, images, *shifted[0].shape[3:])

    def _normalised(self, x: torch.Tensor, at: int) -> torch.Tensor:
        mean, variance, weight, bias = (
            self._state[f"{at}.{name}"].flatten() for name in ("running_mean", "running_var", "weight", "bias")
        )
        flat = x.reshape(1, len(mean), -1)
        return nn.functional.batch_norm(flat, mean, variance, weight, bias, training=True).view(x.shape)
