"""The full run: ``python -m tests.fuzzing [--calls 5000] [--only explain] [--seed 0]``; prints how calls ended."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzzing.calls import SECONDS, Tally, fuzz, subjects
from tests.fuzzing.valid import keras_model


def main() -> int:
    """Calls everything; returns 1 if a call ended in something else than a result or one of our errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    asked = parser.parse_args()
    tallies: dict[str, Tally] = {}
    known = [one for one in subjects() if asked.only in (one.name, "")]
    with tempfile.TemporaryDirectory() as folder:
        for one in known:
            began = time.monotonic()
            count = asked.calls if one.name == "explain" else max(1, asked.calls // 17)
            tallies[one.name] = fuzz(one, count, asked.seed, Path(folder), seconds=asked.seconds)
            _say(one.name, tallies[one.name], time.monotonic() - began)
            if one.name == "explain":
                began, net = time.monotonic(), keras_model()
                tallies["explain, Keras"] = fuzz(one, count // 10, asked.seed + 1, Path(folder), net, asked.seconds)
                _say("explain, Keras", tallies["explain, Keras"], time.monotonic() - began)
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    for place, times in Counter(end.partition(" at ")[2].partition(": ")[0] for _, end in faults).most_common():
        print(f"{times:5d} {place}")
    print(f"{len(faults)} of {sum(tally.ends.total() for tally in tallies.values())} calls ended otherwise")
    return 1 if faults else 0


def _say(name: str, tally: Tally, seconds: float) -> None:
    ends = tally.ends
    said = f"{ends['result']:5d} results {ends['refused']:5d} refused {ends['own']:4d} own {ends['fault']:4d} otherwise"
    print(f"{name:24}{ends.total():6d} calls {said} {seconds:6.1f} s", flush=True)
    for call, end in tally.faults:
        print(f"{call}\n    {end}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
