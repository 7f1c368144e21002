"""What one test found of a class, and the verdict on the class that follows from all tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import Argument, ArgumentError
from fe_gradcam.verdicts.atlas import FEWEST, Box

Code = Literal[
    "place", "sign", "surroundings", "absence", "nothing_local", "artefact", "too_few", "not_judged", "no_shortcut"
]
"""What a verdict says; docs/verdicts.md has a section for each."""

ACCUSING: tuple[Code, ...] = ("place", "sign", "surroundings", "absence", "nothing_local")
"""The codes that say that a class is told by something else than the object, the most specific first."""

Level = Literal["tested", "suspected", "not tested"]
"""Tested: changes of the images showed it. Suspected: heat or likeness point to it, and no change was made or could be.
Not tested: the test does not apply, or there was too little to test it on."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One image of an experiment: as given and changed, and what the network says of both.

    Attributes:
        row: The image's row.
        given: (C, H, W) as the model takes it, channels first.
        changed: (C, H, W).
        before: Probability of the class for the image as given.
        after: Probability of the class for the changed image.
        done: What was changed, in a few words: "corner covered", "in the surroundings of a 7".
        outline: (H, W), where it was changed, or None.

    Raises:
        ArgumentError: One of the pictures is no array.
    """

    row: int
    given: NDArray[np.float32]
    changed: NDArray[np.float32]
    before: float
    after: float
    done: str
    outline: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Copies the arrays: a view would keep all images of the experiment in memory."""
        for name in ("given", "changed", "outline"):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) and (array is not None or name != "outline"):
                raise ArgumentError(Argument(name), f" is a {type(array).__name__}; a NumPy array is needed.")
            if array is not None:
                object.__setattr__(self, name, array.copy())


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one test found of one class.

    Attributes:
        test: Name of the test: the code of what it looks for.
        level: Whether the class was tested, is only suspected, or was not tested.
        code: What is found: one of ACCUSING, or "artefact"; None if nothing is.
        said: What was done and seen, in one or two sentences with the figures; if not tested, why.
        figures: The numbers by name.
        images: How many images of the class were used.
        trials: Some images of the experiment, the clearest first; at most 4.
        box: The place, if the finding is one.
        rows: (n,) images that show it.
    """

    test: Code
    level: Level
    code: Code | None
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    trials: Sequence[Trial] = ()
    box: Box | None = None
    rows: NDArray[np.int64] | None = None

    @property
    def accuses(self) -> bool:
        """Whether the class was tested, and is told by something else than the object."""
        return self.level == "tested" and self.code in ACCUSING


HEADLINES: Mapping[Code, str] = {
    "surroundings": "told by its surroundings",
    "absence": "told by something in its images, not by the missing object",
    "place": "told by a place of the frame",
    "sign": "told by a sign that moves",
    "nothing_local": "told by nothing local",
    "artefact": "heat at one place is an artefact of the map",
    "too_few": "too few images",
    "not_judged": "not judged",
    "no_shortcut": "no shortcut found",
}
"""What a verdict says of its class."""

BOUNDS: Mapping[Code, str] = {
    "surroundings": "Look at what the surroundings of this class alone have.",
    "absence": "Look at what is there only in images of this class. If its images show objects that nobody marked, it "
    "means nothing.",
    "place": "If the object or its own sign is always at that place, as a missing screw is, the network is right: pass "
    "masks= or boxes= that say so, or ignore it.",
    "sign": "If what the outlined patches show is a part of the object, the network is right.",
    "nothing_local": "A texture or a border all over the frame does this, and so does an object that fills the frame.",
    "artefact": "It accuses nobody: padding and borders heat up the map there, and the answer does not hang on it.",
    "too_few": "Pass more images of the class.",
    "not_judged": "It is judged in a later epoch, or if more may be asked.",
    "no_shortcut": "A cue of another kind than these tests look for may still be there.",
}
"""What a verdict does not establish, or what to do."""

PAGE_OF_VERDICTS = "docs/verdicts.md"
"""The page that says what each code means, and how it clears."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a class is told by something else than the object, as far as the tests could see.

    Attributes:
        class_id: The class.
        name: Its name, or its id as text.
        code: What is found. It stays the same in later versions; docs/verdicts.md has a section for each.
        level: Whether that was tested, is only suspected, or could not be tested.
        evidence: What each test found, that which decides first; empty if no test that was asked for applies.
        images: How many images are told to be of the class.
        epoch: The epoch whose weights were judged, or None.
    """

    class_id: int
    name: str
    code: Code
    level: Level
    evidence: Sequence[Evidence]
    images: int
    epoch: int | None = None

    @classmethod
    def of(
        cls, class_id: int, name: str, evidence: Sequence[Evidence], images: int, epoch: int | None = None
    ) -> Verdict:
        """The verdict that follows from what the tests found: the most specific accusation, else what is suspected."""
        ordered = sorted(evidence, key=_rank)
        code, level = (ordered[0].code, ordered[0].level) if ordered else (None, "not tested")
        if code is None and not any(one.level == "tested" and one.test != "artefact" for one in evidence):
            code, level = "too_few" if images < FEWEST else "not_judged", "not tested"
        elif code is None:
            code = "no_shortcut"
        return cls(class_id, name, code, level, ordered, images, epoch)

    @property
    def accuses(self) -> bool:
        """Whether changes of the images showed that the class is told by something else than the object."""
        return any(one.accuses for one in self.evidence[:1])

    @property
    def tests(self) -> list[str]:
        """The names of the tests that were run."""
        return sorted(one.test for one in self.evidence if one.level != "not tested")

    @property
    def trials(self) -> list[Trial]:
        """Images of the deciding experiment, as given and changed."""
        return [trial for one in self.evidence[:1] if one.code is not None for trial in one.trials]

    @property
    def headline(self) -> str:
        """The finding in a few words."""
        doubt = "may be " if self.level == "suspected" and self.code in ACCUSING else ""
        return doubt + HEADLINES[self.code]

    @property
    def text(self) -> str:
        """The finding in words: what was done and seen, what it does not establish, and where more is said."""
        when = "" if self.epoch is None else f", epoch {self.epoch}"
        said = next((one.said for one in self.evidence[:1] if one.code is not None), None) or self._what_was_run()
        others = [HEADLINES[one.code] for one in self.evidence[1:] if one.accuses and one.code is not None]
        also = f" Other tests say: {', '.join(others)}." if others else ""
        more = f"{BOUNDS[self.code]} ({PAGE_OF_VERDICTS}#{self.code})"
        return f"class {self.name!r}{when}: {self.headline}. {said}{also} {more}"

    def __str__(self) -> str:
        return self.text

    def _what_was_run(self) -> str:
        ran = [f"{one.test} ({one.images} images)" for one in self.evidence if one.level != "not tested"]
        left = [f"{one.test} ({one.said.rstrip('.')})" for one in self.evidence if one.level == "not tested"]
        said = [f"Tests that were run: {', '.join(ran)}." if ran else "No test was run."]
        return " ".join(said + [f"Not run: {'; '.join(left)}."] * bool(left))


def _rank(evidence: Evidence) -> tuple[int, int]:
    """Accusations, the most specific first, then what is suspected, then artefacts, then tests that found nothing."""
    codes = [*ACCUSING, "artefact"]
    which = codes.index(evidence.code) if evidence.code in codes else len(codes)
    if evidence.level == "not tested":
        return 3, which
    return (0 if evidence.accuses else 1 if evidence.code in ACCUSING else 2), which
