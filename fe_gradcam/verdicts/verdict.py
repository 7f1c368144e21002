"""What one test found of a class, and the verdict on the class that follows from all tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.verdicts.atlas import Box

Code = Literal[
    "place", "sign", "surroundings", "absence", "nothing_local", "artefact", "too_few", "not_judged", "no_shortcut"
]
"""What a verdict says; docs/verdicts.md has a section for each."""

ACCUSING: tuple[Code, ...] = ("surroundings", "absence", "place", "sign", "nothing_local")
"""The codes that say that a class is told by something else than the object, the most telling first."""

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
    """

    row: int
    given: NDArray[np.float32]
    changed: NDArray[np.float32]
    before: float
    after: float
    done: str
    outline: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one test found of one class.

    Attributes:
        test: Name of the test, a key of `fe_gradcam.verdicts.find.TESTS`.
        level: Whether the class was tested, is only suspected, or was not tested.
        code: What is found: one of ACCUSING, or "artefact"; None if nothing is.
        said: What was done and seen, in one or two sentences with the figures; if not tested, why.
        figures: The numbers by name.
        images: How many images of the class were used.
        trials: Some images of the experiment, the clearest first; at most 4.
        box: The place, if the finding is one.
        rows: (n,) images that show it.
    """

    test: str
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
