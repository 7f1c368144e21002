"""Runs the notebooks of this folder, each in a fresh kernel, and checks what they keep.

``python -m tutorials.run`` runs copies below demo_output/ and leaves the notebooks as they are; with ``--write`` the
outputs are stored in them. The kernel is the Python that runs this, whatever Jupyter the machine may have.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

FOLDER = Path(__file__).resolve().parent
"""Where the notebooks lie, and the modules that they import."""

SCRATCH = Path("demo_output") / "notebooks"
"""Where copies run, and where what the notebooks save is put."""

MOST_BYTES = 2**20
"""Of a notebook with its outputs."""

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 76]
"""How pictures are stored: as PNG the photos would make a notebook too large."""

SECONDS_A_CELL = 900
"""After which a cell counts as hanging; the machine may be busy."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": NATIVE_KERNEL_NAME},
    "language_info": {"name": "python"},
}
"""All that a notebook says about where it ran."""

ABSOLUTE_PATH = re.compile(
    r"""(?:^|(?<=[\s"'`(=\[,<>]))(?:file://|/[A-Za-z.~][\w.~-]*/|[A-Za-z]:\\)[^\s"'`<>)]*""", re.MULTILINE
)

OF_TENSORFLOW = re.compile(r"WARNING: All log messages before absl|[IW]0000 ")
"""Beginnings of lines in which it tells of the machine."""

DURATION = re.compile(r"\b(?:second|minute)s?\b")


# --- checks ------------------------------------------------------------------------------------------------------


def texts_of(cell: Any) -> Iterator[tuple[str, str]]:
    """Where a cell has text, and the text: its source, and all of its outputs but the pictures."""
    yield "source", cell.source
    for output in cell.get("outputs", ()):
        for text in (output.get("text"), *output.get("traceback", ())):
            if text:
                yield "output", text
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/") or kind.endswith("svg+xml"):
                yield "output", content


def faults_of(path: Path) -> list[str]:
    """What a notebook as it is stored lacks, each fault in one line."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    first = notebook.cells[0] if notebook.cells else None
    opening = "" if first is None or first.cell_type != "markdown" else "\n".join(first.source.splitlines()[:8])
    if not opening.startswith("# ") or not DURATION.search(opening):
        found.append("the first cell is no text with a title that says in its first lines how long the notebook runs")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)) or not any(
        cell.outputs for cell in code
    ):
        found.append("its outputs are not those of one run from top to bottom")
    for at, cell in enumerate(notebook.cells):
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            found.append(f"cell {at} ended with an error")
        for place, text in texts_of(cell):
            found += [f"cell {at} has an absolute path in its {place}: {m[0]}" for m in ABSOLUTE_PATH.finditer(text)]
    if notebook.metadata != METADATA:
        found.append(f"its metadata are not the plain ones: {dict(notebook.metadata)}")
    if any(cell.metadata for cell in notebook.cells):
        found.append("cells have metadata")
    size = path.stat().st_size
    if size >= MOST_BYTES:
        found.append(f"it has {size:,} bytes; at most {MOST_BYTES:,} are accepted: show smaller pictures, or JPEG")
    return found


# --- running -----------------------------------------------------------------------------------------------------


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs this as a kernel, whatever kernels Jupyter has been told of."""

    def _kernel_spec_manager_default(self) -> Any:
        # Without folders to look in, the kernel that is left is the one of ipykernel here.
        return KernelSpecManager(kernel_dirs=[])


def executed(source: Path) -> Any:
    """The notebook with the outputs of a run in a fresh kernel.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
    shutil.rmtree(SCRATCH / "notebook_output", ignore_errors=True)  # what an earlier run saved must not stand in
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as private:
        client = NotebookClient(
            notebook,
            kernel_name=NATIVE_KERNEL_NAME,
            kernel_manager_class=ThisPython,
            timeout=SECONDS_A_CELL,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(SCRATCH)}},
        )
        client.execute(env=kernel_environment(private))
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [kept for kept in map(small, cell.outputs) if kept.get("text") != ""]
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def small(output: Any) -> Any:
    """An output as it is stored: pictures as JPEG where that is smaller, no word of TensorFlow on the machine."""
    if "image/png" in output.get("data", {}):
        png = base64.b64decode(output.data["image/png"])
        picture = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
        encoded = cv2.imencode(".jpg", picture, JPEG)[1].tobytes()
        if len(encoded) < len(png):
            del output.data["image/png"]
            output.data["image/jpeg"] = base64.b64encode(encoded).decode()
            output.metadata.pop("image/png", None)
    if output.get("name") == "stderr":
        output.text = "".join(line for line in output.text.splitlines(True) if not OF_TENSORFLOW.match(line))
    return output


def kernel_environment(private: str) -> dict[str, str]:
    """The variables of a kernel that finds this project, and nothing that a user set up for IPython."""
    paths = [str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    variables = {
        # One thread: on a busy machine two wait for each other, and steps of small networks take seven times as long.
        "OMP_NUM_THREADS": "1",
        "FE_NUM_THREADS": "1",  # without it the host takes all cores
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore:pkg_resources is deprecated",
        "IPYTHONDIR": private,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    variables.pop("MPLBACKEND", None)  # pictures belong into the notebook
    return variables


def stored(notebook: Any, path: Path) -> None:
    """Writes a notebook, whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    nbformat.write(notebook, beside)
    beside.replace(path)


def main() -> int:
    """Checks and runs the notebooks, and says how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of file names, such as t02; default: all")
    parser.add_argument("--write", action="store_true", help="store the outputs in the notebooks")
    parser.add_argument("--check", action="store_true", help="run nothing, check what is stored")
    given = parser.parse_args()
    wanted: tuple[str, ...] = tuple(given.names) or ("t",)
    notebooks = sorted(path for path in FOLDER.glob("t*.ipynb") if path.name.startswith(wanted))
    failed = 0
    for path in notebooks:
        faults = [] if given.write else faults_of(path)
        started = time.perf_counter()
        if not given.check:
            print(f"{path.name} ...", flush=True)
            try:
                notebook = executed(path)
            except (CellControlSignal, DeadKernelError) as error:
                faults.append(str(error))
            else:
                place = path if given.write else SCRATCH / path.name
                stored(notebook, place)
                faults += [fault for fault in faults_of(place) if fault not in faults]
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, {'FAILED' if faults else 'good'}", flush=True)
        for fault in faults:
            print(f"  {fault}", flush=True)
        failed += bool(faults)
    print(f"{len(notebooks) - failed} passed, {failed} failed")
    return int(failed > 0 or not notebooks)


if __name__ == "__main__":
    sys.exit(main())
