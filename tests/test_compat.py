"""FastEstimator on the torch that is installed, and on those that need other mending."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
from fastestimator.dataset import dataloader
from fastestimator.dataset.numpy_dataset import NumpyDataset
from torch.utils.data import Sampler

from fe_gradcam import compat


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
    assert compat.apply() == expected
    assert (Loaders.__bases__ == (base,)) == old_init
    assert (Loaders.__iter__ is before) != restarts
