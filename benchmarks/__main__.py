"""``python -m benchmarks`` runs every benchmark that ends within minutes, and says which it leaves out and why."""

from __future__ import annotations

import argparse
import subprocess
import sys

RUN: dict[str, tuple[str, ...]] = {
    "drawing": (),
    "report": (),
    "route": ("--seconds", "8"),
    "scale": (),
    "zoo": (),
    "leaks": ("--steps", "40", "--epochs", "12"),
    "localisation": (),
    "methods": ("cost", "memory"),
    "shortcut": ("--seeds", "1", "--cues", "clean", "mark", "--canvas", "black"),
}
"""Each benchmark, and what it is asked for."""

LEFT_OUT: dict[str, str] = {
    "methods quality class": "it asks every method about 500 digits; docs/methods.md has the figures",
    "cue_nets --train": "it trains 486 nets, which takes hours without a GPU",
    "cues": "it writes digits and textures into a file, for a machine that has no package with them",
    "shortcut": "it asks 486 nets; docs/verdicts.md has the figures",
    "interrupts": "it interrupts 1,000 calls, which takes a quarter of an hour; docs/limits.md says what waits",
    "peers": "the other packages are in no extra of this one; docs/performance.md has the figures",
    "on_gpu": "it needs a GPU, and says so where there is none",
    "default_layer": "it trains a net for each head, two curves an image; docs/default-layer.md has the figures",
}
"""What --all runs too, and why the others come first."""

NO_BENCHMARK: dict[str, str] = {
    "cue_keras": "a net that it measures on",
    "judged": "what shortcut counts",
    "measure": "what the others measure with",
    "nets": "what they measure on",
    "stack": "many nets of cue_nets at once",
}


def main() -> int:
    """Runs each in a process of its own; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="leave out nothing")
    everything: bool = parser.parse_args().all
    failed = []
    for command in [[name, *more] for name, more in RUN.items()] + [each.split() for each in LEFT_OUT if everything]:
        print(f"--- {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]], check=False).returncode:
            failed.append(command[0])
    if not everything:
        for left_out, why in LEFT_OUT.items():
            print(f"left out: python -m benchmarks.{left_out} ({why})")
    print(f"failed: {', '.join(failed)}" if failed else "all good")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
