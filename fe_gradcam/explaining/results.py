"""The results of each image in the form of HALCON's operator, and as arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.explaining.explained import Explained


def inference_entries(probabilities: NDArray[np.float32] | None, names: Mapping[int, str]) -> dict[str, Any]:
    """The classes of one image, highest confidence first, by name or id; empty if the confidences are not known."""
    known = np.zeros(0, np.float32) if probabilities is None else probabilities
    order = np.argsort(-known, kind="stable").tolist()
    return {
        "classification_class_ids": order,
        "classification_class_names": [names.get(i, str(i)) for i in order],
        "classification_confidences": known[order].tolist(),
    }


def heatmap_key(class_id: int, target_name: str) -> str:
    """The key of a heatmap: by its class, or by the target's name if the target is no class."""
    plain_name = re.sub(r"\W+", "_", target_name).strip("_")
    return f"heatmap_image_{plain_name}" if class_id < 0 else f"heatmap_image_class_{class_id}"


def compose_results(
    parts: Sequence[Explained], names: Mapping[int, str], epoch: int, mode: str
) -> list[dict[str, Any]]:
    """One dict per image in the form of HALCON's operator, with further entries of the trace.

    The keys: ``classification_class_ids``, ``classification_class_names`` and
    ``classification_confidences`` (highest confidence first), ``heatmap_{method}`` with one float32
    array (H, W) per target, ``layer``, ``scaling``, ``smooth``, ``label``, ``prediction`` (-1 where the
    probabilities are NaN), ``id``, ``position`` (in the order of the epoch), ``epoch``, ``mode``, ``ds_id``. If images
    have several true classes, ``labels`` holds them all and ``label`` the first.
    """
    results = []
    for part in parts:
        for at in range(len(part)):
            row = None if part.probabilities is None else part.probabilities[at]
            result: dict[str, Any] = inference_entries(row, names)
            for column in part.columns:
                if column.shown is not None and not column.shown[at]:
                    continue
                key = heatmap_key(int(column.heatmap.class_ids[at]), column.target)
                result.setdefault(f"heatmap_{column.method}", {})[key] = column.heatmap.values[at]
            result |= {"layer": part.of_layer.layer, "scaling": part.columns[0].heatmap.scaling}
            result["smooth"] = part.columns[0].heatmap.smooth
            known = {"label": part.labels, "prediction": part.predictions, "id": part.ids, "position": part.positions}
            for key, values in known.items():
                value = None if values is None else values[at]
                result[key] = value if value is None or key == "id" else int(value)
            if part.several is not None:
                result["labels"] = np.flatnonzero(part.several[at]).tolist()
            results.append(result | {"epoch": epoch, "mode": mode, "ds_id": part.ds_id})
    return results


def compose_arrays(part: Explained, epoch: int, mode: str) -> dict[str, NDArray[Any]]:
    """The arrays of one dataset, as the trace writes them to a file.

    For each method and target ``{method}.{target}.values`` (N, H, W), ``.raw`` (N, h, w), ``.class_ids``, ``.scores``,
    ``.confidences`` and ``.blank`` (N,); then ``probabilities`` (N, C), ``predictions``, ``labels``, ``positions`` and
    ``ids`` (N,) if they are known, ``several`` (N, C) if images have several true classes, ``epoch``, ``mode``,
    ``layer``, ``scaling`` and ``smooth``.
    """
    heatmap = part.columns[0].heatmap
    said = {"epoch": epoch, "mode": mode, "layer": part.of_layer.layer}
    said |= {"scaling": heatmap.scaling, "smooth": heatmap.smooth}
    arrays: dict[str, NDArray[Any]] = {name: np.array(value) for name, value in said.items()}
    for column in part.columns:
        for name in ("values", "raw", "class_ids", "scores", "confidences", "blank"):
            arrays[f"{column.method}.{column.target}.{name}"] = getattr(column.heatmap, name)
    ids = None if part.ids is None else np.array([as_text(name) for name in part.ids])
    known = {name: getattr(part, name) for name in ("probabilities", "predictions", "labels", "several", "positions")}
    return arrays | {name: array for name, array in (known | {"ids": ids}).items() if array is not None}


def as_text(name: Any) -> str:
    """The name of a file or a patient, as it came in a batch, as text; bytes that are no text are escaped."""
    if isinstance(name, np.ndarray) and name.size == 1:
        name = name.reshape(-1)[0]
    if hasattr(name, "item") and getattr(name, "ndim", 1) == 0:
        name = name.item()
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return text.encode("utf-8", "backslashreplace").decode()
