"""What lives longer than a call: every store is known here, and bounded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fe_gradcam
from fe_gradcam import explain
from fe_gradcam.backends.known import Known, Recent, known_of

PACKAGE = Path(fe_gradcam.__file__).parent
STORES = {
    "dict",
    "list",
    "set",
    "OrderedDict",
    "defaultdict",
    "deque",
    "WeakKeyDictionary",
    "WeakSet",
    "WeakValueDictionary",
    "Recent",
}
KNOWN = {
    "backends/known.py: _KNOWN",  # one object for each living model
    "backends/interrupts.py: _ACTIVE",  # one entry for each thread that is held back now
    "backends/pytorch/attention.py: _MODE_OF",  # one entry for each thread that is in attention now
    "backends/known.py: _WAITING",  # one entry for each thread that waits now
    "backends/keras/compiled.py: WATCHED",  # one object for each living model
    "backends/keras/compiled.py: FUNCTIONS",  # for each living model the last few
    "training/claims.py: CLAIMS",  # one claim for each mode of each living trace that writes files
}
"""What modules hold, to be filled later."""


def _called(node: ast.AST | None) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _stores(tree: ast.Module) -> Iterator[str]:
    """The names that a module binds to a store without entries."""
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        empty = isinstance(value, (ast.Dict, ast.List, ast.Set)) and not ast.unparse(value).strip("[]{}")
        if empty or (isinstance(value, ast.Call) and _called(value) in STORES and not value.args):
            yield ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def test_every_store_of_a_module_is_known() -> None:
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    found = {f"{path}: {name}" for path, tree in trees.items() for name in _stores(tree)}
    assert found == KNOWN


def test_every_cache_of_a_function_has_a_bound() -> None:
    bounds, whole = [], set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _called(node) == "lru_cache":
                bounds += [ast.literal_eval(one.value) for one in node.keywords if one.arg == "maxsize"]
                assert len(node.args) == 0
            for one in getattr(node, "decorator_list", ()):
                assert ast.unparse(one) != "lru_cache", path
                if ast.unparse(one) == "cache":
                    whole.add(node.name)
    assert whole == {"_computes_groups", "_of_every_layer", "_parts"}  # one value; one for each Keras; one value
    assert len(bounds) >= 5
    assert 0 < min(bounds) <= max(bounds) <= 4096


def _entries(known: Known) -> dict[str, int]:
    """How many entries each store of a model has, with those inside of them."""
    return {name: _inside(value) for name, value in vars(known).items() if isinstance(value, (dict, Recent))}


def _inside(value: Any) -> int:
    values = list((value._kept if isinstance(value, Recent) else value).values())
    return len(values) + sum(len(getattr(one, "layouts", ())) for one in values)


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


def _weighted(weights: torch.Tensor) -> Any:
    return lambda out: out @ weights


@pytest.mark.parametrize("changed", ["sizes", "callables", "layers", "counts", "dtypes"])
def test_what_is_kept_of_a_model_stops_growing(changed: str) -> None:
    """Calls beyond the first forty, each with something new, add nothing."""
    net = _net()
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for at in range(80):
        images = torch.rand(1 + at if changed == "counts" else 1, 3, 4 + at if changed == "sizes" else 5, 5)
        explain(
            net,
            images.to(dtypes[at % 4]) if changed == "dtypes" else images,
            layer=1 + at % 2 if changed == "layers" else None,
            target=_weighted(torch.rand(3)) if changed == "callables" else 1,
        )
        if at == 39:
            before = _entries(known_of(net))
    assert _entries(known_of(net)) == before
    assert max(before.values()) >= 1
