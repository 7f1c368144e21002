"""The house: who may import whom, which frameworks live where, what an import of the package loads."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fe_gradcam
from tests.mirrors import TESTED_ELSEWHERE

ROOT = Path(fe_gradcam.__file__).parent
TESTS = ROOT.parent / "tests"

EVERYWHERE = {"errors", "types", "parameters", "scaling", "files"}
"""What any room may import; among themselves they make no circle."""

EXPLAINS = {"spec", "methods", "backends", "explaining"}
SHOWS = EXPLAINS | {"metrics", "verdicts", "drawing"}

MAY_IMPORT: dict[str, set[str]] = {
    "spec": set(),
    "methods": set(),
    "backends": {"spec"},
    "explaining": {"spec", "methods", "backends"},
    "metrics": {"spec", "methods", "backends"},
    "verdicts": {"spec", "backends", "explaining", "metrics"},
    "drawing": {"spec", "explaining", "verdicts"},
    "halcon": EXPLAINS,
    "checking": EXPLAINS,
    "loading": {"spec", "backends"},
    "reporting": {"spec", "explaining", "metrics", "verdicts", "drawing"},
    "training": SHOWS | {"reporting"},
    "integrations": SHOWS | {"reporting", "training"},
    "command": SHOWS | {"reporting", "halcon", "loading", "checking"},
}
"""Each room, and the rooms whose modules it may import."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "fastestimator": ("integrations/fastestimator",),
    "plotly": ("integrations/fastestimator",),
    "tensorflow": ("backends/keras", "loading", "integrations"),
    "keras": ("backends/keras", "loading", "integrations"),
    "click": ("command",),
    "jinja2": ("reporting",),
    "markupsafe": ("reporting",),
    "IPython": ("integrations/fastestimator",),
    "filelock": ("training",),
    "tqdm": ("methods",),
    "PIL": ("loading", "drawing", "verdicts"),
    "matplotlib": ("drawing",),
}
"""Each library, and the only places that may import it."""

SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def name_of(path: Path) -> str:
    """As "drawing.grid"; of a folder's own file the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in SOURCES}


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules, and the names taken of each."""
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.append((node.module or "", [alias.name for alias in node.names]))
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a module imports, as "drawing.grid"."""
    found = set()
    for module, names in imports(path):
        if module.partition(".")[0] == "fe_gradcam":
            known = module.removeprefix("fe_gradcam").removeprefix(".")
            below = {f"{known}.{name}".removeprefix(".") for name in names} & set(MODULES)
            found |= below or ({known} if known else set())
    return found


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_its_room_may(name: str) -> None:
    room = name.partition(".")[0]
    assert room in EVERYWHERE or room in MAY_IMPORT, f"{room} is no room: give it a row in MAY_IMPORT"
    allowed = EVERYWHERE | MAY_IMPORT.get(room, set()) | {room}
    assert {other.partition(".")[0] for other in own_imports(MODULES[name])} <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_where_they_belong(name: str) -> None:
    path = MODULES[name].relative_to(ROOT).as_posix()
    for module, _ in imports(MODULES[name]):
        places = ONLY_IN.get(module.partition(".")[0])
        assert places is None or any(path.startswith(f"{place}/") for place in places), f"{name} imports {module}"


def test_no_circle_anywhere() -> None:
    """A folder's own file stands for none of its modules: what registers all methods imports them."""
    graph = {name: own_imports(path) - {name} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


@pytest.mark.parametrize("name", MODULES)
def test_names_with_an_underscore_stay_in_their_folder(name: str) -> None:
    for module, names in imports(MODULES[name]):
        private = [one for one in names if one.startswith("_") and not one.startswith("__")]
        if module.startswith("fe_gradcam") and private:
            assert module.removeprefix("fe_gradcam.").rpartition(".")[0] == name.rpartition(".")[0], (name, private)


def test_no_folder_is_called_as_a_public_function_is() -> None:
    """Once imported, the folder would stand in the function's place."""
    assert not {name.partition(".")[0] for name in MODULES} & set(fe_gradcam.__all__)


def test_no_two_classes_have_one_name_and_no_constant_two_values() -> None:
    classes: dict[str, list[str]] = {}
    constants: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(name)
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id.isupper():
                constants.setdefault(target.id, set()).add(ast.dump(node.value))
    assert not {name: places for name, places in classes.items() if len(places) > 1}
    assert not {name for name, values in constants.items() if len(values) > 1}


def test_classes_stay_small() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                docstring = len((ast.get_docstring(node) or "").splitlines())
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
                assert lines <= 300, f"{name}.{node.name} has {lines} lines beside its docstring"


def test_the_tests_mirror_the_package() -> None:
    folders = {path.parent for path in TESTS.rglob("test_*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders), "pytest would let a folder hide a package"
    for path in TESTS.rglob("test_*.py"):
        room = path.relative_to(TESTS).parts[0]
        mirrors = (ROOT / path.parent.relative_to(TESTS)).is_dir()
        assert mirrors or room == "browser" or room.startswith("test_"), f"{path} mirrors no folder"
    for name, path in MODULES.items():
        own = TESTS / path.relative_to(ROOT).with_name(f"test_{path.name}")
        if path.name != "__init__.py" and not own.exists():
            assert name in TESTED_ELSEWHERE, f"{name} has no {own.relative_to(TESTS.parent)}, and no reason why"
            assert (TESTS / TESTED_ELSEWHERE[name]).exists(), TESTED_ELSEWHERE[name]


def test_no_test_module_imports_another() -> None:
    """What they share stands in files of its own: `tests.trainings`, `tests.models`."""
    for path in TESTS.rglob("*.py"):
        for module, names in imports(path):
            taken = [*module.split("."), *names]
            assert module.partition(".")[0] != "tests" or not any(name.startswith("test_") for name in taken), path


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


def test_checkers_and_editors_see_the_public_names() -> None:
    """Whose imports are written once more, as type checkers read them."""
    found = imports(ROOT / "__init__.py")
    seen = {(module, name) for module, names in found for name in names if name in fe_gradcam._ROOMS}
    lazily = {(f"fe_gradcam.{room}", name) for name, room in fe_gradcam._ROOMS.items()}
    assert lazily == {(module, name) for module, name in seen if module.startswith("fe_gradcam")}


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    return config


def test_one_version() -> None:
    assert setup()["metadata"]["version"] == "attr: fe_gradcam.__version__"
    assert "version" not in (ROOT.parent / "setup.py").read_text()


def versions_in(name: str) -> dict[str, list[str]]:
    """The versions in a file of constraints, of each package one or one for each Python."""
    found: dict[str, list[str]] = {}
    for line in (ROOT.parent / name).read_text().splitlines():
        if not line.startswith("#"):
            package, version = line.partition(";")[0].strip().split("==")
            found.setdefault(package.lower().replace("_", "-"), []).append(version)
    return found


def test_tested_versions_lie_within_the_supported_ranges() -> None:
    tested = versions_in("constraints.txt")
    extras = setup()["options.extras_require"]
    wanted = [setup()["options"]["install_requires"], extras["test"], extras["tutorials"]]
    for line in "\n".join(wanted).split():
        requirement = Requirement(line)
        for version in tested[requirement.name.lower().replace("_", "-")]:  # of each Python
            assert requirement.specifier.contains(version), line


def test_the_lowest_versions_are_those_that_are_supported() -> None:
    lowest = versions_in("constraints-lowest.txt")
    wanted = [
        *setup()["options"]["install_requires"].split("\n"),
        *setup()["options.extras_require"]["keras"].split("\n"),
    ]
    for requirement in map(Requirement, filter(None, wanted)):
        (least,) = [one.version for one in requirement.specifier if one.operator == ">="]
        (version,) = lowest[requirement.name]
        assert f"{version}.".startswith(f"{least}."), requirement
