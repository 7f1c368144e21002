"""Explaining in other processes: TensorFlow in a fork is an error at once, and all others have the same heat."""

from __future__ import annotations

import pytest
import torch

from fe_gradcam import UnsupportedModelError, explain
from fe_gradcam.backends.keras.forked import Forks
from tests.models.toys import keras_toy, torch_toy
from tests.trainings import printed

POOL = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from fe_gradcam import UnsupportedModelError
from tests.working import heat_of

framework, how, used = sys.argv[1:]
here = heat_of(framework) if used == "used" else None
try:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(how)) as pool:
        there = pool.submit(heat_of, framework).result(timeout=400)
    print(json.dumps({"same": there == (here or heat_of(framework))}))
except UnsupportedModelError as error:
    print(json.dumps({"error": str(error)}))
"""

LOADER = """
import json, sys
import numpy as np
from torch.utils.data import DataLoader
from tests.working import Explaining, heat_of

how = sys.argv[1]
here = np.array(heat_of("torch"), np.float32)
loader = DataLoader(Explaining("torch"), num_workers=1, multiprocessing_context=how, batch_size=None, timeout=400)
print(json.dumps([bool((np.asarray(found) == here).all()) for found in loader]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "how", "used"),
    [("torch", "spawn", "used"), ("torch", "fork", "used"), ("tf", "spawn", "used"), ("tf", "fork", "fresh")],
)
def test_another_process_finds_the_same_heat(framework: str, how: str, used: str) -> None:
    assert printed(POOL, framework, how, used) == {"same": True}


@pytest.mark.slow
def test_where_tensorflow_would_wait_for_ever_an_error_says_what_to_do() -> None:
    assert "multiprocessing.get_context('spawn')" in printed(POOL, "tf", "fork", "used")["error"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_a_worker_that_loads_data_may_explain(how: str) -> None:
    assert printed(LOADER, how) == [True, True]


def test_only_a_process_that_was_forked_after_its_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forks, "after_use", Forks.after_use)  # put back in the end
    keras, torch_model = keras_toy("pooled"), torch_toy("pooled")
    explain(*keras[:2])
    Forks.look()  # as in a child: TensorFlow was used here
    with pytest.raises(UnsupportedModelError, match="TensorFlow was used before this process was forked"):
        explain(*keras[:2])
    assert explain(torch_model[0], torch.from_numpy(torch_model[1])).values.any()
