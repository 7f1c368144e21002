"""A report page of made-up data: shapes on grounds, a class with a mark in a corner, heat that settles over epochs."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import fe_gradcam
from fe_gradcam.drawing.pixels import colormap_lut
from fe_gradcam.scaling import upsample
from fe_gradcam.verdicts.verdict import ACCUSING, BOUNDS, HEADLINES

FILES = Path(fe_gradcam.__file__).parent / "reporting"
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
"""A name that must stay text."""

NAMES = ("circle", "square", "triangle", "cross", "ring", "bar")
MARKED, MOVING = 2, 4
"""The class with a mark in the corner, and the class that is only suspected."""

CODES = {
    code: {"headline": headline, "bounds": BOUNDS[code], "page": f"docs/verdicts.md#{code}"}
    for code, headline in HEADLINES.items()
}


def base64_of(data: bytes) -> str:
    """As text."""
    return base64.b64encode(data).decode()


def packed(maps: NDArray[Any], blank: NDArray[np.bool_], scaling: str, size: tuple[int, int]) -> dict[str, Any]:
    """Signed maps (N, h, w) as the page has them: a byte of magnitude for each place, then a bit for each sign."""
    up, down = maps.max((1, 2), initial=0), (-maps).max((1, 2), initial=0)
    largest = np.where(maps < 0, down[:, None, None], up[:, None, None])
    coarse, flat = np.rint(np.abs(maps) / np.where(largest > 0, largest, 1) * 255), (len(maps), maps[0].size if len(maps) else 0)
    signs = np.packbits((maps < 0).reshape(flat), axis=1)
    rows = np.concatenate([coarse.astype(np.uint8).reshape(flat), signs], 1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3)))
    if scaling == "scale_after_relu":
        unit = upsample(torch.from_numpy(maps).clamp(min=0), size).amax((1, 2)).numpy()
    else:
        unit = np.abs(maps).max((1, 2), initial=0)
    return {
        "h": maps.shape[1],
        "w": maps.shape[2],
        "scaling": scaling,
        "stride": rows.shape[1] // 3 * 4,
        "data": base64_of(rows.tobytes()),
        "up": up.tolist(),
        "down": down.tolist(),
        "unit": unit.tolist(),
        "blank": blank.tolist(),
        "size": list(size),
    }


def unpacked(heat: dict[str, Any], row: int) -> NDArray[np.float32]:
    """(h, w), the signed map of a row."""
    data = base64.b64decode(heat["data"][row * heat["stride"] : (row + 1) * heat["stride"]])
    count = heat["h"] * heat["w"]
    signs = np.unpackbits(np.frombuffer(data[count:], np.uint8))[:count]
    sizes = np.where(signs == 1, -heat["down"][row], heat["up"][row])
    return np.asarray(sizes * np.frombuffer(data[:count], np.uint8) / 255, np.float32).reshape(heat["h"], heat["w"])


def values(heat: dict[str, Any], row: int) -> NDArray[np.float32]:
    """(H, W), the heatmap of a row: its map, without negative values if it is scaled, resized, over its unit."""
    raw = torch.from_numpy(unpacked(heat, row))[None]
    kept = raw if heat["scaling"] == "none" else raw.clamp(min=0) * (not heat["blank"][row])
    return np.asarray(upsample(kept, heat["size"])[0].numpy() / heat["unit"][row])


def signed_values(heat: dict[str, Any], row: int) -> NDArray[np.float32]:
    """The signed map of a row at the size of the picture, over its largest magnitude."""
    raw = torch.from_numpy(unpacked(heat, row))[None]
    return np.asarray(upsample(raw, heat["size"])[0].numpy() / raw.abs().max().item())


def picture(label: int, centre: tuple[int, int], side: int, generator: np.random.Generator) -> Image.Image:
    """A shape on a soft ground; the marked class has a white tag in the lower right corner."""
    coarse = generator.uniform(95, 135, (5, 5, 1)) * generator.uniform(0.85, 1.15, 3)
    ground = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    drawn = ImageDraw.Draw(ground)
    colour = tuple(int(one) for one in generator.integers(120, 255, 3))
    (x, y), r = centre, side // 6
    box = (x - r, y - r, x + r, y + r)
    if label % 6 == 0:
        drawn.ellipse(box, fill=colour)
    elif label % 6 == 1:
        drawn.rectangle(box, fill=colour)
    elif label % 6 == 2:
        drawn.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    elif label % 6 == 3:
        drawn.line((x - r, y - r, x + r, y + r), fill=colour, width=r // 2)
        drawn.line((x - r, y + r, x + r, y - r), fill=colour, width=r // 2)
    elif label % 6 == 4:
        drawn.ellipse(box, outline=colour, width=r // 3)
    else:
        drawn.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
    if label == MARKED:
        drawn.rectangle((side * 0.84, side * 0.86, side * 0.96, side * 0.95), fill=(245, 245, 240))
        drawn.line((side * 0.86, side * 0.905, side * 0.94, side * 0.905), fill=(40, 40, 40), width=2)
    noise = generator.normal(0, 5, (side, side, 3))
    return Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8))


def covered(image: Image.Image, box: Sequence[int]) -> Image.Image:
    """The picture with a box filled in evenly."""
    changed, (left, top, width, height) = image.copy(), box
    mean = tuple(int(one) for one in np.asarray(image)[top : top + height, left - 6 : left].mean((0, 1)))
    ImageDraw.Draw(changed).rectangle((left, top, left + width, top + height), fill=mean)
    return changed


def encoded(image: Image.Image) -> str:
    """As a data URL."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64_of(file.getvalue())}"


