"""How a network reacts to stamps: the lift of each class by a stamp over its control, in log-odds.

A stamp (a text, a ruler, a logo) is laid over pictures, and in other copies a control of the same place, size and
opacity. The lift of a class is the mean over the pictures of its log-odds with the stamp, less those with the
controls. The pictures need no labels and may show anything.

That is a reaction and no verdict. Networks also react to stamps that they never saw: borders and tags lift classes of
small networks that were trained without them as far as of those that were trained with them.

Source: Li 2023, arXiv:2212.04825, and Bykov 2023, arXiv:2303.05498, who found that five classes of ImageNet go with
Chinese text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from textwrap import fill
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, in_short, nearest
from fe_gradcam.files import FilePath
from fe_gradcam.metrics.asked import answers_of
from fe_gradcam.parameters import fraction, knows_its_keywords, whole
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.targets import names_by_id
from fe_gradcam.types import ClassNames, Images
from fe_gradcam.verdicts.stamping import Colours, Ink, StampSpec, stamp_of, stamps_by_name

SPOTS = {
    **{"middle": (0.5, 0.5), "upper edge": (0.5, 0.0), "lower edge": (0.5, 1.0)},
    **{"left edge": (0.0, 0.5), "right edge": (1.0, 0.5)},
    **{"upper left corner": (0.0, 0.0), "upper right corner": (1.0, 0.0)},
    **{"lower left corner": (0.0, 1.0), "lower right corner": (1.0, 1.0)},
}
"""Places of a stamp by name: the share of the free room that lies to its left, and above it."""

PER_PASS = 32
"""Pictures in a pass by default."""

LOWEST, HIGHEST = -103.0, 17.0
"""Stand for infinite logits: those of probabilities that float32 rounds to 0 or to 1."""

LINE = 100
"""The longest line of a printed table, in letters."""

NO_VERDICT = (
    "A lift says how the network reacts to a stamp over these pictures. It does not say that the class is told by it, "
    "that such stamps are in its data, or that its answers are wrong: networks also react to stamps that they never "
    "saw. It accuses no class. Look at the class's own images, and test them with find_shortcuts()."
)
"""What a reaction does not establish."""


class ClassLift(NamedTuple):
    """A class and its lift by a stamp: in log-odds, with its standard error, and its rank from 1."""

    class_id: int
    name: str
    lift: float
    error: float
    rank: int


@dataclass(frozen=True, eq=False)
class Reaction:
    """How a network reacts to stamps; printed, a table. It is no verdict, and accuses no class.

    Attributes:
        stamps: The names of the S stamps.
        lift: (S, C), the mean over the pictures of the log-odds with a stamp less those with its controls.
        error: (S, C), the standard error of the lift over the pictures; NaN for one picture.
        of_controls: (S,), the largest lift of a class, up or down, by one control over the other: what a stamp does
            that means nothing. NaN if there is one control.
        controls: {stamp: the stamp and its controls in words}.
        left_out: {stamp: why it was left out}.
        pictures: How many pictures were used.
        forwards: How many pictures the network was asked, in all.
        said: Place, size, opacity and colours in words.
        shown: (S, 2, H, W, 3) uint8, the first picture with each stamp and with its first control.
        names: Names of the classes by id.
    """

    stamps: tuple[str, ...]
    lift: NDArray[np.float64]
    error: NDArray[np.float64]
    of_controls: NDArray[np.float64]
    controls: Mapping[str, str]
    left_out: Mapping[str, str]
    pictures: int
    forwards: int
    said: str
    shown: NDArray[np.uint8]
    names: Mapping[int, str]

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """(S, C), from 1 for the class that a stamp lifts most."""
        return np.argsort(np.argsort(-self.lift, axis=1, kind="stable"), axis=1) + 1

    def top(self, stamp: str, n: int = 10) -> list[ClassLift]:
        """The n classes that a stamp lifts most, in falling order.

        Raises:
            UnknownNameError: There is no such stamp in the table.
            ArgumentError: n is no integer from 1.
        """
        if stamp not in self.stamps:
            why = (
                f", it was left out: {self.left_out[stamp]}." if stamp in self.left_out else nearest(stamp, self.stamps)
            )
            said = f" is not in the table{why} Accepted: {', '.join(self.stamps) or 'none, for all were left out'}."
            raise UnknownNameError(Argument("stamp", in_short(stamp)), said)
        lift, error, rank = (table[self.stamps.index(stamp)] for table in (self.lift, self.error, self.rank))
        first = np.argsort(rank)[: whole("n", n, 1)].tolist()
        named = ((one, self.names.get(one, f"class {one}")) for one in first)
        return [ClassLift(one, name, float(lift[one]), float(error[one]), int(rank[one])) for one, name in named]

    def text(self, n: int = 5) -> str:
        """The table: n classes of each stamp, what was left out and why, and what the table does not establish."""
        said = [
            f"Lift of each class by a stamp over its control, in log-odds: mean over {self.pictures} pictures and its "
            f"standard error; {self.lift.shape[1]} classes, {self.forwards} forwards.",
            f"{self.said}.",
        ]
        for stamp, noise in zip(self.stamps, self.of_controls, strict=True):
            apart = "" if np.isnan(noise) else f"; one control over the other lifts no class by more than {noise:.2f}"
            said += ["", f"{stamp}: {self.controls[stamp]}{apart}."]
            said += [f"{one.rank:>4}  {one.name:<24} {one.lift:+6.2f} ± {one.error:.2f}" for one in self.top(stamp, n)]
        for stamp, why in self.left_out.items():
            said += ["", f"{stamp}: left out, {why}."]
        return "\n".join(fill(line, LINE) for line in [*said, "", NO_VERDICT])

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Reaction(stamps={self.stamps}, pictures={self.pictures}, left_out={dict(self.left_out)})"


@knows_its_keywords(
    images="pictures, the second argument",
    labels="no labels: every class is looked at in every picture",
    masks="no masks: the stamp lies where places= says",
    boxes="no boxes: the stamp lies where places= says",
    names="class_names=",
    label_mapping="class_names=, names in the order of their ids or {id: name}",
    alpha="opacity=",
)
def react(
    model: Any,
    pictures: Images,
    *,
    stamps: StampSpec = None,
    places: str | Sequence[Any] = "middle",
    size: float = 0.9,
    opacity: float = 0.5,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    font: FilePath | None = None,
    class_names: ClassNames | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    model_output: ModelOutput = None,
) -> Reaction:
    """Which classes a stamp lifts, over a control of the same place, size and opacity, if it is laid over pictures.

    This needs neither labels nor the network's own data: any dozen pictures do. It costs one forward for each picture
    and stamp, and one for each control, of which a stamp has two. A reaction is no verdict; see `Reaction`.

    The model is left as it was; see `fe_gradcam.explain`.

    Args:
        model: A torch.nn.Module or a tf.keras.Model that classifies; with sigmoid outputs each label has its own odds.
        pictures: (N, C, H, W) for PyTorch, (N, H, W, C) for Keras, with 1 or 3 channels, in the model's own
            normalisation; a tuple for a model with several inputs, one of them the picture.
        stamps: None for the text stamps "chinese", "cyrillic" and "date", in white, each against two Latin texts; one
            of these names, or several in a list. Or a dict of your own pictures: {"ruler": picture}, (h, w, 3), or
            (h, w, 4) with its opacity, bytes or floats from 0 to 1, or a file's path. The controls are made of its own
            pixels, shuffled in blocks; {"ruler": (picture, control)} takes yours. In a dict {"chinese": None} stands
            for the text stamp.
        places: A name in `fe_gradcam.verdicts.stamps.SPOTS`, as "lower right corner", or two numbers from 0 to 1: the
            share of the free room that lies to the left of the stamp, and above it. Of a list of these, the pictures
            take one after the other.
        size: The stamp is as large as it fits into this share of the width and height of the picture; above 0, to 1.
        opacity: How much the stamp covers what is below it; above 0, to 1.
        mean: Mean of the normalisation of the pictures, a number or one per channel.
        std: Standard deviation of that normalisation, a number or one per channel. Mean and std say which numbers are
            black and white. Without them these are 0 and 1 or 0 and 255 if the pictures fit that, and otherwise the
            smallest and the largest number that a channel has in the pictures; the result says which.
        font: Path of a font file for the text stamps. None: the font that OpenCV carries from release 5 on, or one of
            the system. A stamp whose letters no font has is left out, and named in the result.
        class_names: Names of the classes, in the order of their ids or as {id: name}.
        batch_size: Pictures per pass; None: 32.
        seed: Seed of the order of the shuffled blocks.
        model_output: Which of the model's outputs holds the scores, as `explain` takes it.

    Returns:
        A Reaction; ``print`` shows its table.

    Raises:
        ArgumentError: An argument is not accepted, or does not fit the pictures; a ValueError.
        UnknownNameError: No such text stamp or output; a KeyError.
        UnsupportedModelError: The model cannot be observed, or puts out no classes; a TypeError.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 5))
        >>> ruler = np.tile(np.repeat([0.0, 1.0], 4)[:, None], (8, 8, 3))
        >>> found = react(net, torch.rand(6, 3, 64, 64), stamps={"ruler": ruler}, size=0.3, places="lower edge")
        >>> found.lift.shape, found.forwards, [one.rank for one in found.top("ruler", 2)]
        ((1, 5), 18, [1, 2])
    """
    share, opaque = _above_zero("size", size), _above_zero("opacity", opacity)
    seed, batch_size = whole("seed", seed, 0), whole("batch_size", PER_PASS if batch_size is None else batch_size, 1)
    where, names, asked = _places(places), names_by_id(class_names), list(stamps_by_name(stamps))
    inputs = Inputs.of(pictures).checked()
    net = _Stamped(model, inputs, model_output, batch_size, tuple(where.values()), opaque, (mean, std))
    height, width = net.pictures.shape[2:]
    made = {name: stamp_of(name, given, (share * height, share * width), font, seed) for name, given in asked}
    kept = [one for one in made.values() if not isinstance(one, str)]
    found = [[net.log_odds(ink) for ink in (one.ink, *one.controls)] for one in kept]
    lifts = [of_stamp - torch.stack(of_controls).mean(0) for of_stamp, *of_controls in found]
    classes = lifts[0].shape[1] if lifts else 0
    means, errors = (np.array([how(one) for one in lifts]).reshape(len(kept), classes) for how in (_mean, _error))
    shown = [[net.shown(ink) for ink in (one.ink, one.controls[0])] for one in kept]
    return Reaction(
        stamps=tuple(one.name for one in kept),
        lift=means,
        error=errors,
        of_controls=np.array([_apart(of_controls) for _, *of_controls in found]),
        controls={one.name: one.said for one in kept},
        left_out={name: one for name, one in made.items() if isinstance(one, str)},
        pictures=len(inputs),
        forwards=len(inputs) * sum(map(len, found)),
        said=f"Place: {', '.join(where)}; size: {share:.0%} of the frame; opacity: {opaque:.0%}; {net.colours.said}",
        shown=np.array(shown, np.uint8).reshape(-1, 2, height, width, 3),
        names=names,
    )


class _Stamped:
    """A model, and the pictures on which stamps are laid, (N, C, H, W)."""

    def __init__(
        self,
        model: Any,
        inputs: Inputs,
        model_output: ModelOutput,
        batch_size: int,
        places: Sequence[tuple[float, float]],
        opacity: float,
        normalised: tuple[ArrayLike | None, ArrayLike | None],
    ) -> None:
        self._backend, self._batch_size = backend_for(model, model_output), batch_size
        self._places, self._opacity = places, opacity
        first, shape = self._backend.channels_first, tuple(inputs.picture.shape)
        if len(shape) != 4 or shape[1 if first else 3] not in (1, 3):
            layout = "(N, C, H, W)" if first else "(N, H, W, C)"
            raise ArgumentError(f"pictures has shape {shape}. Accepted: {layout} for this model, with 1 or 3 channels.")
        self._layer = self._backend.resolve(None, inputs)  # every pass needs one; its output is not used
        self._inputs = inputs.in_torch()
        self.pictures = self._inputs.seen(channels_first=first)
        if not self.pictures.isfinite().all():
            raise ArgumentError("pictures holds NaN or infinite values. Pass finite numbers.")
        self.colours = Colours.of(self.pictures, *normalised, floats=self._inputs.picture.is_floating_point())

    def laid(self, ink: Ink) -> Tensor:
        """(N, C, H, W), the pictures with ink over them; they take the places in turn."""
        laid = self.pictures.clone()
        for at, place in enumerate(self._places):
            ink.over(laid[at :: len(self._places)], place, self._opacity, self.colours)
        return laid

    def shown(self, ink: Ink) -> NDArray[np.uint8]:
        """(H, W, 3), the first picture with ink over it."""
        return self.colours.shown(self.laid(ink)[0])

    def log_odds(self, ink: Ink) -> Tensor:
        """(N, C) on the CPU, of the pictures with ink over them."""
        laid, parts = self.laid(ink), []
        for rows in torch.split(torch.arange(len(laid), device=laid.device), self._batch_size):
            asked = self._inputs.asked(laid[rows], rows, channels_first=self._backend.channels_first)
            found = answers_of(self._backend, asked, self._layer)
            parts.append(log_odds(cast(Tensor, found.logits).cpu(), cast(Tensor, found.probabilities).cpu()))
        return torch.cat(parts)


def log_odds(logits: Tensor, probabilities: Tensor) -> Tensor:
    """The log-odds of each class, (N, C) float64; with sigmoid outputs these are the logits.

    With a softmax they are z_c less the logarithm of the sum of exp z over the other classes: of probabilities near 0
    or 1, as float32 holds them, nothing would be left.

    Args:
        logits: (N, C).
        probabilities: (N, C), which tell a softmax from sigmoids.

    Example:
        >>> log_odds(torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))[0, 0].item()  # 40 - log 2
        39.30685281944005
    """
    z = logits.double().nan_to_num(nan=torch.nan, posinf=HIGHEST, neginf=LOWEST)
    off = [(made - probabilities).abs().max() for made in (z.sigmoid(), z.softmax(1))]
    if off[0] < off[1]:
        return z
    log_p, top = z.log_softmax(1), z.argmax(1, keepdim=True)
    others = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)  # 1 - p of the first class may round to 0
    return (log_p - torch.log1p(-log_p.exp())).scatter(1, top, z.gather(1, top) - others)


def _mean(lifts: Tensor) -> NDArray[np.float64]:
    return np.asarray(lifts.mean(0).numpy())


def _error(lifts: Tensor) -> NDArray[np.float64]:
    """The standard error of the mean over the pictures."""
    return lifts.numpy().std(0, ddof=1) / len(lifts) ** 0.5 if len(lifts) > 1 else np.full(lifts.shape[1], np.nan)


def _apart(controls: Sequence[Tensor]) -> float:
    """The largest lift of a class by the second control over the first; NaN if there is one."""
    return float((controls[1] - controls[0]).mean(0).abs().max()) if len(controls) > 1 else float("nan")


def _places(asked: str | Sequence[Any]) -> dict[str, tuple[float, float]]:
    """The places by name."""
    found = {}
    one = isinstance(asked, str) or _is_pair(asked)
    for place in [asked] if one else listed("places", asked, f"{', '.join(SPOTS)}; or two numbers from 0 to 1."):
        if _is_pair(place):
            found[f"{place[0]:.0%} across and {place[1]:.0%} down"] = float(place[0]), float(place[1])
        elif isinstance(place, str) and place in SPOTS:
            found[place] = SPOTS[place]
        else:
            said = f" is no place{nearest(place, SPOTS)} Accepted: {', '.join(SPOTS)}; or two numbers from 0 to 1."
            raise ArgumentError(Argument("places", in_short(place)), said)
    if not found:
        raise ArgumentError("places is empty; at least one place is needed.")
    return found


def _is_pair(place: Any) -> bool:
    """Whether this is a place by two numbers from 0 to 1."""
    if not isinstance(place, (tuple, list)) or len(place) != 2:
        return False
    return all(isinstance(one, Real) and 0 <= float(one) <= 1 for one in place)


def _above_zero(name: str, value: Any) -> float:
    number = fraction(name, value)
    if not number:
        raise ArgumentError(Argument(name, in_short(value)), " is not accepted. Accepted: a number above 0, to 1.")
    return number
