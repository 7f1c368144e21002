"""The form of HALCON's operator for what was inferred and explained about one image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def inference_entries(probabilities: NDArray[np.float32] | None, names: Mapping[int, str]) -> dict[str, Any]:
    """The classes of one image by falling confidence.

    Args:
        probabilities: (C,), or None where they are not known: then the lists are empty.
        names: Names of classes by id; a class without one is named by its id.
    """
    order = [] if probabilities is None else [int(i) for i in np.argsort(-probabilities, kind="stable")]
    confidences = [] if probabilities is None else [float(probabilities[i]) for i in order]
    return {
        "classification_class_ids": order,
        "classification_class_names": [names.get(i, str(i)) for i in order],
        "classification_confidences": confidences,
    }


def heatmap_key(class_id: int, target_name: str) -> str:
    """The key of a heatmap: by its class, or by the target's name where the target is no class."""
    plain_name = re.sub(r"\W+", "_", target_name).strip("_")
    return f"heatmap_image_{plain_name}" if class_id < 0 else f"heatmap_image_class_{class_id}"