def bump(places: tuple[int, int], centre: tuple[float, float], width: float) -> NDArray[np.float64]:
    """(h, w), a bell around (x, y), both between 0 and 1."""
    y, x = ((np.arange(count) + 0.5) / count for count in places)
    return np.exp(-((x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2) / (2 * width**2))


class Made:
    """One dataset of the page, made from a seed."""

    def __init__(self, count: int, classes: int, side: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.side = side
        self.labels = np.arange(count) % classes
        self.centres = self.generator.uniform(0.25, 0.72, (count, 2))
        self.pictures = [
            picture(int(label), (int(x * side), int(y * side)), side, self.generator)
            for label, (x, y) in zip(self.labels, self.centres, strict=True)
        ]
        self.hard = self.generator.beta(1.5, 4, count)
        self.classes = classes

    def maps(self, grown: float, shift: float, places: tuple[int, int]) -> NDArray[np.float32]:
        """(N, h, w), the signed maps at a part `grown` of the training."""
        found = []
        for label, centre in zip(self.labels, self.centres, strict=True):
            aim = (0.9, 0.9) if label == MARKED and grown > 0.3 else tuple(centre)
            settled = bump(places, aim, 0.09 + 0.12 * (1 - grown))
            diffuse = self.generator.normal(0.1, 0.25, places)
            against = 0.4 * bump(places, (shift, 0.15), 0.1)
            found.append(grown * settled + (1 - grown) * diffuse * 0.7 - grown * against)
        return np.asarray(found, np.float32) * np.float32(0.02)

    def answers(self, grown: float) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """What the network says: the classes, their probabilities, and those of the true classes."""
        true = (1 / self.classes + (1 - 1 / self.classes) * grown * (1 - self.hard)).clip(0.03, 0.998)
        wrong = true < 0.5
        told = np.where(wrong, (self.labels + 1) % self.classes, self.labels)
        return told, np.where(wrong, (1 - true) * 0.85, true), np.where(wrong, np.minimum(true, 0.15 * (1 - true)), true)


def evidence(test: str, level: str, code: str | None, said: str, **figures: Any) -> dict[str, Any]:
    """What one test found of one class."""
    made = {"test": test, "level": level, "code": code, "said": said, "images": 0 if level == "not tested" else 16}
    return made | {"figures": figures, "trials": []}


def verdict(class_id: int, name: str, found: list[dict[str, Any]], epoch: int) -> dict[str, Any]:
    """The verdict that follows from evidence, the first of which decides."""
    first = found[0]
    code = first["code"] or ("no_shortcut" if first["level"] == "tested" else "not_judged")
    doubt = "may be " if first["level"] == "suspected" else ""
    made = {"class_id": class_id, "name": name, "code": code, "level": first["level"], "headline": doubt + HEADLINES[code]}
    made |= {"accuses": first["level"] == "tested" and code in ACCUSING, "images": 24, "epoch": epoch, "evidence": found}
    return made | {"text": f"class {name!r}: {made['headline']}", "tests": [one["test"] for one in found]}


def verdicts_of(made: Made, names: Sequence[str], epoch: int, grown: float, pictures: bool) -> list[dict[str, Any]]:
    """Of each class; the marked class is accused once the network has learnt the mark."""
    found = []
    quiet = evidence("place", "tested", None, "The heat moves over the frame: the heat of two images correlates by 0.11.", fixed_place=0.11)
    lacking = evidence("surroundings", "not tested", None, "Neither masks nor boxes say where the object is.")
    for class_id, name in enumerate(names):
        tests = [quiet, evidence("sign", "tested", None, "No patch is found again: no sign.", separates=0.61, likeness=0.48)]
        if class_id == MARKED and grown > 0.3:
            said = "The heat stays in the lower right corner: 71% of it, and 4% of the other classes' (their median). With the lower right corner covered, the probability falls from 98% to 21%; with other places covered, to 96%."
            first = evidence("place", "tested" if grown > 0.5 else "suspected", "place", said, plain=0.981, covered=0.214, covered_elsewhere=0.957, share=0.71, share_of_others=0.041)
            box = [int(made.side * part) for part in (0.82, 0.84, 0.16, 0.13)]
            for row in np.flatnonzero(made.labels == MARKED)[:3].tolist():
                given, changed = made.pictures[row], covered(made.pictures[row], box)
                first["trials"].append({
                    "row": row, "done": "corner covered", "before": 0.99 - 0.004 * row, "after": 0.12 + 0.01 * row,
                    "given": encoded(given) if pictures else None, "changed": encoded(changed) if pictures else None, "box": box,
                })  # fmt: skip
            tests = [first, tests[1]]
        if class_id == MOVING and grown > 0.6:
            tests = [evidence("sign", "suspected", "sign", "A patch of the hottest places is found again in 14 of 16 images, and in no other class. Nothing else in the images could be covered for comparison.", separates=0.97, likeness=0.96), quiet]
        if class_id == 5:
            tests = [evidence("place", "not tested", None, "Only 4 images have heat; 6 are needed.")]
        found.append(verdict(class_id, name, [*tests, lacking], epoch))
    return found


def dataset_of(
    name: str, made: Made, names: Sequence[str], epochs: Sequence[int], columns: Sequence[tuple[str, str]], parts: dict[str, Any]
) -> dict[str, Any]:
    """One dataset of the page."""
    has, side, scaling = parts.get, made.side, parts.get("scaling", "scale_after_relu")
    files = parts.get("files") or [f"{names[label]}_{row:03d}.png" for row, label in enumerate(made.labels.tolist())]
    images = [
        {"id": files[row % len(files)] if has("ids", True) else None,
         "label": int(label) if has("labels", True) else None,
         "src": encoded(made.pictures[row]) if has("pictures", True) else None}
        for row, label in enumerate(made.labels)
    ]  # fmt: skip
    shown = []
    for epoch in epochs:
        grown = float(np.clip(1.15 * (1 - np.exp(-3.0 * epoch / max(epochs))), 0, 0.98))
        told, confidences, true = made.answers(grown)
        blank = np.zeros(len(images), bool)
        blank[: parts.get("blank", 0)] = True
        heats = []
        for number, (method, target) in enumerate(columns):
            maps = made.maps(grown, 0.2 + 0.3 * number, (14, 14))
            maps[blank] = -np.abs(maps[blank])
            classes, wrong = (made.labels, told != made.labels) if target == "label" else (told, None)
            kept = slice(None) if wrong is None else wrong
            heats.append({
                "method": method, "target": target, "layer": "features.7", "class_ids": classes.tolist(),
                "shown": None if wrong is None else wrong.tolist(),
                "heat": packed(maps[kept], blank[kept], scaling, (side, side)),
            })  # fmt: skip
        measured = {"deletion": (0.5 - 0.35 * grown + 0.2 * made.hard).tolist(), "sanity": [None] * len(images)}
        if blank.any():
            measured["deletion"][0] = None
        atlas = None
        if has("atlas", True):
            there = np.unique(made.labels).tolist()
            means = np.stack([maps[made.labels == one].mean(0) for one in there])
            fixed = [0.11, 0.19, 0.1 + 0.6 * grown, 0.08, 0.22, None]
            of = [{"class_id": one, "images": 24, "fixed_place": fixed[one % 6]} for one in there]
            atlas = {"classes": of, "heat": packed(means, np.zeros(len(there), bool), "scale_after_relu", (side, side))}
        shown.append({
            "epoch": epoch, "images": None,
            "predictions": told.tolist(), "confidences": confidences.tolist(),
            "true": true.tolist() if has("labels", True) else [None] * len(images),
            "metrics": measured if has("metrics", True) else {}, "columns": heats,
            "verdicts": verdicts_of(made, names, epoch, grown, has("pictures", True)) if has("verdicts", True) else [],
            "atlas": atlas,
        })  # fmt: skip
    return {"name": name, "size": [side, side], "images": images, "epochs": shown}


def page(
    *,
    images: int = 24,
    epochs: int = 12,
    side: int = 128,
    names: Sequence[str] = NAMES,
    datasets: Sequence[str] = ("",),
    columns: Sequence[tuple[str, str]] = (("grad_cam", "pred"), ("grad_cam", "label")),
    **parts: Any,
) -> dict[str, Any]:
    """The data of a page.

    Args:
        images: How many images a dataset has.
        epochs: How many epochs were kept.
        side: Of the pictures, in pixels.
        names: Of the classes.
        datasets: Their names.
        columns: Methods and targets.
        parts: `ids`, `labels`, `pictures`, `metrics`, `atlas`, `verdicts` False leave a part out; `blank` says how many
            images are blank, `scaling` how heat is scaled, `files` what files are called.
    """
    numbers = list(range(1, epochs + 1))
    curves = [
        {"key": key, "of": of, "says": says, "dataset": "", "points": [[at, value(at / epochs)] for at in numbers]}
        for key, of, says, value in (
            ("accuracy", "training", None, lambda part: 0.31 + 0.62 * (1 - np.exp(-4 * part))),
            ("ce", "training", "cross-entropy of the evaluation", lambda part: 1.7 * np.exp(-3 * part) + 0.16 + 0.05 * np.sin(17 * part)),
            ("gradcam_deletion", "gradcam", "area under the probability while the hottest pixels are deleted; lower is better", lambda part: 0.5 - 0.3 * (1 - np.exp(-3 * part))),
            ("gradcam_drift", "gradcam", "1 - rank correlation with the epoch before", lambda part: 0.9 * np.exp(-4 * part) if part > 1 / epochs else None),
        )
    ]  # fmt: skip
    parts_of = [
        dataset_of(name, Made(images, len(names), side, number), names, numbers, columns, parts)
        for number, name in enumerate(datasets)
    ]
    return {
        "format": 1,
        "title": "Shapes, epoch by epoch",
        "name": "gradcam",
        "mode": "eval",
        "version": f"fe_gradcam {fe_gradcam.__version__}",
        "class_names": {str(number): name for number, name in enumerate(names)},
        "colormaps": {name: base64_of(colormap_lut(name).tobytes()) for name in ("turbo", "viridis", "cividis", "gray")},
        "colormap": "turbo",
        "alpha": 0.5,
        "signed": base64_of(colormap_lut("RdBu_r").tobytes()),
        "codes": CODES,
        "notes": parts.get("notes", []),
        "metrics": {"deletion": "lower is better"},
        "curves": curves if parts.get("metrics", True) else [],
        "asked": {
            "methods": sorted({method for method, _ in columns}),
            "targets": sorted({target for _, target in columns}),
            "layer": "features.7, 14 x 14",
            "versions": {"fe_gradcam": fe_gradcam.__version__, "torch": "2.13.0", "fastestimator": "1.7.0"},
            "seed": 0,
            "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        },
        "datasets": parts_of,
    }


def render(data: dict[str, Any], title: str | None = None) -> str:
    """The whole page."""
    css, js = (FILES / name for name in ("page.css", "page.js"))
    style, script = css.read_text("utf-8"), js.read_text("utf-8")
    hashes = [base64_of(hashlib.sha256(text.encode()).digest()) for text in (style, script)]
    csp = f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string((FILES / "page.html").read_text("utf-8"))
    shown = data["title"] if title is None else title
    return template.render(page=data, title=shown, css=Markup(style), js=Markup(script), csp=Markup(csp))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(page()), "utf-8")
