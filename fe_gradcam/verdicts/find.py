"""All tests of a network's classes, and the verdicts that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, UnsupportedModelError, in_short, nearest
from fe_gradcam.explaining.route import explain, explained
from fe_gradcam.explaining.settings import settings_of
from fe_gradcam.explaining.views import Smooth
from fe_gradcam.parameters import knows_its_keywords
from fe_gradcam.spec.arrays import array_of, listed
from fe_gradcam.spec.images import Inputs, host_rows
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.targets import names_by_id
from fe_gradcam.types import ClassNames, Fuse, Heatmap, Images, Layer, Method, Reshape
from fe_gradcam.verdicts.absence import absence
from fe_gradcam.verdicts.atlas import TRIED
from fe_gradcam.verdicts.donors import DONORS
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.patches import look_alikes
from fe_gradcam.verdicts.places import fixed_places
from fe_gradcam.verdicts.spread import artefacts, nothing_local
from fe_gradcam.verdicts.surroundings import surroundings
from fe_gradcam.verdicts.verdict import Code, Evidence, Verdict

Test: TypeAlias = Callable[[Inquiry, Sequence[int]], Mapping[int, Evidence]]

TESTS: Mapping[Code, Test] = {
    "surroundings": surroundings,
    "absence": absence,
    "place": fixed_places,
    "sign": look_alikes,
    "nothing_local": nothing_local,
    "artefact": artefacts,
}
"""The tests, by the code of what they look for."""

AT_A_TIME = 32
"""Images of a pass if no batch size is given."""


def judged(
    inquiry: Inquiry,
    *,
    ignore: Iterable[Code] = (),
    first: Sequence[int] = (),
    epoch: int | None = None,
) -> list[Verdict]:
    """A verdict for each class that some image is told to be of, in the order of the classes.

    Args:
        inquiry: The images, and how many more may be asked; classes that this does not reach have no verdict.
        ignore: Codes that are not looked for.
        first: Classes in the order in which they are judged if not all can be; the others come behind.
        epoch: The epoch whose weights are judged.
    """
    classes = _within(inquiry, [*(one for one in first if one in inquiry.classes), *_others(inquiry.classes, first)])
    left_out = set(ignore)
    inquiry.accused.difference_update(classes)
    found: list[Mapping[int, Evidence]] = []
    for code, test in TESTS.items():
        if code not in left_out:
            found.append(test(inquiry, classes))
            inquiry.accused.update(one for one, its in found[-1].items() if its.accuses)
    of_class = {one: [each[one] for each in found if one in each] for one in classes}
    return [
        Verdict.of(one, inquiry.called(one), _agreed(of_class[one]), len(inquiry.rows_of(one)), epoch)
        for one in sorted(classes)
    ]


def _agreed(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The evidence of a class; a place or a patch is no finding if other surroundings leave the class as it is.

    What lies beside the object would go with its surroundings. So it is a part of the object, as of one that is always
    at the same place.
    """
    leave = any(one.test == "surroundings" and one.level == "tested" and one.code is None for one in evidence)
    known = " But in other surroundings the class is told as before: this is a part of the object."
    return [
        replace(one, code=None, said=one.said + known) if leave and one.code in ("place", "sign") else one
        for one in evidence
    ]


def _others(classes: Sequence[int], first: Sequence[int]) -> list[int]:
    chosen = set(first)
    return [one for one in classes if one not in chosen]


def _within(inquiry: Inquiry, classes: Sequence[int]) -> list[int]:
    """As many of the classes as the inquiry can afford if nothing is suspected, at least one."""
    if inquiry.most is None:
        return list(classes)
    each = 1 + 2 * DONORS * (inquiry.masks is not None)
    costs = np.cumsum([each * min(TRIED, len(inquiry.rows_of(one))) for one in classes])
    return list(classes[: max(1, int((costs <= inquiry.most).sum()))])


