"""`python -m benchmarks` knows every module of its folder."""

from __future__ import annotations

from pathlib import Path

import benchmarks
from benchmarks.__main__ import LEFT_OUT, NO_BENCHMARK, RUN


def test_every_benchmark_is_run_or_left_out_with_a_reason() -> None:
    sources = {path.stem: path.read_text() for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py")}
    run = {*RUN, *(command.split()[0] for command in LEFT_OUT)}
    assert run | NO_BENCHMARK.keys() == sources.keys()
    assert run == {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    assert all([*LEFT_OUT.values(), *NO_BENCHMARK.values()])
