"""Principal components of the maps of a layer: each pixel of the map is a sample, each channel a feature."""

from __future__ import annotations

from functools import partial

import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError, warn
from fe_gradcam.methods.gradients import NEARLY_ZERO, _aligned, _gradients, _over_space
from fe_gradcam.methods.registry import OF_NO_TARGET, cam_method
from fe_gradcam.parameters import Count
from fe_gradcam.types import CamInputs, Needs

MOST_PLACES = 64 * 64
"""The most pixels of a map for `kpca_cam`, which needs all pairs of them."""

DENSE_PLACES = 512
"""Up to so many pixels all eigenvectors are computed; for more, only those that are asked for, which is faster."""

ROUNDING_OF_PLACES = 1e-14
"""How large an eigenvalue of zero may come out, relative to the number of pixels of the map."""

_of_maps = partial(cam_method, needs=Needs.ACTIVATIONS, cost="1 forward", shows=OF_NO_TARGET)


def component_of(maps: Tensor, which: int, *, center: bool = False) -> Tensor:
    """The maps (N, K, *S) of each image times their right singular vector number `which`: (N, *S).

    `which` counts from 1, the largest singular value; if there are fewer, the result is zero. `center` first subtracts
    the spatial mean of each channel, as in a PCA. The sign is chosen to agree with Σ_k of the maps.
    """
    rows, finite = _rows_of(maps)
    if which > min(rows.shape[1:]):
        return _none_left(maps, which, min(rows.shape[1:]))
    if center:
        rows = rows - rows.mean(1, keepdim=True)
    largest = rows.abs().amax((1, 2), keepdim=True)
    of_places, values = _left(rows / largest.where(largest > 0, 1), which)
    return _signed_map(of_places * values[:, None] * largest[:, :, 0], finite, maps)


