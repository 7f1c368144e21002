"""What the README and the pages of docs/ say, held against the code: examples, names, tables, options, links."""

from __future__ import annotations

import configparser
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import tensorflow as tf
import torch

import fe_gradcam
from fe_gradcam import METHODS, METRICS, explain, explain_many
from fe_gradcam.command.cli import main
from fe_gradcam.training.products.metrics import FOLLOWED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A piece of code of a page, and the line that it begins in."""

    language: str
    line: int
    text: str


@cache
def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(one[1], text.count("\n", 0, one.start()) + 2, one[2]) for one in found]


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- examples --------------------------------------------------------------------------------------------


def trains_in(text: str) -> bool:
    return "fe.Estimator(" in text


def run(page: Path, these: list[Block]) -> None:
    """One after the other, as a reader types them, with lines that say where an error stands."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for one in these:
        code = compile("\n" * (one.line - 1) + one.text, str(page), "exec")
        exec(code, namespace)


def python_of(page: Path) -> list[Block]:
    return [one for one in blocks(page) if one.language == "python"]


WITH_EXAMPLES = [page for page in PAGES if python_of(page)]
QUICK = [page for page in WITH_EXAMPLES if not all(trains_in(one.text) for one in python_of(page))]
TRAINING = [(page, at) for page in WITH_EXAMPLES for at, one in enumerate(python_of(page)) if trains_in(one.text)]


@pytest.mark.parametrize("page", QUICK, ids=named)
def test_examples_run_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, [one for one in python_of(page) if not trains_in(one.text)])