@knows_its_keywords(
    mask="masks= with a mask for each image",
    bboxes="boxes=",
    methods="method= with one",
    names="class_names=",
    label_mapping="class_names=, names in the order of their ids or {id: name}",
    targets="no target: every class is judged",
)
def find_shortcuts(
    model: Any,
    images: Images,
    labels: ArrayLike | None = None,
    *,
    masks: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    ignore: Sequence[Code] = (),
    method: Method = "grad_cam",
    layer: Layer = None,
    class_names: ClassNames | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    fuse: Fuse = "mean",
    smooth: Smooth | Sequence[Smooth] | None = None,
) -> list[Verdict]:
    """Judges whether each class is told by something else than the object: a place, a sign, its surroundings.

    Every accusation is tested by cause: images are changed, and the answers compared with those to other changes of
    the same size. docs/verdicts.md says for each verdict what is done, what it costs, and what it does not establish.
    The model is left as it was; see `fe_gradcam.explain`.

    Args:
        model: A torch.nn.Module or a tf.keras.Model that classifies.
        images: (N, C, H, W) for PyTorch, (N, H, W, C) for Keras, as the model takes them; a tuple for a model with
            several inputs, one of them the picture. Twelve of a class are enough; with fewer than six it is not judged.
        labels: (N,) the true class ids, or (N, C) of 0 and 1 if an image may be of several classes. Then only images
            that are told rightly are used. None: each image counts for the class that it is told to be of.
        masks: (N, H, W), or with one channel: the object is where integers are not 0, or where floats are 0.5 or more;
            an empty mask says that there is no object. Without masks and boxes the surroundings are not tested.
        boxes: (N, 4) or (N, M, 4), used like masks: left, top, width and height in pixels of the images; rather too
            large than too small. With masks and boxes, the object is where both say so.
        ignore: Codes of verdicts that are not looked for, such as ``["artefact"]``.
        method: A method, as `explain` takes it.
        layer: The layer to explain, as `explain` takes it.
        class_names: Names of the classes, in the order of their ids or as {id: name}.
        batch_size: Images per pass; None: 32.
        seed: Seed of all choices.
        model_output: Which of the model's outputs holds the scores, as `explain` takes it.
        reshape: How the layer's output becomes a map, as `explain` takes it.
        fuse: "mean" or "max": how several layers become one map.
        smooth: "augment", "eigen" or both, as `explain` takes them.

    Returns:
        A Verdict for each class that some image is told to be of. ``print(verdict)`` says what was found, and
        `fe_gradcam.draw_verdicts` shows the experiments.

    Raises:
        ArgumentError: An argument is not accepted, or does not fit the images; a ValueError.
        UnknownNameError: No such method, layer, output or code; a KeyError.
        UnsupportedModelError: The model cannot be observed, or puts out no classes; a TypeError.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> found = find_shortcuts(net, torch.rand(8, 1, 28, 28), class_names=["cat", "dog"])
        >>> [verdict.name for verdict in found if verdict.accuses]
        []
    """
    left_out = checked_codes("ignore", ignore)
    how: dict[str, Any] = {"method": method, "layer": layer, "batch_size": batch_size, "seed": seed}
    how |= {"class_names": class_names, "model_output": model_output, "reshape": reshape}
    how |= {"fuse": fuse, "smooth": smooth}
    inquiry = inquiry_of(model, images, labels, masks, boxes, **how)
    return judged(inquiry, ignore=left_out)


def checked_codes(name: str, ignore: Any) -> list[Any]:
    """The codes that are not looked for; `name` is what the argument is called.

    Raises:
        UnknownNameError: There is no such code.
    """
    left_out = (
        [] if ignore is None else [ignore] if isinstance(ignore, str) else listed(name, ignore, "a list of codes.")
    )
    for code in left_out:
        if not isinstance(code, str) or code not in TESTS:
            raise UnknownNameError(
                f"{name}={in_short(code)} is no code{nearest(code, TESTS)} Accepted: {', '.join(TESTS)}."
            )
    return left_out


def inquiry_of(
    model: Any,
    images: Images,
    labels: Any,
    masks: Any,
    boxes: Any,
    *,
    method: Method,
    layer: Layer,
    batch_size: int | None,
    **how: Any,
) -> Inquiry:
    """What verdicts on a trained model start from; the arguments are those of `find_shortcuts`.

    Raises:
        ArgumentError: The images are volumes, or an argument does not fit them.
        UnsupportedModelError: The model puts out no classes.
    """
    inputs = Inputs.of(images).checked()
    if len(inputs.picture.shape) != 4:
        raise ArgumentError(
            f"images holds volumes of shape {tuple(inputs.picture.shape)[1:]}, and only pictures can be judged. Pass "
            "slices, with a model that takes slices."
        )
    how["batch_size"] = AT_A_TIME if batch_size is None else batch_size
    settings = settings_of("scale_after_relu", "logit", *(how[name] for name in SETTINGS), True)
    done = explained(model, images, settings, methods=(method,), layers=(layer,), targets=(None,))
    (heatmap,) = done.heatmaps
    if done.probabilities is None:
        raise UnsupportedModelError(
            Argument("model"), " puts out no table of classes (N, C), so no class can be judged."
        )

    def of_class(rows: NDArray[np.int64], class_id: int) -> Heatmap:
        given = tuple(np.asarray(host_rows(part))[rows] for part in inputs.parts)
        its = given if len(given) > 1 else given[0]
        return explain(model, its, method=method, layer=layer, target=class_id, **how)

    return Inquiry(
        model,
        images,
        heatmap,
        done.probabilities,
        masks=object_masks(masks, boxes, heatmap.values.shape[1:], len(heatmap)),
        labels=None if labels is None else _checked_labels(labels, done.probabilities.shape),
        names=names_by_id(how["class_names"]),
        explains=of_class,
        **{name: how[name] for name in ("batch_size", "seed", "model_output")},
    )


SETTINGS = ("batch_size", "seed", "class_names", "model_output", "reshape", "fuse", "smooth")
"""Of the arguments of `find_shortcuts`, those of `settings_of`, in its order."""


def _checked_labels(labels: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels as ids (N,), or as (N, C).

    Raises:
        ArgumentError: They have another shape, or are no whole numbers.
    """
    accepted = f"({shape[0]},) class ids, or {shape} of 0 and 1 if an image may be of several classes."
    given = array_of("labels", labels, accepted, kinds="biufUS")
    if given.shape == (shape[0], 1) and shape[1] > 1:
        given = given[:, 0]
    whole = given.dtype.kind in "iub" or (given.dtype.kind == "f" and bool((given == np.rint(given)).all()))
    if given.shape not in ((shape[0],), shape) or not whole:
        raise ArgumentError(
            f"labels has shape {given.shape} and dtype {given.dtype}; ({shape[0]},) class ids are needed, or {shape} "
            "of 0 and 1 if an image may be of several classes."
        )
    return given.astype(np.int64)
