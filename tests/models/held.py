"""All that a model holds, and the streams beside it, so that a test can say that nothing was changed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.testing import assert_equal
from torch import nn


def held(model: Any) -> dict[str, Any]:
    """Copies, by what they are of."""
    found: dict[str, Any] = {
        "Python's stream": random.getstate(),
        "NumPy's stream": np.random.get_state()[1].copy(),
        "torch's stream": torch.get_rng_state().numpy(),
        "grad mode": torch.is_grad_enabled(),
    }
    if not isinstance(model, nn.Module):
        for layer in model._flatten_layers():
            found[f"{layer.name} trains"] = layer.trainable
            found[f"{layer.name} attributes"] = sorted(layer.__dict__)
        return found | {f"weights {at}": weights for at, weights in enumerate(model.get_weights())}
    found |= {name: tensor.detach().float().numpy().copy() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[f"{name} takes a gradient"] = parameter.requires_grad
        found[f"gradient of {name}"] = None if gradient is None else gradient.float().numpy().copy()
    for name, module in model.named_modules():
        found[f"{name} trains"] = module.training
        found[f"{name} hooks"] = len(module._forward_hooks), len(module._forward_pre_hooks)
    return found


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert_equal(after[name], value, err_msg=name)