@pytest.mark.slow
@pytest.mark.parametrize(("page", "at"), TRAINING, ids=lambda one: named(one) if isinstance(one, Path) else str(one))
def test_trainings_run_each_by_itself(page: Path, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And write the file that the page says to open."""
    monkeypatch.chdir(tmp_path)
    run(page, [python_of(page)[at]])
    said = {Path(name) for name in re.findall(r"`(heatmaps/\w+\.png)`", prose(page))}
    assert said and all(path.stat().st_size > 1000 for path in said), sorted(tmp_path.rglob("*"))


def test_the_readme_begins_with_five_lines_that_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = python_of(ROOT / "README.md")[0]
    assert len([line for line in first.text.splitlines() if line]) == 5
    run(ROOT / "README.md", [first])
    assert (tmp_path / "heat.png").stat().st_size > 1000


# --- shell -----------------------------------------------------------------------------------------------


def shell_commands() -> list[tuple[str, str]]:
    """Pages, and the lines of their shell blocks and of code in their prose."""
    found = []
    for page in PAGES:
        texts = [one.text for one in blocks(page) if one.language == "sh"] + re.findall(r"`([^`\n]+)`", prose(page))
        lines = (line.partition("  #")[0].strip() for text in texts for line in text.replace("\\\n", " ").splitlines())
        found += [(named(page), line) for line in lines if line]
    return found


def lines_of(program: str) -> list[tuple[str, list[str]]]:
    split = ((page, line.split()) for page, line in shell_commands())
    return [(page, words[1:]) for page, words in split if words[0] == program]


def test_commands_and_options_exist() -> None:
    written = lines_of("fe-gradcam")
    assert len(written) > 5
    for page, words in written:
        name = words[0] if words and not words[0].startswith("-") else ""
        assert not name or name in main.commands, (page, words)
        command: click.Command = main.commands[name] if name else main
        known = {option for one in command.params for option in one.opts} | {"--help", "--version"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, (page, words)


def test_options_named_in_the_prose_exist() -> None:
    known = {option for command in main.commands.values() for one in command.params for option in one.opts}
    known |= {"--help", "--version"}
    for page, line in shell_commands():
        if page == "docs/command-line.md" and line.startswith("--"):
            assert line.split()[0] in known, line


def test_every_option_is_on_the_page_of_the_command_line() -> None:
    text = (DOCS / "command-line.md").read_text()
    for command in main.commands.values():
        for one in command.params:
            for option in one.opts:
                assert not option.startswith("--") or f"`{option}" in text, option


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w$()./-]+(?: [\w-]+)*):", makefile, re.M))
    targets = {one for group in targets for one in group.split()}
    for page, words in lines_of("make"):
        assert all("=" in word or word in targets for word in words), (page, words)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for _, line in shell_commands():
        for extra in re.findall(r"(?:\.|fe_gradcam)\[(\w+)\]", line):
            assert extra in config["options.extras_require"]


def test_programs_exist() -> None:
    for page, line in shell_commands():
        for module in re.findall(r"^python -m ([\w.]+)", line):
            assert find_spec(module), (page, line)


# --- links -----------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As the headings of a page are linked to: small letters, no signs, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)\"", prose(page)):
        link = target[0] or target[1]
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), link
            assert not anchor or anchor in anchors(other), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:fe_gradcam|benchmarks|tutorials|tests|docs)/[\w./]*)`", prose(page)):
        assert (ROOT / name).exists(), name


def test_every_page_stands_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    listed = re.findall(r"^\| \[[^]]+\]\((\w[\w-]*\.md)\) \| .+ \|$", index, re.M)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md") if page.name != "README.md")


def test_a_package_page_shows_no_relative_picture_or_link() -> None:
    """Which would lead nowhere there; what setup() is given, setup.cfg must not overwrite."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "long_description" not in config["metadata"]
    program = (
        "from distutils.core import run_setup\n"
        "print(run_setup('setup.py', stop_after='init').metadata.long_description)"
    )
    command = [sys.executable, "-W", "ignore", "-c", f"import setuptools\n{program}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "<img" not in shown and "![" not in shown
    assert re.findall(r"\]\((?!https?:)", shown) == []
    assert shown.startswith("# fe_gradcam") and "GradCAM(images=" in shown and "limits" in shown


# --- names and tables ------------------------------------------------------------------------------------


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the table whose first column has that heading; a bar within a cell is written with a backslash."""
    rows = re.search(rf"^\| {first} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", page.read_text(), re.M)
    assert rows, first
    split = (re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in rows[1].splitlines())
    return [[cell.strip() for cell in cells] for cells in split]


def test_the_reference_has_every_public_name_once() -> None:
    found = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference.md").read_text(), re.M)
    assert sorted(found) == sorted(fe_gradcam.__all__)


def arxiv(text: str) -> set[str]:
    return set(re.findall(r"arXiv:[\d.]+\d|doi:\S+\d", text))


def test_the_table_of_methods_is_the_registry() -> None:
    rows = table(DOCS / "methods.md", "method \\| signed map")
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    for name, _, parameters, source in rows:
        method = METHODS[name.strip("`")]
        said = ", ".join(f"`{one.name}={one.default}`" for one in method.parameters.values())
        assert parameters == said, name
        assert arxiv(source) == arxiv(method.paper), name


def test_each_method_has_its_section_with_cost_and_parameters() -> None:
    sections = re.split(r"^### `(\w+)`\n", (DOCS / "methods.md").read_text(), flags=re.M)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(found) == set(METHODS)
    for name, method in METHODS.items():
        section = found[name].partition("\n## ")[0]
        head = " ".join(section.partition("\n\n")[0].split())
        assert f" {method.cost} " in head.replace("`", "").replace(" · ", " "), name
        taken = re.findall(r"^\| `(\w+)` \| (\S+) \| ([^|]+) \|", section, re.M)
        assert taken == [(one.name, str(one.default), one.accepted) for one in method.parameters.values()], name
        assert arxiv(head) == arxiv(method.paper), name


def test_the_table_of_costs_has_every_method() -> None:
    rows = table(DOCS / "methods.md", "method \\| passes")
    assert [(row[0].strip("`"), row[1]) for row in rows] == [(name, method.cost) for name, method in METHODS.items()]


NEEDED = {"model": "model", "place": "`masks=` or `boxes=`", "again": "model, `again=`"}


def test_the_table_of_metrics_is_the_registry() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table(DOCS / "metrics.md", "metric \\| value of an image")}
    assert list(rows) == [*METRICS, *FOLLOWED]
    for name, metric in METRICS.items():
        _, better, parameters, needs, source = rows[name]
        assert better.endswith(f"**{metric.better}**"), name
        said = ", ".join(f"`{one.name}={one.default!r}`" for one in metric.parameters.values())
        assert parameters == said, name
        assert needs == NEEDED[metric.needs], name
        assert arxiv(source) == arxiv(metric.paper), name


def test_the_pages_name_no_method_or_metric_that_is_none() -> None:
    names = {*METHODS, *METRICS, *FOLLOWED}
    asked = re.compile(r"\bmethods?=(\[[^]]*\]|\"\w+\")|\bmetrics=(\[[^]]*\]|\"\w+\")")
    for page in PAGES:
        for found in asked.findall(page.read_text()):
            text = "".join(found)
            assert set(re.findall(r'"([a-z]\w+)"(?!:)', text)) <= names | {"minus"}, (page.name, text)


def test_arguments_of_the_trace_are_on_its_page() -> None:
    text = (DOCS / "in-a-training.md").read_text()
    tables = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    taken = inspect.signature(fe_gradcam.GradCAM.__init__).parameters
    assert taken["n_samples"].default == 5 and "five, unless `n_samples=`" in text
    assert set(taken) - {"self"} <= set(re.findall(r"`(\w+)=?`", tables))


# --- the page of error messages --------------------------------------------------------------------------

KNOWN = DOCS / "what-you-no-longer-have-to-know.md"
nn = torch.nn


def small(*, inplace: bool = False, softmax: float = 0.0) -> Any:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    if softmax:
        layers[-1].weight.data *= softmax
        layers.append(nn.Softmax(1))
    return nn.Sequential(*layers)


def hooked(model: Any, images: Any, times: int = 1) -> Any:
    """Grad-CAM as it is written by hand: gradients at the first layer."""
    found: list[Any] = []
    handle = model[0].register_full_backward_hook(lambda module, inward, outward: found.append(outward[0]))
    try:
        score = model(images)[:, 0].sum()
        for _ in range(times):
            score.backward()
    finally:
        handle.remove()
    return found


def frozen() -> Any:
    model = small()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def without_gradients(model: Any, images: Any) -> Any:
    with torch.no_grad():
        return hooked(model, images)


BY_HAND: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "element 0 of tensors does not require grad and does not have a grad_fn": (frozen, hooked),
    "element 0 of tensors does not require grad": (small, without_gradients),
    "Trying to backward through the graph a second time": (small, lambda model, x: hooked(model, x, times=2)),
    "is a view and is being modified inplace": (lambda: small(inplace=True), hooked),
}
"""Messages that the page quotes: a model, and what is done with it by hand that raises it."""


@pytest.mark.parametrize("message", BY_HAND)
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_what_fails_by_hand_is_explained(message: str) -> None:
    assert message in KNOWN.read_text()
    make, by_hand = BY_HAND[message]
    model, images = make(), torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=re.escape(message)):
        by_hand(model, images)
    twice = explain_many(model, images, layers=["0", None], targets=[0, 1])
    assert np.isfinite([one.raw for one in twice[2:]]).all() and any(not one.blank.all() for one in twice)


class SpoilsItself(nn.Module):
    """Changes in place what its own backward pass needs: nobody can train it either."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, images: Any) -> Any:
        maps = self.conv(images).sigmoid()
        maps += 1
        return self.last(maps.mean((2, 3)))


def test_a_model_that_spoils_its_own_backward_pass_is_explained() -> None:
    message = "one of the variables needed for gradient computation has been modified by an inplace operation"
    assert message in KNOWN.read_text()
    images = torch.rand(2, 3, 12, 12)
    with pytest.raises(RuntimeError, match=message):
        SpoilsItself()(images).sum().backward()
    assert explain(SpoilsItself(), images).values.shape == (2, 12, 12)


def test_a_confident_softmax_has_no_gradient_and_is_explained() -> None:
    model, images = small(softmax=1e5), torch.rand(2, 3, 12, 12)
    images.requires_grad_()
    best = model(images).max(1).values
    (gradient,) = torch.autograd.grad(best.sum(), images)
    assert (gradient == 0).all()
    assert np.abs(explain(model, images.detach()).raw).max() > 1


def keras_pair() -> tuple[Any, Any]:
    """A model inside a model, and its last convolution."""
    of = tf.keras.layers
    base = tf.keras.Sequential([of.Conv2D(8, 3, activation="relu", name="last", input_shape=(12, 12, 3))])
    return tf.keras.Sequential([base, of.GlobalAveragePooling2D(), of.Dense(5)]), base.get_layer("last")


def test_a_keras_model_inside_another_is_explained() -> None:
    outer, last = keras_pair()
    images = np.random.default_rng(0).random((2, 12, 12, 3), np.float32)
    outer(images)
    assert "Graph disconnected" in KNOWN.read_text()
    with pytest.raises(ValueError, match="Graph disconnected"):
        tf.keras.Model(outer.inputs, [last.output, outer.output])
    assert explain(outer, images, target=1).values.shape == (2, 12, 12)
    assert explain(outer, images, layer="last").layer == "last"


class Subclassed(tf.keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        of = tf.keras.layers
        self.conv, self.pool, self.last = of.Conv2D(8, 3), of.GlobalAveragePooling2D(), of.Dense(5)

    def call(self, images: Any) -> Any:
        return self.last(self.pool(self.conv(images)))


def test_a_subclassed_keras_model_is_explained() -> None:
    model, images = Subclassed(), np.random.default_rng(0).random((2, 12, 12, 3), np.float32)
    model(images)
    assert "has no inbound nodes" in KNOWN.read_text()
    with pytest.raises(AttributeError, match="has no inbound nodes"):
        _ = model.conv.output
    assert explain(model, images, target=1).values.shape == (2, 12, 12)


def test_keras_gradients_that_are_none() -> None:
    outer, last = keras_pair()
    images = np.random.default_rng(0).random((2, 12, 12, 3), np.float32)
    maps = last(images)
    with tf.GradientTape() as tape:
        score = outer(images)[:, 0]
    gradients = tape.gradient(score, maps)
    assert gradients is None
    message = "Attempt to convert a value (None) with an unsupported type"
    assert message in KNOWN.read_text()
    with pytest.raises(ValueError, match=re.escape(message)):
        tf.reduce_mean(gradients, axis=(1, 2))
    assert not explain(outer, images).blank.all()
