"""The arguments of a watcher, each checked as early as possible."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from fe_gradcam.drawing.sheet import Look
from fe_gradcam.errors import ArgumentError, UnknownNameError, in_short, nearest, said_by
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.methods import METHODS, CamMethod
from fe_gradcam.parameters import one_of, several, whole
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.training.selection import Selection
from fe_gradcam.types import Needs, TargetSpec
from fe_gradcam.verdicts.find import checked_codes

ATLAS_SIZE = 128
"""How many images the atlas takes if no number is given."""


@dataclass(frozen=True)
class Classes:
    """The names of classes.

    Attributes:
        ids: Class ids by name.
        names: Names by class id; if a class has several names, the first.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, label_mapping: Any) -> Classes:
        """The classes of a mapping {class name: value}; a value is an id or a one-hot row; other values name no class.

        Raises:
            ArgumentError: `label_mapping` is not such a mapping.
        """
        if label_mapping is not None and not isinstance(label_mapping, Mapping):
            raise ArgumentError(
                f"label_mapping is a {type(label_mapping).__name__}. Accepted: a dict {{class name: class id}}, or "
                "None."
            )
        if label_mapping and all(isinstance(name, Integral) for name in label_mapping):
            raise ArgumentError(
                f"label_mapping={in_short(dict(label_mapping))} has numbers as names. Accepted: "
                f"{{class name: class id}}, as in FastEstimator. Swap names and ids: "
                "{name: id for id, name in ...}."
            )
        ids: dict[str, int] = {}
        names: dict[int, str] = {}
        for name, value in (label_mapping or {}).items():
            try:
                array = np.asarray(value)
            except ValueError:
                continue
            if array.dtype.kind in "biuf" and array.size:
                ids[str(name)] = int(array.item() if array.size == 1 else array.argmax())
                names.setdefault(ids[str(name)], str(name))
        return cls(ids, names)


@dataclass(frozen=True)
class ReportSettings:
    """The settings of the page of a training.

    Attributes:
        pictures: Whether it holds pictures of images; without them it shows heat alone.
        track: Whether the images of the first epoch are followed through all epochs.
        title: Its title; by default the name and the mode.
    """

    pictures: bool = True
    track: bool = True
    title: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> ReportSettings:
        """The settings of a dict.

        Raises:
            ArgumentError: A value is not accepted.
            UnknownNameError: There is no such setting.
        """
        known = {one.name: one.default for one in fields(cls)}
        for key, value in asked.items():
            if key not in known:
                raise UnknownNameError(
                    f"report={in_short(dict(asked))} has no setting {in_short(key)}{nearest(key, known)} Accepted: "
                    f"{SETTINGS_OF_REPORT}."
                )
            if type(value) is not type(known[key]):
                what = "text" if key == "title" else "True or False"
                raise ArgumentError(f"report[{in_short(key)}]={in_short(value)} is not accepted. Accepted: {what}.")
        return cls(**asked)


SETTINGS_OF_REPORT = ", ".join(one.name for one in fields(ReportSettings))
"""The names of the settings, for messages."""


