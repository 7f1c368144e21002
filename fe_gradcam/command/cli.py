"""The command line: heatmaps of image files, the layers of a model, the methods.

Frameworks, and what imports them, are imported inside the functions that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Any

import click

from fe_gradcam import __version__
from fe_gradcam.command.check import check_on_images
from fe_gradcam.command.messages import model_errors, plain_errors, plain_warnings, tell
from fe_gradcam.command.options import CheckRequest, ModelRequest, Request, parameters_of
from fe_gradcam.command.run import explain_images
from fe_gradcam.errors import printable
from fe_gradcam.loading.models import Geometry, Loaded, geometry_of, in_pixels, load_model

if TYPE_CHECKING:
    from fe_gradcam.types import LayerInfo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fe-gradcam")
def main() -> None:
    """Heatmaps that show where a trained image classifier looks, for PyTorch and Keras models.

    \b
    fe-gradcam explain   draws heatmaps over image files and writes them, with all numbers
    fe-gradcam check     tests the heatmaps of a model by other means
    fe-gradcam layers    lists the layers of a model that can be explained
    fe-gradcam methods   lists the methods with their formulas and papers

    A first run, with a Keras model, and with a PyTorch model that the function build() in nets.py returns:

    \b
    fe-gradcam explain model.keras photos/
    fe-gradcam explain nets:build photos/ --weights best.pt --size 224

    Then open fe_gradcam_output/grid.png. "fe-gradcam explain --help" lists all options.

    Exit codes: 0 all went well; 1 an image could not be read, or a file could not be written; 2 wrong usage, or the
    model cannot be explained in this way.
    """  # noqa: D301 - click's mark for lines that stay as they are


@main.command(params=parameters_of(Request))
@click.pass_context
def explain(ctx: click.Context, /, **given: Any) -> None:
    """Draw heatmaps over image files.

    MODEL is package.module:factory, a function without arguments that returns a torch.nn.Module or a tf.keras.Model
    (or such a model itself), also from the current folder; or the file of a Keras model, .keras, .h5 or .hdf5.
    Loading a model runs its code: use only models that you trust.

    IMAGES are files and folders; the image files of a folder are taken in the order of their names. Photos are turned
    as their EXIF entry says; transparent places are shown on white; values of 16 bits are divided by 257.

    \b
    The folder --output then holds:
      grid.png                     all images with their heatmaps, at most 200: open this first
      report.html                  with --report: the same as a page, to filter, sort and open large
      results.json                 classes, scores and confidences, which files belong to which image, errors
      {image}.{method}.{class}.png the picture as the model saw it, the heatmap over it, and what it shows
      {image}.npz                  arrays, with one image on their first axis: {method}.{class}.values (scaled, at
                                   the size of the picture), .raw (at the size of the layer), .scores, ...,
                                   probabilities

    \b
    Examples:
      # a Keras model that takes pixels in [0, 255], for all photos of a folder
      fe-gradcam explain model.keras photos/ --value-range byte --class-names names.txt
      # a PyTorch model trained with torchvision's normalisation; the function build() in nets.py makes it
      fe-gradcam explain nets:build cat.jpg dog.jpg --weights best.pt --size 224 \\
          --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
      # three methods side by side, for the three highest classes
      fe-gradcam explain nets:build photos/ --size 224 \\
          --method grad_cam --method hires_cam --method layer_cam --class top3
      # why a tabby and not an Egyptian cat
      fe-gradcam explain nets:build cat.jpg --size 224 --class 281:285 --class-names imagenet.txt
      # a finer map, made from two layers
      fe-gradcam explain nets:build photos/ --size 224 --layer layer3 --layer layer4 --fuse mean

    An image that cannot be read is named on stderr and left out; all others are explained.

    Exit codes: 0 all images were explained; 1 some or all images could not be read, or a file could not be written; 2
    wrong usage, or the model cannot be explained in this way.
    """  # noqa: D301
    with plain_errors(), plain_warnings():
        errors = explain_images(Request(**given))
    ctx.exit(1 if errors else 0)


@main.command(params=parameters_of(CheckRequest))
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Test the heatmaps of a model by other means than those that make them.

    MODEL is as in "fe-gradcam explain". IMAGES are up to four image files, prepared as there; without them noise is
    taken. The table says of each test whether it passed, failed (with the figures, and what to pass instead) or does
    not apply (and why); docs/check.md describes the tests.

    \b
    Examples:
      fe-gradcam check model.keras cat.jpg dog.jpg --value-range byte
      fe-gradcam check nets:build cat.jpg dog.jpg --weights best.pt --size 224 --layer layer4

    Exit codes: 0 all tests that apply passed; 1 a test failed; 2 wrong usage, or the model cannot be explained in this
    way.
    """  # noqa: D301
    with plain_errors(), plain_warnings():
        passed = check_on_images(CheckRequest(**given))
    ctx.exit(0 if passed else 1)


