"""Checks all networks of `tests.models.families`, and writes what was seen to docs/networks.md: "make zoo".

    python -m tests.networks [--write] [WORD ...]

Only networks whose library, family or name holds one of the words are run; without words all. Exit code 1: one failed.
"""

from __future__ import annotations

import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from fe_gradcam import CamError, check_model
from tests.models.families import NETWORKS, Network

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"

HEAD = """# Networks that were tried

Each was made with random weights and explained at its default layer, and the heatmap was then worked out again by
other means ([check.md](check.md)). The table is written by `make zoo`; seconds are those of the whole check of two
images on one core, beside other jobs.

| family | network | from | default layer | its map | check | seconds |
| --- | --- | --- | --- | --- | --- | --- |
"""


class Seen(NamedTuple):
    """What was seen of a network."""

    network: Network
    layer: str
    map: str
    said: str
    good: bool
    seconds: float

    def __str__(self) -> str:
        one = self.network
        cells = (one.family, one.name, one.source, f"`{self.layer}`", self.map, self.said, f"{self.seconds:.0f}")
        return f"| {' | '.join(cells)} |"


def looked_at(network: Network) -> Seen:
    """A network, made and checked."""
    start = time.perf_counter()
    layer, size, good = "", "", False
    try:
        check = check_model(network.model(), network.images(), **dict(network.asked))
        layer, size, good = check.layer, " x ".join(map(str, check.map)), check.passed
        failed = [f"{one.name}: {one.said}" for one in check.findings if one.outcome == "failed"]
        without = [one.name for one in check.findings if one.outcome == "not applicable"]
        said = f"FAILED: {'; '.join(failed)}" if failed else f"passed ({len(check.findings) - len(without)} tests)"
    except CamError as error:
        said = f"{type(error).__name__}: {error}"
        good = bool(network.refused) and str(error).startswith(network.refused)
    except Exception as error:
        traceback.print_exc()
        said = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
    return Seen(network, layer, size, said.replace("|", "/").replace("\n", " "), good, time.perf_counter() - start)


def row_of(line: str) -> tuple[str, str]:
    """The name of a network and its library, of a line of the table."""
    _, _, name, source, *_ = (cell.strip() for cell in line.split("|"))
    return name, source


def main(words: list[str]) -> int:
    """Runs all that the words choose."""
    torch.set_num_threads(1)
    write = "--write" in words
    words = [word for word in words if word != "--write"]
    chosen = [one for one in NETWORKS if find_spec({"keras": "tensorflow"}.get(one.source, one.source)) is not None]
    if words:
        chosen = [one for one in chosen if any(word in f"{one.source} {one.family} {one.name}" for word in words)]
    seen = []
    for network in chosen:
        seen.append(looked_at(network))
        print(seen[-1], flush=True)
    bad = [one for one in seen if not one.good]
    print(f"{len(seen)} networks, {len(bad)} failed: {', '.join(one.network.name for one in bad)}")
    if write:
        rows = (
            {row_of(line): line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
            if PAGE.exists()
            else {}
        )
        rows |= {row_of(str(one)): str(one) for one in seen}
        rows = {row: line for row, line in rows.items() if row in {(one.name, one.source) for one in NETWORKS}}
        PAGE.write_text(HEAD + "\n".join(sorted(rows.values(), key=str.lower)) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
