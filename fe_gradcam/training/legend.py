"""Messages that a training prints once: where its files are, which to open, and how to read the numbers of its log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fe_gradcam.training.epoch import Epoch

ABOUT = {
    "report": "all of it on one page",
    "grid": "the images of this epoch",
    "film": "a column for each epoch",
    "atlas": "the mean heat of each class",
}
"""What the picture of a product shows, by the name of the product."""

ENOUGH = 32
"""With at least so many images, the mean of a metric can be compared between trainings."""


def legend_of(epoch: Epoch, says: Mapping[str, str]) -> list[str]:
    """Lines for the log about the pictures that an epoch wrote, and about the numbers that it logged.

    Args:
        epoch: The first epoch with results.
        says: How to read the numbers of the log, by key.
    """
    return [*_of_files(epoch), *_of_numbers(epoch, says)]


def _of_files(epoch: Epoch) -> list[str]:
    ends = (".png", ".html")
    pictures = {name: [path for path in paths if path.suffix in ends] for name, paths in epoch.files.items()}
    named = {name: pictures[name][0] for name in dict.fromkeys([*ABOUT, *pictures]) if pictures.get(name)}
    if not named:
        return []
    folder = _short(next(iter(named.values())).parent)
    said = ", ".join(f"{path.name} ({ABOUT.get(name, name)})" for name, path in named.items())
    return [f"pictures in {folder}{'' if folder.endswith('/') else '/'}: open {said}"]


def _of_numbers(epoch: Epoch, says: Mapping[str, str]) -> list[str]:
    by_words: dict[str, list[str]] = {}
    for key, words in says.items():
        by_words.setdefault(words, []).append(key)
    if not by_words:
        return []
    said = "; ".join(f"{', '.join(keys)}: {words}" for words, keys in by_words.items())
    counts = [epoch.counts[key] for key in says if key in epoch.counts]
    if not counts:
        return [said]
    said = f"{said}; means of {min(counts)} image{'s' * (min(counts) > 1)}"
    if min(counts) >= ENOUGH:
        return [said]
    selection = epoch.options.selection
    by_number = not selection.by_class and not selection.positions
    more = f"n_samples={ENOUGH} or more" if by_number else f"{ENOUGH} images or more"
    return [f"{said}, which is few: take {more} to compare trainings"]


def _short(folder: Path) -> str:
    """The path of a folder, relative if it is inside the folder where the training runs."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
