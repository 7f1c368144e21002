"""What is published, and what is there without FastEstimator and TensorFlow."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import fe_gradcam

ROOT = Path(fe_gradcam.__file__).parent

EXPLAINS = """
import sys, torch, fe_gradcam
net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2))
images = torch.rand(1, 1, 8, 8)
heatmap = fe_gradcam.explain(net, images)
fe_gradcam.draw(images, heatmap).save("heat.png")
fe_gradcam.measure(net, images, heatmap)
fe_gradcam.gen_dl_model_heatmap(net, {"image": images[0]})
print(fe_gradcam.__file__)
"""


def ran(program: str, folder: Path, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    absent = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.modules.update(dict.fromkeys({without!r}))\n"
    command = [sys.executable, "-c", absent + program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, the former made of the latter."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_wheel_and_sdist_hold_all_that_belongs_to_the_package(published: Path) -> None:
    (wheel,), (sdist,) = published.glob("*.whl"), published.glob("*.tar.gz")
    wanted = {path.relative_to(ROOT.parent).as_posix() for path in ROOT.rglob("*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(one for one in names if one.endswith("METADATA"))).decode())
    assert {name for name in names if name.startswith("fe_gradcam/")} == wanted
    assert any(name.endswith("LICENSE") for name in names)
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Author"] == "the fe_gradcam developers"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"keras", "fastestimator"}
    with tarfile.open(sdist) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert wanted | {"LICENSE", "README.md", "setup.cfg", "setup.py"} <= inside


@pytest.mark.slow
def test_twine_accepts_them(published: Path) -> None:
    files = map(str, published.iterdir())
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_explains_where_neither_the_host_nor_tensorflow_is(published: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(published.glob("*.whl"))) as archive:
        archive.extractall(tmp_path)
    done = ran(EXPLAINS, tmp_path, ("fastestimator", "tensorflow", "keras", "plotly", "pandas", "sklearn"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tmp_path))
    assert (tmp_path / "heat.png").stat().st_size > 1000


WITHOUT_HOST = """
import fe_gradcam
from fe_gradcam import *
print(hasattr(fe_gradcam, "GradCAM"), "GradCAM" in dir(fe_gradcam), "explain" in globals(), "GradCAM" in globals())
try:
    from fe_gradcam import LayerGradientOp
except ImportError as error:
    print(isinstance(error, fe_gradcam.CamError), error)
fe_gradcam.GradCAM
"""


@pytest.mark.slow
def test_who_wants_the_trace_without_its_host_is_told_what_to_install(tmp_path: Path) -> None:
    done = ran(WITHOUT_HOST, ROOT.parent, ("fastestimator",))
    there, said = done.stdout.splitlines()
    assert there == "False False True False"
    assert said.startswith("True LayerGradientOp needs FastEstimator")
    install = "pip install 'fe_gradcam[fastestimator]'; then pip install --no-deps fastestimator==1.7.0"
    assert install in said and install in done.stderr
    assert "NoHostError: GradCAM needs" in done.stderr


@pytest.mark.slow
def test_a_part_of_the_host_that_is_missing_is_named(tmp_path: Path) -> None:
    done = ran("from fe_gradcam import GradCAM", ROOT.parent, ("dill",))
    assert "HostError: GradCAM needs FastEstimator, and importing it raised" in done.stderr
    assert "dill" in done.stderr
