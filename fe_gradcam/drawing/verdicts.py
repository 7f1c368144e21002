"""The verdicts on a network's classes as one sheet: the images of the experiments, as given and changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Role, Row, Text
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.pixels import Rgb
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.parameters import checked_text
from fe_gradcam.spec.arrays import listed
from fe_gradcam.verdicts.verdict import HEADLINES, Code, Trial, Verdict

TRIALS_SHOWN = 3
"""How many images of an experiment stand beside each other, each as given and changed."""

MOST_VERDICTS = 24
"""The most classes on a sheet."""

ROOM = 250
"""Width of the texts beside the pictures, in pixels, at text size 14."""

FIGURES_SHOWN = 3
"""The most figures of a test that are written beside its images."""

TELLING: Mapping[str, str] = {
    "plain": "probability",
    "covered": "covered",
    "covered_elsewhere": "covered elsewhere",
    "kept_same": "told, same surroundings",
    "kept_other": "told, other surroundings",
    "kept": "told, hot places filled in",
    "kept_by_others": "the same of other classes",
    "becomes": "others without object told so",
    "stays": "told with an object in it",
}
"""Figures that are written first, and their words."""

QUIET: tuple[Code, ...] = ("no_shortcut", "too_few", "not_judged")
"""Codes of classes that are only counted below the title, if others are drawn."""


def draw_verdicts(
    verdicts: Sequence[Verdict],
    *,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    title: str = "",
    cell: int | None = None,
) -> Picture:
    """Draws verdicts with the images of their experiments: a row for each class that is accused or suspected.

    Each image stands as it was given and as it was changed, with the probability of the class below. If no class is
    accused or suspected, all classes are drawn.

    Args:
        verdicts: As `fe_gradcam.find_shortcuts` returns them.
        mean: Mean of the normalisation of the images, a number or one per channel; the picture undoes it.
        std: Standard deviation of that normalisation, a number or one per channel.
        title: Text at the beginning of the title line.
        cell: Side of a picture in pixels, from 16; None: a size that fits.

    Raises:
        ArgumentError: There are no verdicts, or an argument is not accepted.
    """
    accepted = "a list of at least one Verdict, as find_shortcuts returns it."
    every = listed("verdicts", verdicts, accepted)
    if not every or not all(isinstance(one, Verdict) for one in every):
        raise ArgumentError(f"verdicts={in_short(verdicts):.100} is not accepted. Accepted: {accepted}")
    look, title = Look(mean=mean, std=std), checked_text("title", title)
    loud = [one for one in every if one.code not in QUIET] or every
    shown = sorted(loud, key=lambda one: not one.accuses)[:MOST_VERDICTS]
    columns = max(1, min(TRIALS_SHOWN, max(len(_trials(one)) for one in shown)))
    rows = tuple(_verdict_row(one, columns, look) for one in shown)
    titles = ("as given", "changed") * columns
    said = [title, "what each class is told by"]
    if len(loud) > len(shown):
        said.append(f"{len(shown)} of {len(loud)} classes")
    of_others = " ".join(_counted(every, shown))
    return Picture(Grid(rows, titles, "turbo", "", (0, 1), ", ".join(filter(None, said)), of_others, ROOM), cell)


def _counted(verdicts: Sequence[Verdict], shown: Sequence[Verdict]) -> Iterator[str]:
    """In words: the classes that are not drawn, by what was found."""
    for code in QUIET:
        names = [one.name for one in verdicts if one.code == code and one not in shown]
        if names:
            yield f"{HEADLINES[code].capitalize()}: {', '.join(names)}."


def _trials(verdict: Verdict) -> Sequence[Trial]:
    """Those of the deciding test, or of any other if nothing is found."""
    return verdict.trials or next((one.trials for one in verdict.evidence if one.trials), ())


def _verdict_row(verdict: Verdict, columns: int, look: Look) -> Row:
    figures = next((one.figures for one in verdict.evidence), {})
    role: Role = "warning" if verdict.accuses else "note" if verdict.code in (*QUIET, "artefact") else "doubt"
    texts = [Text("class", verdict.name), Text(role, verdict.headline)]
    texts.append(Text("note", f"{verdict.images} image{'s' * (verdict.images != 1)}, {verdict.level}"))
    shown = [key for key in TELLING if key in figures] or list(figures)
    for key in shown[:FIGURES_SHOWN]:
        value, words = figures[key], TELLING.get(key, key.replace("_", " "))
        texts.append(Text("note", f"{words}:", f"{value:.2f}" if value == value else "not known"))
    trials = _trials(verdict)[:columns]
    texts += [Text("note", f"shown: {trial.done}") for trial in trials[:1]]
    panels = [panel for trial in trials for panel in _panels(trial, look)]
    blank = Panel(np.full(panels[0].rgb.shape if panels else (16, 16, 3), 255, np.uint8))
    return Row(tuple(texts), False, (*panels, *[blank] * (2 * columns - len(panels))))


def _panels(trial: Trial, look: Look) -> tuple[Panel, Panel]:
    given, changed = trial_pictures(trial, look)
    before = Text("note", "", f"{trial.before:.0%}")
    after = Text("note", "→", f"{trial.after:.0%}")
    return Panel(given, outline=trial.outline, caption=before), Panel(changed, outline=trial.outline, caption=after)


def trial_pictures(trial: Trial, look: Look) -> tuple[Rgb, Rgb]:
    """The image of an experiment as given and changed, (H, W, 3) each, in one range of brightness."""
    both: NDArray[np.float32] = np.concatenate([trial.given, trial.changed], axis=2)
    picture: Rgb = look.pictures(both[None], channels_first=True)[0]
    width = trial.given.shape[2]
    return picture[:, :width], picture[:, width:]