@dataclass(eq=False)
class Options:
    """The arguments of `Watcher` besides the source of heatmaps; `fe_gradcam.GradCAM` has them under the same names.

    Attributes:
        given: Which of "model", "labels", "preds", "ids", "masks", "boxes" and "display" are given.
        name: The beginning of the keys of results, and of the names of files.
        named_targets: Pairs of a name, each once, and a target; "label" stands for the true classes.
        atlas: How many images the atlas takes; given as True, a number, or {"n_samples": a number, "ignore": codes}.
        ignore: Codes of verdicts that are not looked for.
        report: The settings of the page, or None; given as True, False, or a dict of settings.

    Raises:
        ArgumentError: An argument is not accepted, or needs another that is not given.
        UnknownNameError: A method or class name does not exist.
    """

    given: AbstractSet[str] = frozenset({"model"})
    name: str = "gradcam"
    classes: Classes = field(default_factory=Classes)
    settings: Settings = field(default_factory=Settings)
    look: Look = field(default_factory=Look)
    selection: Selection = field(default_factory=lambda: Selection(limit=5))
    methods: Any = "grad_cam"
    n_components: int = 3
    targets: Any = "pred"
    frequency: int = 1
    save_dir: Any = None
    shared_scale: bool = False
    track: bool = False
    metrics: Any = ()
    atlas: Any = 0
    report: Any = False
    on_error: str = "warn"
    ignore: tuple[Any, ...] = field(init=False)
    rules: list[CamMethod] = field(init=False)
    named_targets: list[tuple[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = replace(self.settings, class_names=self.classes.names)
        self.frequency = whole("frequency", self.frequency, 1)
        if self.save_dir is not None:
            if not isinstance(self.save_dir, (str, os.PathLike)):
                raise ArgumentError(f"save_dir={in_short(self.save_dir)} is not accepted. Accepted: a path, or None.")
            try:
                self.save_dir = Path(self.save_dir).expanduser().resolve()
            except (TypeError, ValueError, RuntimeError, OSError) as error:  # no path, a NUL, no home, a loop of links
                said = f"save_dir={in_short(self.save_dir)} is no path: {said_by(error)}. Pass another."
                raise ArgumentError(said) from error
        one_of("on_error", self.on_error, ("warn", "raise"))
        if not isinstance(self.track, bool):
            raise ArgumentError(f"track={in_short(self.track)} is not accepted. Accepted: True or False.")
        self.atlas, self.ignore = _atlas_asked(self.atlas)
        self.report = self._page()
        self.n_components = whole("n_components", self.n_components, 1)
        self.rules = self._rules()
        self.named_targets = self._named()

    def _page(self) -> ReportSettings | None:
        """The settings of the page, if one is asked for; then images are followed, unless the settings say not."""
        asked: Any = {} if self.report is True else self.report
        if asked is False or asked is None:
            return None
        if not isinstance(asked, Mapping):
            raise ArgumentError(
                f"report={in_short(asked)} is not accepted. Accepted: True, False, or a dict of settings: "
                f"{SETTINGS_OF_REPORT}."
            )
        settings = ReportSettings.of(asked)
        if self.save_dir is None:
            raise ArgumentError(
                f"report={in_short(self.report)} is written to a file. Pass save_dir= with a folder too."
            )
        if self.selection.limit == 0:
            raise ArgumentError(f"report={in_short(self.report)} shows images, and none are chosen. Pass n_samples=32.")
        self.track = self.track or (settings.track and "model" in self.given)
        return settings

    def _named(self) -> list[tuple[str, Any]]:
        """The pairs for `named_targets`."""
        asked = list(self.targets) if isinstance(self.targets, (list, tuple)) else [self.targets]
        if not asked:
            raise ArgumentError("targets is empty. Pass 'pred', 'label', a class id, a class name or a callable.")
        if "model" not in self.given and asked != ["pred"]:
            raise ArgumentError(
                f"targets={in_short(self.targets)} needs model=: gradients under a key already have a target. Pass "
                "target= to the LayerGradientOp."
            )
        counts: dict[str, int] = {}
        unique = []
        for name, target in (named_target(target, self.classes, labels="labels" in self.given) for target in asked):
            counts[name] = counts.get(name, 0) + 1
            unique.append((name if counts[name] == 1 else f"{name} {counts[name]}", target))
        return unique

    def _rules(self) -> list[CamMethod]:
        """The methods that are asked for; one with components comes once for each component that is shown."""
        named = several(self.methods)
        if not isinstance(named, (list, tuple)) or not named:
            raise ArgumentError(
                f"methods={in_short(self.methods)} is not accepted. Accepted: a name, a pair ('score_cam', "
                "{parameter: value}), or a list of these, with at least one."
            )
        methods: list[CamMethod] = []
        for method in map(METHODS.find, named):
            if "model" not in self.given and Needs.PROBE in method.needs:
                raise ArgumentError(
                    f"methods: {method.name!r} asks the model again, and with gradients under a key there is no model "
                    "to ask. Pass model= instead of grads=."
                )
            methods.append(method)
            if "component" in method.parameters and "component" not in method.given:
                methods += [method.with_parameters(component=number) for number in range(2, self.n_components + 1)]
        if len({method.label for method in methods}) < len(methods):
            raise ArgumentError(f"methods={in_short(self.methods)} holds a method twice. Leave one out.")
        return methods


def _atlas_asked(asked: Any) -> tuple[int, tuple[Any, ...]]:
    """How many images the atlas takes, 0 for no atlas, and the codes of verdicts that are not looked for."""
    if isinstance(asked, Mapping):
        for key in asked:
            if key not in ("n_samples", "ignore"):
                raise UnknownNameError(
                    f"atlas={in_short(dict(asked))} has no setting "
                    f"{in_short(key)}{nearest(key, ['n_samples', 'ignore'])} Accepted: "
                    "n_samples, the number of images; ignore, codes of verdicts."
                )
        ignore = tuple(checked_codes("atlas['ignore']", asked.get("ignore", ())))
        return whole("atlas['n_samples']", asked.get("n_samples", ATLAS_SIZE), 1), ignore
    size = asked * ATLAS_SIZE if isinstance(asked, bool) else asked
    return whole("atlas", size, 0, none=", True, False, or {'n_samples': a number}"), ()


def make_folder(path: Path) -> None:
    """Makes a folder that files can be written to.

    Raises:
        ArgumentError: The folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        possible = os.access(path, os.W_OK | os.X_OK)
    except OSError:
        possible = False
    if not possible:
        raise ArgumentError(
            f"save_dir={str(path)!r} is no folder that can be written to. Pass another, or change its permissions."
        )


def named_target(target: Any, classes: Classes, *, labels: bool) -> tuple[str, Any]:
    """One target with its name; `labels` says whether the true classes are known."""
    if target is None or (isinstance(target, str) and target == "pred"):
        return "pred", None
    if isinstance(target, str) and target == "label":
        if not labels:
            raise ArgumentError("targets='label' needs labels= with the key of the true classes.")
        return "label", "label"
    if isinstance(target, TargetSpec):
        resolve_target(target, 1, classes.names)
        return target.name, target
    if isinstance(target, Integral) and not isinstance(target, bool) and int(target) >= 0:
        return classes.names.get(int(target), str(int(target))), int(target)
    if isinstance(target, str):
        if target in classes.ids:
            return target, classes.ids[target]
        known = ", ".join(classes.ids) or "none, as label_mapping is not given"
        raise UnknownNameError(
            f"targets={in_short(target)} is neither 'pred' nor 'label' nor a class of label_mapping"
            f"{nearest(target, classes.ids)} Classes: {known}."
        )
    if callable(target):
        return re.sub(r"\W+", "_", getattr(target, "__name__", type(target).__name__)).strip("_"), target
    raise ArgumentError(
        f"targets={in_short(target)} is not accepted. Accepted: 'pred', 'label', a class id, a class name of "
        "label_mapping, Rank, Contrast, OutputValue, Segmentation, a callable, or a list of these."
    )
