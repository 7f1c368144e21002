"""The command line: heatmaps of image files, the layers of a model, the methods.

Frameworks, and what imports them, are imported inside the functions that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import click

from fe_gradcam import __version__
from fe_gradcam.command.layers import layer_table
from fe_gradcam.command.messages import plain_errors, plain_warnings
from fe_gradcam.command.options import ModelRequest, Request, parameters_of
from fe_gradcam.command.run import explain_images
from fe_gradcam.loading.models import geometry_of, load_model


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fe-gradcam")
def main() -> None:
    """Heatmaps that show where a trained image classifier looks, for PyTorch and Keras models.

    \b
    fe-gradcam explain   draws heatmaps over image files and writes them, with all numbers
    fe-gradcam layers    lists the layers of a model that can be explained
    fe-gradcam methods   lists the methods with their formulas and papers

    A first run, of a Keras model and of a PyTorch model that the function build() in nets.py returns:

    \b
    fe-gradcam explain model.keras photos/
    fe-gradcam explain nets:build photos/ --weights best.pt --size 224

    Then open fe_gradcam_output/grid.png. "fe-gradcam explain --help" says what else there is.

    Exit codes: 0 all went well; 1 an image could not be read, or a file not be written; 2 wrong usage, or a model that
    cannot be explained so.
    """  # noqa: D301 - click's mark for lines that stay as they are


@main.command(params=parameters_of(Request))
@click.pass_context
def explain(ctx: click.Context, /, **given: Any) -> None:
    """Draw heatmaps over image files.

    MODEL is package.module:factory, a function without arguments that returns a torch.nn.Module or a tf.keras.Model
    (or such a model itself), looked for in the current folder too; or a Keras model's file, .keras, .h5 or .hdf5.
    Loading a model runs its code: use only models that you trust.

    IMAGES are files, and folders, whose image files are taken in the order of their names. Photos are turned as their
    EXIF entry says; transparent places are shown on white; values of 16 bits are divided by 257.

    \b
    Into the folder --output come:
      grid.png                     all images with their heatmaps, 200 at the most: open this first
      results.json                 classes, scores and confidences, which files belong to which image, errors
      {image}.{method}.{class}.png the heatmap over the picture as the model saw it
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
      # a finer map, of two layers
      fe-gradcam explain nets:build photos/ --size 224 --layer layer3 --layer layer4 --fuse mean

    An image that cannot be read is named on stderr and left out; all others are explained.

    Exit codes: 0 all images explained; 1 an image, or every image, could not be read, or a file not be written; 2
    wrong usage, or a model that cannot be explained so.
    """  # noqa: D301
    with plain_errors(), plain_warnings():
        errors = explain_images(Request(**given))
    ctx.exit(1 if errors else 0)


@main.command(params=parameters_of(ModelRequest))
@click.option("--all", "everything", is_flag=True, help="All layers, also those that put out no map. Default: no.")
def layers(everything: bool, **given: Any) -> None:
    """List the layers of a model that can be explained, in the order in which they are computed.

    MODEL is as in "fe-gradcam explain". The columns: index and name, both of which --layer takes; the layer's class;
    the shape of its output for one image, channels first; whether that is a map larger than 1x1; whether it is a
    convolution; whether a ReLU follows the convolution, directly or behind a batch normalisation. An arrow marks the
    layer that is explained by default.

    \b
    Examples:
      fe-gradcam layers model.keras
      fe-gradcam layers nets:build --size 224 --all
    """  # noqa: D301
    with plain_errors(), plain_warnings():
        request = ModelRequest(**given)
        loaded = load_model(request.model, request.weights, request.device)
        for line in layer_table(loaded, geometry_of(loaded, request.size, request.channels), everything):
            click.echo(line)


@main.command()
def methods() -> None:
    """List the methods: name, formula, paper, passes and parameters.

    A is the layer's output and g its gradient, both with channels k and places; the sums are over channels.
    """
    from fe_gradcam.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        taken = [f"{one.name}={one.default}: {one.accepted}" for one in method.parameters.values()]
        for first, line in zip_longest([name], [method.summary, method.paper, method.cost, *taken], fillvalue=""):
            click.echo(f"{first:<{width}}  {line}")


if __name__ == "__main__":
    main(prog_name="fe-gradcam")