def _rows_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps as (N, pixels, K), and whether those of each image are finite; if not, they are set to zero.

    A decomposition fails on NaN, and then fails for the whole batch.
    """
    rows = maps.flatten(2).transpose(1, 2).double()
    finite = rows.isfinite().all(2).all(1)
    return rows.where(finite[:, None, None], 0), finite


def _signed_map(projected: Tensor, finite: Tensor, maps: Tensor) -> Tensor:
    """(N, pixels) as signed maps (N, *S); NaN for images that are not finite."""
    projected = projected.where(finite[:, None], torch.nan)
    return signed_like(projected.reshape(maps[:, 0].shape), maps.sum(1)).float()


def _left(rows: Tensor, which: int) -> tuple[Tensor, Tensor]:
    """A left singular vector (N, pixels) and its value (N,), from the smaller of the two Gram matrices."""
    by_place = rows.shape[1] <= rows.shape[2]
    gram = rows @ rows.transpose(1, 2) if by_place else rows.transpose(1, 2) @ rows
    values, vectors = torch.linalg.eigh(gram)
    value, vector = values[:, -which].clamp(min=0).sqrt(), vectors[:, :, -which]
    if by_place:
        return vector, value
    return (rows @ vector[:, :, None])[:, :, 0] / value.where(value > 0, 1)[:, None], value


def _none_left(maps: Tensor, which: int, there_are: int) -> Tensor:
    warn(
        f"component={which} does not exist: this layer has {there_are} components. The heatmap is zero; pass a smaller "
        "component."
    )
    return torch.zeros_like(maps[:, 0])


def signed_like(maps: Tensor, like: Tensor) -> Tensor:
    """The maps (N, *S), each with the sign that makes its inner product with the map of `like` not negative."""
    agreement = (maps * like).flatten(1).sum(1)
    return maps * _aligned(torch.where(agreement < 0, -1.0, 1.0).to(maps.dtype), maps)


@_of_maps("eigen_cam", paper="Muhammad 2020, arXiv:2008.00299")
def eigen_cam(inputs: CamInputs, *, component: Count = 1, center: bool = False) -> Tensor:
    """First principal component of A: A as a matrix (hw, K) times its first right singular vector. Knows no class.

    It is not centred, as in the paper; several implementations centre. The sign is chosen to agree with Σ_k A_k.

    Args:
        inputs: The results of one pass.
        component: Which component, from 1.
        center: Whether the mean of each channel is subtracted first.
    """
    return component_of(inputs.activations, component, center=center)


@cam_method("eigen_grad_cam", paper="Muhammad 2020, arXiv:2008.00299, of g ⊙ A")
def eigen_grad_cam(inputs: CamInputs, *, component: Count = 1, center: bool = False) -> Tensor:
    """First principal component of g ⊙ A, as in eigen_cam; it knows the class through the gradients.

    Args:
        inputs: The results of one pass.
        component: Which component, from 1.
        center: Whether the mean of each channel is subtracted first.
    """
    return component_of(_gradients(inputs) * inputs.activations, component, center=center)


@_of_maps("kpca_cam", paper="Karmani 2024, arXiv:2410.00267")
def kpca_cam(inputs: CamInputs, *, component: Count = 1) -> Tensor:
    """First kernel principal component of A over the map's pixels; kernel tanh(x·y / K + 1). Knows no class.

    x and y are two pixels of A, from which the mean of each channel over the map is subtracted first. The code that the
    first author published, in pytorch-grad-cam, does so, and it is followed here: without it, what all pixels have in
    common drives the kernel to 1 throughout, and nothing of the map is left. The kernel matrix is then centred in
    feature space, as in every kernel PCA. Its memory grows with the square of the number of pixels of the map. The sign
    is chosen to agree with Σ_k A_k. If the eigenvalue is not positive, the map is zero.

    Args:
        inputs: The results of one pass.
        component: Which component, from 1.
    """
    maps = inputs.activations
    places = maps[0, 0].numel()
    if places > MOST_PLACES:
        raise ArgumentError(
            Argument("method", "'kpca_cam'"),
            f" needs a matrix of all pairs of pixels of the layer's map. This map has {places} pixels, so the matrix "
            f"would take {places**2 * 8 / 1e6:.0f} MB for each image; at most {MOST_PLACES} pixels are accepted. Pass "
            "a later ",
            Argument("layer", ""),
            ", or ",
            Argument("method", "'eigen_cam'"),
            ".",
        )
    if component > places:
        return _none_left(maps, component, places)
    rows, finite = _rows_of(maps)
    return _signed_map(torch.stack([_kernel_component(one, component) for one in rows]), finite, maps)


def _kernel_component(rows: Tensor, which: int) -> Tensor:
    """The kernel principal component number `which` of the rows (pixels, K) of one image: (pixels,)."""
    rows = rows - rows.mean(0)
    kernel = (rows @ rows.T / rows.shape[1]).add_(1).tanh_()
    means = kernel.mean(0)
    kernel -= means[:, None] + means - means.mean()
    if float(kernel.abs().max()) <= ROUNDING_OF_PLACES:
        return torch.zeros_like(means)
    if len(rows) > max(DENSE_PLACES, 4 * which):
        # which vector to begin with is said, or it would be drawn at random
        values, vectors = eigsh(kernel.cpu().numpy(), which, which="LA", v0=rows.abs().sum(1).cpu().numpy())
        value, vector = (torch.from_numpy(found).to(rows) for found in (values[:1], vectors[:, 0]))
    else:
        all_values, all_vectors = torch.linalg.eigh(kernel)
        value, vector = all_values[-which], all_vectors[:, -which]
    value = value.where(value > ROUNDING_OF_PLACES * len(rows), 0)  # rounding of an eigenvalue of zero
    return vector * value.sqrt()


@_of_maps("fem", paper="Fuad 2020, IPTA, doi:10.1109/IPTA50016.2020.9286629")
def fem(inputs: CamInputs) -> Tensor:
    """Σ_k mean(A_k) 1[A_k ≥ μ_k + 2 σ_k], population σ: where channels are far above their means. Knows no class."""
    maps = inputs.activations
    mean = _over_space(maps, "mean")
    deviation = _over_space((maps - mean) ** 2, "mean").sqrt()
    rounding = NEARLY_ZERO * mean.abs()  # so that a constant channel equals its mean everywhere
    rare = (maps - mean >= 2 * deviation - rounding).to(maps.dtype)
    return torch.where(mean.isfinite(), mean * rare, mean)
