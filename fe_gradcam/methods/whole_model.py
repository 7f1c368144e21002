"""The rules that look at more than one layer: at what each layer contributes to the score."""

from __future__ import annotations

import torch
from torch import Tensor

from fe_gradcam.errors import Argument, UnsupportedModelError
from fe_gradcam.methods.asking import probe_of
from fe_gradcam.methods.registry import UNSIGNED, cam_method
from fe_gradcam.scaling import upsample
from fe_gradcam.types import CamInputs, Needs

COMPLETE = 1e-3
"""How far the sum of the parts may differ from the score, relative to the score."""

ROUNDINGS_OF_PARTS = 256
"""Further tolerance: so many times the spacing of the model's numbers, relative to the root of the sum of squares."""

CONSTANT = 1e-5
"""A term whose range is below this, relative to its size, counts as constant."""


@cam_method("full_grad", paper="Srinivas 2019, arXiv:1905.00780", needs=Needs.PROBE, shows=UNSIGNED)
def full_grad(inputs: CamInputs) -> Tensor:
    """ψ(g_x ⊙ x) + Σ over layers and channels of ψ(bias · gradient); ψ is the magnitude, rescaled and upsampled.

    The method is for networks of piecewise linear layers with biases (convolutions, linear layers, batch normalisation,
    ReLU, pooling). In these the input and bias gradients sum to the score, which is checked. The map of each channel is
    rescaled to [0, 1] by itself, as in the paper; the paper's published code rescales the channels of a layer together.
    Biases of layers without a spatial output are not drawn. The map is unsigned, at the size of the image.

    Raises:
        UnsupportedModelError: The parts do not sum to the score, so the network has layers of another kind.
    """
    parts = probe_of(inputs).bias_gradients()
    summed, squares = parts.elsewhere.double(), parts.elsewhere.double() ** 2
    for terms in (parts.of_input, *parts.of_biases):
        summed = summed + terms.double().flatten(1).sum(1)
        squares = squares + (terms.double() ** 2).flatten(1).sum(1)
    tolerance = COMPLETE * parts.scores.abs() + ROUNDINGS_OF_PARTS * parts.precision * squares.sqrt()
    if bool(((summed - parts.scores).abs() > tolerance).any()):
        raise UnsupportedModelError(
            Argument("method", "'full_grad'"),
            " is defined for networks of piecewise linear layers (convolutions, linear layers, batch normalisation, "
            "ReLU, pooling), whose input and bias gradients sum to the score. Here they sum to "
            f"{float(summed[0]):.4g}, and the score is {float(parts.scores[0]):.4g}, so a layer is of another kind "
            "(GELU, SiLU, layer normalisation, attention). Use ",
            Argument("method", "'layer_cam'"),
            " or 'grad_cam'.",
        )
    size = tuple(parts.of_input.shape[2:])
    return sum((_rescaled(terms, size) for terms in parts.of_biases), _rescaled(parts.of_input, size))


def _rescaled(terms: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, *S): the magnitude of each channel, brought to [0, 1], upsampled and summed over the channels."""
    flat = terms.abs().flatten(2)
    least = flat.amin(2, keepdim=True)
    spread = flat.amax(2, keepdim=True) - least
    tells = spread > CONSTANT * flat.amax(2, keepdim=True)  # a smaller spread is rounding
    unit = ((flat - least) / spread.where(tells, 1)).where(tells, 0).reshape(terms.shape)
    return upsample(unit.sum(1), size)  # upsampling is linear: the sum may go first


@cam_method(
    "le_grad",
    paper="Bousselham 2024, arXiv:2404.03214",
    needs=Needs.PROBE,
    cost="a pass per attention block",
    shows=UNSIGNED,
)
def le_grad(inputs: CamInputs, *, mean_token: bool = True) -> Tensor:
    """Mean over the blocks of a ViT of relu(∂ s / ∂ attention), averaged over heads and queries.

    s is the score behind the block: what follows the last block is applied directly to the output tokens of this one.
    The paper's equation for z-bar, and its authors' code, give it the mean of all these tokens, and so does this rule.
    The mean stands in the place of every token, so that the model's own norm and classifier read it, whichever token
    they look at. With `mean_token=False` they get the tokens as they are: then s is, for a model that looks at its
    class token, the score of this token. Behind the last block that is the model's own score. All blocks count, as in
    the paper; its authors' code takes the last two unless told otherwise. Only the tokens of the image are drawn. The
    map is unsigned, with one pixel for each patch.

    Args:
        inputs: The results of one pass.
        mean_token: Whether the classifier gets the mean of all tokens, as in the paper, or the tokens as they are.

    Raises:
        UnsupportedModelError: The network has no blocks of attention over the image's tokens.
    """
    return torch.stack(probe_of(inputs).attention_gradients(mean_token=mean_token)).mean(0)
