"""How often a verdict is right, and how often it is false.

Of each net of `benchmarks.cue_nets` it is measured how far it relies on its cue. Then `fe_gradcam.find_shortcuts`
judges its classes, with masks and without, on 16 images of each; see `benchmarks.judged`. What is found is set against
the reliance.

``python -m benchmarks.shortcut`` judges all nets and prints three tables, ``--seeds 20 --cues clean mark`` those of two
cues in every setting. Each net is written into a file as it is done, and is not judged again.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.cue_nets import CACHE, HEADS, PLACES, Key, keys
from benchmarks.cues import CANVASES, CUES
from benchmarks.judged import Row, of_net, read, write

BANDS = ((-1.0, 0.25), (0.25, 0.5), (0.5, 1.0))
"""What reliance is from and up to, its own end included."""

NEAR = 0.15
"""How far `kept_other` may be from 1 - reliance."""

FIRST = ("random", "textured", "average")
SURE = 0.95


@dataclass(frozen=True)
class Found:
    """What was found of one net in one way of judging: with masks, or without.

    Attributes:
        key: What it was trained on.
        accuracy: On held-out images with the cue.
        reliance: The mean over the classes that the cue tells.
        accused: How many of these classes are accused.
        tests: The tests that accuse one of them, once for each class.
        false: How many other classes are accused.
        away: `kept_other` less 1 - fall, the mean over the classes that the cue tells; nan if there is none.
    """

    key: Key
    accuracy: float
    reliance: float
    accused: int
    tests: tuple[str, ...]
    false: int
    away: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Found:
        """From the rows of all its classes and parts; verdicts are those of the first part."""
        told = [row for row in rows if row.told]
        accused = [row for row in rows if row.accused and row.part == 0]
        right = [row for row in accused if row.told]
        away = [row.kept_other - (1 - row.fall) for row in told if not np.isnan(row.kept_other)]
        return cls(
            key=rows[0].key,
            accuracy=rows[0].accuracy,
            reliance=float(np.mean([row.reliance for row in told])) if told else 0.0,
            accused=len(right),
            tests=tuple(test for row in right for test in row.by.split("+")),
            false=len(accused) - len(right),
            away=float(np.mean(away)) if away else float("nan"),
        )


def at_least(found: int, of: int) -> float:
    """The rate that is surely reached if so many are found: the lower bound of Clopper and Pearson at SURE."""
    return float(beta.ppf(1 - SURE, found, of - found + 1)) if found else 0.0


def at_most(found: int, of: int) -> float:
    """The rate that is surely not passed: the upper bound of Clopper and Pearson at SURE."""
    return float(beta.ppf(SURE, found + 1, of - found)) if found < of else 1.0


def nets_of(rows: Iterable[Row], *, annotated: bool) -> list[Found]:
    """The nets that were judged in one way."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.annotated == annotated:
            groups.setdefault(row.net, []).append(row)
    return [Found.of(group) for group in groups.values()]


def detection(rows: Sequence[Row]) -> Iterator[str]:
    """How many nets with a cue have an accused class that it tells, by reliance; the first setting and others apart."""
    bands = ["below 0.25", "0.25 to 0.5", "above 0.5"]
    yield from _head(["cue", "setting", "masks", "nets", "accuracy", "reliance", *bands, "tests", "other classes"])
    ways = {way: nets_of(rows, annotated=way) for way in (True, False)}
    cues = [name for name, cue in CUES.items() if cue.classes]
    for cue, setting, way in itertools.product(cues, ("first", "others", "keras"), ways):
        nets = [net for net in ways[way] if net.key.cue == cue and _setting(net.key) == setting]
        if nets:
            spans = [_span([net.accuracy for net in nets]), _span([net.reliance for net in nets])]
            tests = Counter(test for net in nets for test in net.tests).most_common()
            said = ", ".join(f"{test} {count}" for test, count in tests) or "-"
            bands = [_found(nets, band) for band in BANDS]
            yield _line(cue, setting, _yes(way), len(nets), *spans, *bands, said, sum(net.false for net in nets))