@main.command(params=parameters_of(ModelRequest))
@click.option("--all", "everything", is_flag=True, help="All layers, also those that put out no map. Default: no.")
def layers(everything: bool, **given: Any) -> None:
    """List the layers of a model that can be explained, in the order in which they are computed.

    MODEL is as in "fe-gradcam explain". The columns: index and name (--layer takes both); the layer's class; the shape
    of its output for one image, channels first; whether the output is a map larger than 1x1; whether the layer is a
    convolution; whether a ReLU follows the convolution, directly or after a batch normalisation. An arrow marks the
    layer that is explained by default.

    \b
    Examples:
      fe-gradcam layers model.keras
      fe-gradcam layers nets:build --size 224 --all
    """  # noqa: D301
    with plain_errors(), plain_warnings():
        request = ModelRequest(**given)
        loaded = load_model(request.model, request.weights, request.device)
        for line in _layer_table(loaded, geometry_of(loaded, request.size, request.channels), everything):
            tell(printable(line))


def _layer_table(loaded: Loaded, geometry: Geometry, everything: bool) -> Iterator[str]:
    """The lines of a table of the layers: only the maps, or all layers."""
    import numpy as np

    from fe_gradcam.explaining.route import list_layers

    sides, channels = geometry.size, geometry.channels
    shape = (1, channels, *sides) if loaded.framework == "torch" else (1, *sides, channels)
    with model_errors(loaded.name, shape):
        infos = list_layers(loaded.model, np.random.default_rng(0).random(shape, np.float32))
    shown = [info for info in infos if info.spatial or everything]
    if not shown:
        raise click.UsageError("no layer of MODEL puts out a map larger than 1x1; --all lists them all.")
    indices = _indices(loaded.model)
    table = [["index", "name", "kind", "output", "map", "convolution", "ReLU behind", ""]]
    table += [[str(indices.get(info.name, "-")), *_cells(info)] for info in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for index, *cells in table:
        rest = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"{index:>{widths[0]}}  {rest}".rstrip()


def _cells(info: LayerInfo) -> list[str]:
    facts = ["yes" if fact else "-" for fact in (info.spatial, info.convolution)]
    relu = "-" if not info.convolution else "yes" if info.relu else "no"
    behind = f", behind its {info.activation}" if info.activation else ""
    arrow = f"<- default{behind}" if info.default else ""
    return [info.name or "(the model)", info.kind, in_pixels(info.shape) or "-", *facts, relu, arrow]


def _indices(model: Any) -> dict[str, int]:
    """The index that --layer takes for each name."""
    from fe_gradcam.backends import backend_for
    from fe_gradcam.errors import UnknownNameError

    backend, indices = backend_for(model), dict[str, int]()
    for index in count():
        try:
            indices.setdefault(backend.resolve(index, None).name, index)
        except UnknownNameError:
            break
    return indices


@main.command()
def methods() -> None:
    """List the methods: name, formula, paper, passes and parameters.

    A is the layer's output and g its gradient, both with channels k and places; the sums are over the channels.
    """
    from fe_gradcam.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        taken = [f"{one.name}={one.default}: {one.accepted}" for one in method.parameters.values()]
        for first, line in zip_longest([name], [method.summary, method.paper, method.cost, *taken], fillvalue=""):
            click.echo(f"{first:<{width}}  {line}")


if __name__ == "__main__":
    main(prog_name="fe-gradcam")
