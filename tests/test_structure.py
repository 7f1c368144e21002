"""The rooms: who may import whom, what an import of the package loads, what the metadata say."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import fe_gradcam

ROOT = Path(fe_gradcam.__file__).parent

# Each room may import those above it in this list, and no other.
ROOMS = [
    "types",
    "names",
    "components",
    "scaling",
    "perturbed",
    "registry",
    "methods",
    "model_methods",
    "catalogue",
    "smoothing",
    "targets",
    "outputs",
    "settings",
    "heat",
    "layers",
    "backends._shared",
    "backends._torch_recorder",
    "backends._torch_scores",
    "backends._torch_state",
    "backends._torch_layers",
    "backends._torch_attention",
    "backends._torch_passes",
    "backends._keras_compiled",
    "backends._keras_graph",
    "backends._keras_layers",
    "backends._keras_scores",
    "backends._keras_attention",
    "backends._keras_passes",
    "backends.pytorch",
    "backends.keras",
    "backends",
    "probe",
    "route",
    "comparison",
    "imputation",
    "metrics",
    "faithfulness",
    "results",
    "operator",
    "render",
    "text",
    "grid",
    "atlas",
    "shortcut",
    "export",
    "compat",
    "display",
    "collect",
    "select",
    "compose",
    "picture",
    "follow",
    "command",
    "command.messages",
    "command.photo",
    "command.models",
    "command.asked",
    "command.run",
    "cli",
    "op",
    "arguments",
    "sources",
    "measures",
    "writer",
    "trace",
]
HOST = {"compat", "display", "op", "sources", "measures", "writer", "trace"}
KERAS_ROOMS = {f"backends._keras_{part}" for part in ("attention", "compiled", "graph", "layers", "passes", "scores")}
KERAS_ROOMS |= {"backends.keras"}
FRAMEWORK = {"tensorflow": KERAS_ROOMS | {"command.models"}}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(node.module or "")
    return found


SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in SOURCES} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=room_of)
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        if name.startswith("fe_gradcam."):
            other = name.removeprefix("fe_gradcam.")
            assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {other}"
        top = name.partition(".")[0]
        if top in ("fastestimator", "plotly"):
            assert room in HOST, f"{room} imports {name}"
        assert top not in FRAMEWORK or room in FRAMEWORK[top], f"{room} imports {name}"


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_framework() -> None:
    loaded = modules_after("import fe_gradcam; dir(fe_gradcam); fe_gradcam.__version__")
    assert not loaded & {"torch", "tensorflow", "fastestimator", "numpy", "cv2", "matplotlib", "plotly"}


def test_the_core_loads_neither_the_host_nor_tensorflow() -> None:
    statement = (
        "import torch, fe_gradcam\n"
        "nn = torch.nn\n"
        "net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))\n"
        "fe_gradcam.explain(net, torch.rand(1, 1, 8, 8))\n"
        "import fe_gradcam.drawing.sheet, fe_gradcam.files"
    )
    loaded = modules_after(statement)
    assert "torch" in loaded
    assert not loaded & {"tensorflow", "fastestimator", "plotly"}


def test_every_public_name_is_there() -> None:
    for name in fe_gradcam.__all__:
        assert getattr(fe_gradcam, name) is not None
        assert name in dir(fe_gradcam)
    with pytest.raises(AttributeError, match="has no attribute 'gradcam'"):
        _ = fe_gradcam.gradcam


def test_one_version() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    assert config["metadata"]["version"] == "attr: fe_gradcam.__version__"
    assert "version" not in (ROOT.parent / "setup.py").read_text()


def test_tested_versions_lie_within_the_supported_ranges() -> None:
    from packaging.requirements import Requirement

    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    tested: dict[str, list[str]] = {}
    for line in (ROOT.parent / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.partition(";")[0].strip().split("==")
            tested.setdefault(name.lower().replace("_", "-"), []).append(version)
    extras = config["options.extras_require"]
    wanted = [config["options"]["install_requires"], extras["test"], extras["tutorials"]]
    for line in "\n".join(wanted).split():
        requirement = Requirement(line)
        for version in tested[requirement.name.lower().replace("_", "-")]:  # of each Python
            assert requirement.specifier.contains(version), line
