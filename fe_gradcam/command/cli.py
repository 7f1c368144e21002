"""The command line: heatmaps of image files, the layers of a model, the methods.

Frameworks, and what imports them, are imported inside the functions that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fe_gradcam import __version__
from fe_gradcam.command.layers import layer_table
from fe_gradcam.command.messages import plain_errors, plain_warnings
from fe_gradcam.command.options import MethodOption, model_options, numbers
from fe_gradcam.command.request import Request
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


@main.command()
@model_options
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--recursive", is_flag=True, help="Take the images in folders below the folders too. Default: no.")
@click.option(
    "--fit",
    type=click.Choice(["crop", "stretch"]),
    default="crop",
    show_default=True,
    help="crop: fill the size and cut off what stands out on both sides; stretch: distort.",
)
@click.option(
    "--value-range",
    type=click.Choice(["unit", "byte"]),
    default="unit",
    show_default=True,
    help="Pixels before --mean and --std: unit in [0, 1], byte in [0, 255].",
)
@click.option(
    "--mean",
    callback=numbers,
    default="0",
    show_default=True,
    metavar="X[,X,X]",
    help="Subtracted from the pixels; one number, or one per channel.",
)
@click.option(
    "--std",
    callback=numbers,
    default="1",
    show_default=True,
    metavar="X[,X,X]",
    help="What the pixels are divided by then: (x - mean) / std.",
)
@click.option(
    "--method",
    "methods",
    cls=MethodOption,
    multiple=True,
    default=["grad_cam"],
    show_default=True,
    metavar="NAME",
    help="How the heatmap is made; may be repeated. With parameters: smooth_grad_cam_plus_plus:samples=8,noise=0.1; "
    '"fe-gradcam methods" lists them. Accepted: METHODS.',
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help='The layer that is explained, by name or index; repeated: one heatmap fused of all. "fe-gradcam layers" lists '
    "them. Default: the last that puts out a map.",
)
@click.option(
    "--fuse",
    default="mean",
    show_default=True,
    metavar="[mean|max]",
    help="How the heatmaps of several layers become one.",
)
@click.option(
    "--smooth",
    type=click.Choice(["augment", "eigen"]),
    multiple=True,
    help="augment: the mean over flipped and scaled views of the image; eigen: what the channels of a map share; may "
    "be repeated. Default: neither.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="For the methods that draw random numbers.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="What is explained; may be repeated. An id; a name of --class-names; top3 for the three highest classes; A:B "
    "for a contrast, why A and not B (without A the inferred class, without B its closest rival). Default: the "
    "inferred class.",
)
@click.option(
    "--class-names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the classes: a text file with a name per line, in the order of the ids, or JSON, a list or "
    "{id: name}. Default: the ids.",
)
@click.option(
    "--scaling",
    default="scale_after_relu",
    show_default=True,
    metavar="NAME",
    help="scale_after_relu: the hottest place of each heatmap is 1; scale_before_relu: less than 1 where evidence "
    "against the class is the stronger; none: signed and not scaled.",
)
@click.option("--colormap", default="turbo", show_default=True, metavar="NAME", help="Any colormap of matplotlib.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    metavar="0..1",
    help="How strongly the heat covers the picture.",
)
@click.option(
    "--model-output",
    metavar="NAME",
    help="Of a model with several outputs the one that holds the class scores, by name or position. Default: the "
    "one that plainly does.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    metavar="N",
    help="Images in one pass; of the variants that a method makes of them 32.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="fe_gradcam_output",
    show_default=True,
    help="The folder that is written to; it is made where it is missing.",
)
@click.option("--quiet", is_flag=True, help="No progress bar. Default: one on stderr, in a terminal.")
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
    request = Request(**given)
    with plain_errors(), plain_warnings():
        errors = explain_images(request)
    ctx.exit(1 if errors else 0)


@main.command()
@model_options
@click.option("--all", "everything", is_flag=True, help="All layers, also those that put out no map. Default: no.")
def layers(
    model: str,
    weights: Path | None,
    size: tuple[int, int] | None,
    channels: int | None,
    device: str | None,
    everything: bool,
) -> None:
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
        loaded = load_model(model, weights, device)
        geometry = geometry_of(loaded, size, channels)
        for line in layer_table(loaded, geometry, everything):
            click.echo(line)


@main.command()
def methods() -> None:
    """List the methods: name, formula, paper, passes and parameters.

    A is the layer's output and g its gradient, both with channels k and places; the sums are over channels.
    """
    from fe_gradcam.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        click.echo(f"{name:<{width}}  {method.summary}")
        click.echo(f"{'':<{width}}  {method.paper}")
        click.echo(f"{'':<{width}}  {method.cost}")
        for parameter in method.parameters.values():
            click.echo(f"{'':<{width}}  {parameter.name}={parameter.default}: {parameter.accepted}")


if __name__ == "__main__":
    main(prog_name="fe-gradcam")
