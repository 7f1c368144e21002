"""Runs files of tests in children of one process, which has imported the frameworks once.

Each line of the input is a list of pytest's arguments and the seconds after which it is stopped, as JSON; each line of
the output the exit status, or null where it was stopped. The frameworks have done nothing but been imported, so a child
finds them as new; the package and the tests are imported by the child alone.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time

FRAMEWORKS = ("torch", "tensorflow", "scipy.ndimage", "scipy.stats", "matplotlib.pyplot", "cv2", "hypothesis", "pytest")


def run(arguments: list[str], seconds: float) -> int | None:
    """The exit status of pytest in a child, or None if it had to be stopped."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        import pytest

        os._exit(pytest.main(arguments))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    """Answers line by line, until the input ends."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in FRAMEWORKS:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), file=said, flush=True)


if __name__ == "__main__":
    main()
