"""The arguments of a command, checked: classes, targets, layers, the preparation of the images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fe_gradcam.command.messages import refuse, say
from fe_gradcam.command.options import PhotoRequest, Request
from fe_gradcam.loading.models import Loaded, geometry_of, load_model

if TYPE_CHECKING:
    from fe_gradcam.explaining.settings import Settings
    from fe_gradcam.loading.photos import Preparation
    from fe_gradcam.methods import CamMethod
    from fe_gradcam.types import Target


@dataclass(frozen=True)
class Wanted:
    """A target, as `explain` takes it, and its names: above its column, and in files and arrays."""

    target: Target
    label: str
    slug: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is the same for all images."""

    request: Request
    settings: Settings
    methods: list[CamMethod]
    names: dict[int, str]
    wanted: list[Wanted]
    files: list[Path]
    loaded: Loaded
    preparation: Preparation
    layer: Any


def plan_for(request: Request) -> Plan:
    """The plan for a request, with the model loaded; mistakes that need no model are reported first."""
    from fe_gradcam.drawing.pixels import colormap_lut
    from fe_gradcam.explaining.settings import Settings
    from fe_gradcam.loading.photos import image_files
    from fe_gradcam.methods import METHODS

    methods = [METHODS.find(METHODS.parse(text)) for text in request.methods]
    colormap_lut(request.colormap)
    if any(path.is_dir() and path.resolve() == request.output.resolve() for path in request.images):
        refuse("--output", "this is a folder of IMAGES: the next run would take heatmaps for images. Name another.")
    names = _read_class_names(request.class_names)
    wanted = _wanted_targets(request.classes, names)
    files = image_files(request.images, recursive=request.recursive, without=request.output)
    settings = Settings(
        request.scaling,
        seed=request.seed,
        class_names=names,
        model_output=output_asked(request.model_output),
        fuse=request.fuse,
        smooth=request.smooth,
        progress=len(files) <= request.batch_size and not request.quiet,
    )
    loaded = load_model(request.model, request.weights, request.device)
    preparation, layer = preparation_for(request, loaded), layer_asked(loaded, request.layers)
    each_once = list({method.label: method for method in methods}.values())
    _say_how_prepared(preparation)
    return Plan(request, settings, each_once, names, wanted, files, loaded, preparation, layer)


def _read_class_names(path: Path | None) -> dict[int, str]:
    """The names of the classes by id, from a text file with a name per line or from JSON; empty without a file."""
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8-sig")
        given = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (ValueError, RecursionError) as error:
        refuse("--class-names", f"{str(path)!r} cannot be read: {error}", error)
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return {at: name.strip() for at, name in enumerate(given) if name.strip()}
    if isinstance(given, dict):
        turned = {str(value): name for name, value in given.items() if type(value) is int}
        pairs = turned if len(turned) == len(given) else given  # {name: id}, as torchvision and Keras have it
        if all(_is_number(key) and isinstance(name, str) for key, name in pairs.items()):
            return {int(key): name for key, name in pairs.items()}
    refuse("--class-names", f"{str(path)!r} holds neither a list of names nor {{id: name}}.")


def _wanted_targets(classes: Sequence[str], names: Mapping[int, str]) -> list[Wanted]:
    """The targets that --class names, each once."""
    from fe_gradcam.files import file_slugs

    labels = dict(pair for text in classes for pair in _targets_of(text, names)) or {None: "pred"}
    named = zip(labels.items(), file_slugs(labels.values()), strict=True)
    return [Wanted(target, label, slug) for (target, label), slug in named]


def _targets_of(text: str, names: Mapping[int, str]) -> Iterator[tuple[Any, str]]:
    from fe_gradcam.spec.targets import Contrast, Rank, target_name, top_k

    found = re.fullmatch(rf"top(\d{{1,{MOST_DIGITS}}})", text)
    if found and text not in names.values():
        yield from ((rank, rank.name) for rank in top_k(int(found[1])) if isinstance(rank, Rank))
    elif (sides := _sides_of_contrast(text, names)) is not None:
        of, against = (None if side is None else _class_id(side, names) for side in sides)
        first = "top class" if of is None else target_name(of, names)
        second = "its rival" if against is None else target_name(against, names)
        yield Contrast(of, against), f"{first} against {second}"
    else:
        class_id = _class_id(text, names)
        yield class_id, target_name(class_id, names)


def _sides_of_contrast(text: str, names: Mapping[int, str]) -> tuple[str | None, str | None] | None:
    """A and B of "A:B"; names may hold colons themselves."""
    if ":" not in text or text in names.values():
        return None
    known = set(names.values())
    pairs = [(text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == ":"]
    fitting = [pair for pair in pairs if all(not side or _is_number(side) or side in known for side in pair)]
    first, second = (fitting or pairs)[0]
    return first or None, second or None


def _class_id(text: str, names: Mapping[int, str]) -> int:
    from fe_gradcam.spec.targets import class_id_of

    return int(text) if _is_number(text) else class_id_of(text, names)


MOST_DIGITS = 18
"""Digits of an id; arrays hold no longer ones."""


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MOST_DIGITS


def preparation_for(request: PhotoRequest, loaded: Loaded) -> Preparation:
    """How image files become inputs of the model."""
    from fe_gradcam.loading.photos import Preparation

    geometry = geometry_of(loaded, request.size, request.channels)
    for name, numbers in (("--mean", request.mean), ("--std", request.std)):
        if len(numbers) not in (1, geometry.channels):
            said = f"{len(numbers)} numbers for {geometry.channels} channel(s); one is needed, or one per channel."
            refuse(name, said)
    if request.value_range == "unit":  # where that is plainly wrong, the heatmaps would look like any others
        if max(map(abs, request.mean + request.std)) > 2:
            say("Warning: --mean or --std is for pixels in [0, 255], and these are in [0, 1]: pass --value-range byte?")
        if loaded.framework == "keras" and any(type(layer).__name__ == "Rescaling" for layer in loaded.model.layers):
            say("Warning: the model scales its images itself and may take pixels in [0, 255]: pass --value-range byte?")
    return Preparation(geometry.size, geometry.channels, request.fit, request.value_range, request.mean, request.std)


def _say_how_prepared(preparation: Preparation) -> None:
    """Says how images are prepared if no mean and std are given: with a wrong normalisation a model errs."""
    if set(preparation.mean) != {0} or set(preparation.std) != {1}:
        return
    (height, width), reach = preparation.size, {"unit": "[0, 1]", "byte": "[0, 255]"}[preparation.value_range]
    fitted = {"crop": "scaled and cropped", "stretch": "stretched"}[preparation.fit]
    say(
        f"Images: {fitted} to {height} x {width}, pixels in {reach}, no mean and std (pass --mean and --std if the "
        "model was trained with them)."
    )


def output_asked(given: str | None) -> str | int | None:
    """The name or position of an output."""
    return int(given) if given is not None and _is_number(given) else given


def layer_asked(loaded: Loaded, given: Sequence[str]) -> Any:
    """One layer, a list of several, or None; a number is an index, unless a layer has it as its name."""
    from fe_gradcam.backends import backend_for
    from fe_gradcam.errors import UnknownNameError

    backend = backend_for(loaded.model)
    found: list[str | int] = [*given]
    for at, text in enumerate(given):
        try:
            backend.resolve(text, None)
        except UnknownNameError:
            if not re.fullmatch(rf"-?\d{{1,{MOST_DIGITS}}}", text):
                raise
            found[at] = int(text)
            backend.resolve(found[at], None)
    return found if len(found) > 1 else found[0] if found else None
