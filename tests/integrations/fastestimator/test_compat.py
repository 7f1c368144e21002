"""FastEstimator on the torch and the Python that are installed, and on those that need other mending."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
from fastestimator.dataset import dataloader
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.model import ModelOp
from fastestimator.summary.system import System
from fastestimator.trace.trace import Trace
from fastestimator.util import traceability_util
from torch.utils.data import DataLoader, Dataset, Sampler

from fe_gradcam.integrations.fastestimator import compat
from tests.models.toys import SmallTorch, small_keras


def batches(shuffle: bool, epochs: int = 2) -> list[list[list[int]]]:
    pipeline = fe.Pipeline(train_data=NumpyDataset({"at": np.arange(13)}), batch_size=4, num_process=0)
    found = []
    for epoch in range(1, epochs + 1):
        with pipeline(mode="train", epoch=epoch, ds_id="", shuffle=shuffle) as loader:
            found.append([batch["at"].tolist() for batch in loader])
    return found


def test_an_epoch_is_every_row_once() -> None:
    compat.apply()
    assert batches(shuffle=False) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]] * 2
    for epoch in batches(shuffle=True):
        assert sorted(at for batch in epoch for at in batch) == list(range(13))


def test_the_untouched_host_needs_it_here() -> None:
    """In a fresh interpreter: what goes wrong without, so that the day it no longer does is seen."""
    program = (
        "import json, fastestimator as fe, numpy as np\n"
        "from fastestimator.dataset.numpy_dataset import NumpyDataset\n"
        "pipeline = fe.Pipeline(train_data=NumpyDataset({'at': np.arange(8)}), batch_size=4, num_process=0)\n"
        "try:\n"
        "    with pipeline(mode='train', epoch=1, ds_id='', shuffle=False) as loader:\n"
        "        print(json.dumps([batch['at'].tolist() for batch in loader]))\n"
        "except TypeError as error:\n"
        "    print(json.dumps(str(error)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    untouched = json.loads(done.stdout.strip().splitlines()[-1])
    needed = bool(compat.apply())
    assert needed == (untouched != [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_applying_twice_changes_nothing_more() -> None:
    first = compat.apply()
    bases, iterate = dataloader.InfiniteSampler.__bases__, dataloader.InfiniteSampler.__iter__
    assert compat.apply() == first
    assert dataloader.InfiniteSampler.__bases__ == bases
    assert dataloader.InfiniteSampler.__iter__ is iterate


@pytest.mark.parametrize(("old_init", "restarts"), [(True, False), (True, True), (False, False), (False, True)])
def test_only_what_is_needed_is_mended(old_init: bool, restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class OlderSampler(Sampler[Any]):
        def __init__(self, data_source: Any = None) -> None: ...

    class NewerSampler(Sampler[Any]):
        def __init__(self) -> None: ...

    base = OlderSampler if old_init else NewerSampler

    class Loaders(base):  # type: ignore[valid-type,misc]
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            return 1

    before = Loaders.__iter__
    monkeypatch.setattr(compat, "InfiniteSampler", Loaders)
    monkeypatch.setattr(compat, "Sampler", base)
    monkeypatch.setattr(compat, "_batches_restart_their_sampler", lambda: restarts)
    expected = ([] if old_init else ["data_source"]) + (["restart"] if restarts else [])
    assert [each for each in compat.apply() if each != "state"] == expected
    assert (Loaders.__bases__ == (base,)) == old_init
    assert (Loaders.__iter__ is before) != restarts


class Counter(Trace):
    """Holds what can be saved, and what cannot."""

    def __init__(self) -> None:
        super().__init__(mode=["train", "eval"])
        self.counts: dict[tuple[str, str], list[np.ndarray]] = {}
        self.unsavable = lambda: None


def small_system(framework: str, source: Any) -> tuple[System, Counter]:
    trace = Counter()
    pipeline = fe.Pipeline(train_data=source, batch_size=2 if isinstance(source, Dataset) else None)
    make = SmallTorch if framework == "torch" else small_keras
    model = fe.build(make, optimizer_fn="adam", model_name="saved")
    system = System(fe.Network([ModelOp(model, "x", "p")]), pipeline, [trace])
    trace.system = system
    return system, trace


def saved_objects(framework: str, source: Any, folder: Path) -> dict[str, Any]:
    import dill

    system, _ = small_system(framework, source)
    system.save_state(str(folder))
    with (folder / "objects.pkl").open("rb") as file:
        objects: dict[str, Any] = dill.load(file)
    return objects


@pytest.mark.parametrize("framework", ["torch", "tf"])
def test_a_state_is_saved_and_restored(framework: str, tmp_path: Path) -> None:
    compat.apply()
    before, trace = small_system(framework, Plain())
    before.epoch_idx = 4
    trace.counts["eval", "day"] = [np.full(3, 7)]
    before.save_state(str(tmp_path))
    assert (tmp_path / "objects.pkl").stat().st_size < 10_000
    after, restored = small_system(framework, Plain())
    kept = restored.unsavable
    after.load_state(str(tmp_path))
    assert after.epoch_idx == 4
    assert restored.counts["eval", "day"][0].tolist() == [7] * 3
    assert restored.system is after
    assert restored.unsavable is kept


class Plain(Dataset[Any]):
    def __init__(self) -> None:
        self.values = np.arange(100)

    def __len__(self) -> int:
        return 100

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"x": self.values[at]}


def keras_source() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices({"x": np.zeros(4)}).batch(2)


@pytest.mark.parametrize("source", [Plain, lambda: DataLoader(Plain()), keras_source])
def test_what_is_saved_is_the_state_and_no_data(source: Any, tmp_path: Path) -> None:
    compat.apply()
    objects = saved_objects("torch", source(), tmp_path)
    assert "counts" in objects["traces"][0]
    assert not {"system", "unsavable"} & set(objects["traces"][0])
    assert "model" not in objects["tops"][0]
    assert not objects["ds"]["train"].get("")


def test_the_untouched_host_cannot_save_here() -> None:
    program = (
        "import pathlib, sys, tempfile; import tests.integrations.fastestimator.test_compat as here\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    try:\n"
        "        print('system' not in here.saved_objects('torch', here.Plain(), pathlib.Path(folder))['traces'][0])\n"
        "    except Exception as error:\n"
        "        print(False)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    works = done.stdout.strip().splitlines()[-1] == "True"
    assert works == ("state" not in compat.apply())


def test_a_copy_has_its_data_whenever_nothing_is_saved(tmp_path: Path) -> None:
    """So that a worker process gets them, too."""
    compat.apply()
    data = Plain()
    saved_objects("torch", data, tmp_path)
    assert np.array_equal(copy.copy(data).values, data.values)


@pytest.mark.parametrize("lacking", [True, False])
def test_saving_is_mended_only_where_it_is_needed(lacking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Systems:
        def save_state(self, save_dir: str) -> str:
            return save_dir

    before = Systems.save_state
    monkeypatch.setattr(compat, "System", Systems)
    monkeypatch.setattr(compat, "_traceable_classes_lack_a_state", lambda: lacking)
    assert ("state" in compat.apply()) == lacking
    assert (Systems.save_state is before) != lacking
    assert ("state" in compat.apply()) == lacking


def test_whether_traceable_classes_lack_a_state_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat._traceable_classes_lack_a_state() == hasattr(object, "__getstate__")

    def traceable() -> Any:
        def with_state(kind: type) -> type:
            kind.__getstate__ = traceability_util.__getstate__  # type: ignore[attr-defined]
            return kind

        return with_state

    monkeypatch.setattr(traceability_util, "traceable", traceable)
    assert not compat._traceable_classes_lack_a_state()
