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
class Copy:
    """A copy of the repository, and a process that runs tests in it.

    Attributes:
        folder: Where it stands.
        process: What `tests.mutation.served` answers from.
        sound: By file and form of the tests, whether they pass with the code as it is.
    """

    folder: Path
    process: subprocess.Popen[str]
    sound: dict[tuple[str, bool], bool] = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path, python: str) -> Copy:
        """A copy of all that git knows, as it stands now."""
        shutil.rmtree(folder, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for name in names.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        own = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        command = [python, "-m", "tests.mutation.served"]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        environment = {**os.environ, **own}
        return cls(
            folder,
            subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=quiet, text=True),
        )

    def passes(self, tests: str, quick: bool) -> bool:
        """Whether a file of the tests passes; so does one that has no such test."""
        assert self.process.stdin and self.process.stdout
        arguments = ["-x", "-q", "-p", "no:cacheprovider", *(QUICK if quick else ()), tests]
        self.process.stdin.write(json.dumps([arguments, LONGEST]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline()) in (0, 5)

    def lives(self, mutant: Mutant) -> bool:
        """Whether all tests of its mirror pass: the quick ones first, then all."""
        tests, path = mirror(mutant.module), self.folder / mutant.module
        original = path.read_text("utf-8")
        try:
            for quick in (True, False):
                self._assert_sound(tests, quick)
                path.write_text(mutant.source(original), "utf-8")
                if not self.passes(tests, quick):
                    return False
                path.write_text(original, "utf-8")
            return True
        finally:
            path.write_text(original, "utf-8")

    def _assert_sound(self, tests: str, quick: bool) -> None:
        """Else every mutant would count as killed."""
        if (tests, quick) not in self.sound:
            self.sound[tests, quick] = self.passes(tests, quick)
        assert self.sound[tests, quick], f"{tests} fails with the code as it is"


def state(mutant: Mutant) -> str:
    """A hash of what the outcome depends on: the module, the tests that mirror it, the change."""
    digest = hashlib.sha256(f"{mutant.operator} {mutant.occurrence}".encode())
    for path in (mutant.module, mirror(mutant.module)):
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()


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
    states = {one: state(one) for one in all_drawn}  # of the copies that are made now, whatever is changed meanwhile
    waiting = [one for one, its in states.items() if its not in ended]
    print(f"{len(all_drawn)} mutants, {len(waiting)} to run", flush=True)
    lock, copies = threading.Lock(), Queue[Copy]()
    for number in range(min(asked.at_once, len(waiting))):
        copies.put(Copy.made(WORK / str(number), asked.python))

    def run(mutant: Mutant) -> None:
        copy = copies.get()
        try:
            lives = copy.lives(mutant)
        finally:
            copies.put(copy)
        with lock, RESULTS.open("a") as file:
            ended[states[mutant]] = lives
            file.write(json.dumps({"state": states[mutant], "lives": lives, **asdict(mutant)}) + "\n")
            print(f"{'lives ' if lives else 'killed'} {mutant.module}:{mutant.line} {mutant.operator}", flush=True)

    with ThreadPoolExecutor(asked.at_once) as pool:
        for future in [pool.submit(run, mutant) for mutant in waiting]:
            future.result()
    reasons = {(one.module, one.lines): one.reason for one in survivors(LIST.read_text("utf-8"))}
    unknown, tally = list[Survivor](), Counter[str]()
    for mutant in all_drawn:
        if not ended[states[mutant]]:
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
