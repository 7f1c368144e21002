"""Changes the package's code, one place at a time, and runs the tests that mirror the changed module.

``python -m tests.mutation PYTHON [--each 36] [--rooms spec ...] [--seed 0] [--at-once 2]``, with the Python that has
what the tests need. Nothing is changed in place: the tests run in copies, in the folder .mutation. What was run stands
there in results.jsonl and is not run again while neither module nor tests have changed, so a run that was stopped goes
on. It ends with 1 if a mutant lives for which survivors.txt has no reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue

from tests.mirrors import mirror
from tests.mutation.mutants import Mutant, drawn
from tests.mutation.survivors import LIST, Survivor, survivors

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".mutation"
RESULTS = WORK / "results.jsonl"
ROOMS = ("spec", "methods", "explaining", "metrics", "verdicts", "backends")
QUICK = ("-m", "not slow", "--hypothesis-profile", "few")
LONGEST = 900.0
"""Seconds after which tests are stopped: the mutant never ends, and is killed."""


@dataclass
class Runner:
    """Runs tests of mutants in copies of the repository.

    Attributes:
        python: The interpreter of the tests.
        copies: The folders that are free.
        sound: By file and form of the tests, whether they pass with the code as it is.
    """

    python: str
    copies: Queue[Path]
    sound: dict[tuple[str, bool], bool] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def passes(self, copy: Path, tests: str, quick: bool) -> bool:
        """Whether a file of the tests passes in a copy; so does one that has no such test."""
        command = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(QUICK if quick else ()), tests]
        own = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        environment = {**os.environ, **own}
        quiet = subprocess.DEVNULL
        with subprocess.Popen(
            command, cwd=copy, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
        ) as process:
            try:
                return process.wait(LONGEST) in (0, 5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return False

    def lives(self, mutant: Mutant) -> bool:
        """Whether all tests of its mirror pass: the quick ones first, then all."""
        copy, tests = self.copies.get(), mirror(mutant.module)
        path = copy / mutant.module
        original = path.read_text("utf-8")
        try:
            for quick in (True, False):
                self._assert_sound(copy, tests, quick)
                path.write_text(mutant.source(original), "utf-8")
                if not self.passes(copy, tests, quick):
                    return False
                path.write_text(original, "utf-8")
            return True
        finally:
            path.write_text(original, "utf-8")
            self.copies.put(copy)

    def _assert_sound(self, copy: Path, tests: str, quick: bool) -> None:
        """Else every mutant would count as killed."""
        if (tests, quick) not in self.sound:
            self.sound[tests, quick] = self.passes(copy, tests, quick)
        assert self.sound[tests, quick], f"{tests} fails with the code as it is"


def state(mutant: Mutant) -> str:
    """A hash of what the outcome depends on: the module, the tests that mirror it, the change."""
    digest = hashlib.sha256(f"{mutant.operator} {mutant.occurrence}".encode())
    for path in (mutant.module, mirror(mutant.module)):
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()


def copied(number: int) -> Path:
    """A copy of all that git knows, as it stands now."""
    target = WORK / str(number)
    shutil.rmtree(target, ignore_errors=True)
    names = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in names.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def main() -> int:
    """Runs what was not run yet, and says what lives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python")
    parser.add_argument("--each", type=int, default=36, help="mutants of each room")
    parser.add_argument("--rooms", nargs="+", default=ROOMS, choices=ROOMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    ended = {one["state"]: one["lives"] for one in known}
    all_drawn = [one for room in asked.rooms for one in drawn(ROOT, room, asked.each, asked.seed)]
    waiting = [one for one in all_drawn if state(one) not in ended]
    print(f"{len(all_drawn)} mutants, {len(waiting)} to run", flush=True)
    runner = Runner(asked.python, Queue())
    for number in range(asked.at_once):
        runner.copies.put(copied(number))

    def run(mutant: Mutant) -> None:
        lives = runner.lives(mutant)
        with runner.lock, RESULTS.open("a") as file:
            ended[state(mutant)] = lives
            file.write(json.dumps({"state": state(mutant), "lives": lives, **asdict(mutant)}) + "\n")
            print(f"{'lives ' if lives else 'killed'} {mutant.module}:{mutant.line} {mutant.operator}", flush=True)

    with ThreadPoolExecutor(asked.at_once) as pool:
        for future in [pool.submit(run, mutant) for mutant in waiting]:
            future.result()
    reasons = {(one.module, one.lines): one.reason for one in survivors(LIST.read_text("utf-8"))}
    unknown, tally = list[Survivor](), Counter[str]()
    for mutant in all_drawn:
        if not ended[state(mutant)]:
            tally["killed"] += 1
            continue
        lines = tuple(mutant.lines((ROOT / mutant.module).read_text("utf-8")))
        tally["live" if (mutant.module, lines) in reasons else "live without a reason"] += 1
        if (mutant.module, lines) not in reasons:
            unknown.append(Survivor(mutant.module, lines, ""))
    print(*(str(one) for one in unknown), sep="\n")
    print(f"of {len(all_drawn)} mutants:", *(f"{count} {what}" for what, count in tally.items()))
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