def false_alarms(rows: Sequence[Row]) -> Iterator[str]:
    """How many nets without a cue have an accused class."""
    yield from _head(["cue", "digits", "canvas", "pooling", "masks", "nets", "with a false alarm"])
    for way in (True, False):
        nets = [net for net in nets_of(rows, annotated=way) if not CUES[net.key.cue].classes]
        for setting in dict.fromkeys(net.key[:4] for net in nets):
            yield _line(*setting, _yes(way), *_false([net for net in nets if net.key[:4] == setting]))
        if nets:
            yield _line("all", "", "", "", _yes(way), *_false(nets))


def closeness(rows: Sequence[Row]) -> Iterator[str]:
    """How near `kept_other` is to 1 - reliance."""
    yield from _head(["cue", "nets", f"within {NEAR}", "median", "from", "to"])
    every = [net for net in nets_of(rows, annotated=True) if not np.isnan(net.away)]
    for cue in [*CUES, "all"]:
        away = np.array([net.away for net in every if cue in (net.key.cue, "all")])
        if len(away):
            near = int((np.abs(away) <= NEAR).sum())
            spread = (f"{value:+.2f}" for value in (np.median(away), away.min(), away.max()))
            yield _line(cue, len(away), f"{near} ({near / len(away):.0%})", *spread)


def _setting(key: Key) -> str:
    if key.head == "keras":
        return "keras"
    return "first" if (key.places, key.canvas, key.head) == FIRST else "others"


def _found(nets: Sequence[Found], band: tuple[float, float]) -> str:
    found = [net.accused > 0 for net in nets if band[0] < net.reliance <= band[1]]
    return f"{sum(found)} of {len(found)} (at least {at_least(sum(found), len(found)):.0%})" if found else "-"


def _false(nets: Sequence[Found]) -> tuple[int, str]:
    false = sum(net.false > 0 for net in nets)
    return len(nets), f"{false} (at most {at_most(false, len(nets)):.1%})"


def _yes(annotated: bool) -> str:
    return "yes" if annotated else "no"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(titles: Sequence[str]) -> Iterator[str]:
    yield _line(*titles)
    yield _line(*("---" for _ in titles))


def main() -> None:
    """Judges what is not judged yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cues", nargs="+", choices=CUES, default=list(CUES), help="these alone")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES, help="digits at these places alone")
    parser.add_argument("--canvas", nargs="+", choices=CANVASES, default=CANVASES, help="these canvases alone")
    parser.add_argument("--pooling", nargs="+", choices=(*HEADS, "keras"), default=HEADS, help="these nets alone")
    parser.add_argument("--seeds", type=int, help="so many nets of each, in place of what the table needs")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where nets are kept, and shortcut.csv")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--only-print", action="store_true", help="judge nothing")
    arguments: Any = parser.parse_args()
    chosen = arguments.cues, arguments.places, arguments.canvas, arguments.pooling
    wanted = [key for key in keys() if all(part in some for part, some in zip(key, chosen, strict=False))]
    if arguments.seeds:
        wanted = [Key(*some) for some in itertools.product(*chosen, range(arguments.seeds))]
        wanted = [key for key in wanted if key.canvas in CUES[key.cue].canvases]
    path = arguments.folder / "shortcut.csv"
    there = {row.net for row in read(path)}
    missing = [key for key in wanted if str(key) not in there and not arguments.only_print]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        for done, rows in enumerate(pool.map(partial(of_net, folder=arguments.folder), missing), 1):
            write(path, rows)
            accused = ", ".join(f"{row.class_id}: {row.code}" for row in rows if row.accused) or "nothing"
            print(f"{done} of {len(missing)}: {rows[0].net}, {accused}", flush=True)
    names = set(map(str, wanted))
    rows = [row for row in read(path) if row.net in names]
    for table in (detection, false_alarms, closeness):
        print("", *table(rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
