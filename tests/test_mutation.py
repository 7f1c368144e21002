"""The list of mutants that live is true of the code as it stands, and can be read."""

from __future__ import annotations

from pathlib import Path

from tests.mirrors import mirror
from tests.mutation.survivors import LIST, Survivor, survivors

ROOT = Path(__file__).parents[1]


def test_what_is_listed_stands_in_the_code_and_says_why() -> None:
    for one in survivors(LIST.read_text("utf-8")):
        lines = (ROOT / one.module).read_text("utf-8").splitlines()
        assert all(line[1:] in lines for line in one.lines if line.startswith("-")), one
        assert len(one.reason) > 20, one


def test_a_list_is_read_as_it_is_written() -> None:
    both = [Survivor("a.py", ("-    x = 1", "+    x = 2"), "Why not."), Survivor("b.py", ("-y", "+", "+z"), "So.")]
    assert survivors("\n".join(map(str, both))) == both


def test_a_module_has_a_file_of_tests() -> None:
    assert mirror("fe_gradcam/metrics/imputation.py") == "tests/metrics/test_imputation.py"
    assert mirror("fe_gradcam/backends/keras/graph.py") == "tests/backends/keras/test_backend.py"
