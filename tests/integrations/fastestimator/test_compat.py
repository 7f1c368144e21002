"""FastEstimator on the torch and the Python that are installed, and on those that need other mending."""

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import dill
import fastestimator as fe
import numpy as np
import pytest
import tensorflow as tf
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


IN_ORDER = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]


def test_an_epoch_is_every_row_once() -> None:
    compat.apply()
    assert batches(shuffle=False) == [IN_ORDER] * 2
    for epoch in batches(shuffle=True):
        assert sorted(at for batch in epoch for at in batch) == list(range(13))


def untouched(folder: str) -> dict[str, bool]:
    """What works in the host as it is."""
    works = {"batches": False, "state": False}
    with suppress(TypeError):
        works["batches"] = batches(shuffle=False) == [IN_ORDER] * 2
    with suppress(Exception):
        works["state"] = "system" not in saved_objects(Plain(), Path(folder))["traces"][0]
    return works


@pytest.mark.slow
def test_the_untouched_host_needs_what_is_mended(tmp_path: Path) -> None:
    """So that the day it no longer does is seen."""
    from tests.trainings import in_another_process  # it imports the trace, which mends the host

    works, mended = in_another_process(untouched, tmp_path), compat.apply()
    assert works["batches"] == (not {"data_source", "restart"} & set(mended))
    assert works["state"] == ("state" not in mended)


MENDED = ["data_source", "restart", "state"]


@pytest.mark.parametrize("needed", [list(some) for count in range(4) for some in combinations(MENDED, count)], ids=str)
def test_only_what_is_needed_is_mended_and_once(needed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class OlderSampler(Sampler[Any]):
        def __init__(self, data_source: Any = None) -> None: ...

    class NewerSampler(Sampler[Any]):
        def __init__(self) -> None: ...

    base = NewerSampler if "data_source" in needed else OlderSampler

    class Loaders(base):  # type: ignore[valid-type,misc]
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            return 1

    class Systems:
        def save_state(self, save_dir: str) -> str:
            return save_dir

    def parts() -> list[Any]:
        return [Loaders.__bases__, Loaders.__iter__, Systems.save_state]

    monkeypatch.setattr(compat, "InfiniteSampler", Loaders)
    monkeypatch.setattr(compat, "Sampler", base)
    monkeypatch.setattr(compat, "System", Systems)
    monkeypatch.setattr(compat, "_batches_restart_their_sampler", lambda: "restart" in needed)
    monkeypatch.setattr(compat, "_traceable_classes_lack_a_state", lambda: "state" in needed)
    before = parts()
    assert compat.apply() == needed
    after = parts()
    assert [name for name, was, now in zip(MENDED, before, after, strict=True) if was != now] == needed
    assert compat.apply() == needed
    assert parts() == after


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


def saved_objects(source: Any, folder: Path) -> dict[str, Any]:
    system, _ = small_system("torch", source)
    system.save_state(str(folder))
    with (folder / "objects.pkl").open("rb") as file:
        objects: dict[str, Any] = dill.load(file)
    return objects


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


@pytest.mark.parametrize(
    "source",
    [Plain, lambda: DataLoader(Plain()), lambda: tf.data.Dataset.from_tensor_slices({"x": np.zeros(4)}).batch(2)],
)
def test_what_is_saved_is_the_state_and_no_data(source: Any, tmp_path: Path) -> None:
    compat.apply()
    objects = saved_objects(source(), tmp_path)
    assert "counts" in objects["traces"][0]
    assert not {"system", "unsavable"} & set(objects["traces"][0])
    assert "model" not in objects["tops"][0]
    assert not objects["ds"]["train"].get("")


def test_a_copy_has_its_data_whenever_nothing_is_saved(tmp_path: Path) -> None:
    """So that a worker process gets them, too."""
    compat.apply()
    data = Plain()
    saved_objects(data, tmp_path)
    assert np.array_equal(copy.copy(data).values, data.values)


def test_whether_traceable_classes_lack_a_state_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat._traceable_classes_lack_a_state() == hasattr(object, "__getstate__")
    own = {"__getstate__": traceability_util.__getstate__}
    monkeypatch.setattr(traceability_util, "traceable", lambda: lambda kind: type("Stated", (kind,), own))
    assert not compat._traceable_classes_lack_a_state()
