"""Every classifier of `tests.models.zoo`: the default layer, whether its heatmaps are right, what they cost.

The cost is that of `explain` over plain inference of the same batch (see `benchmarks.route`), in interleaved pairs.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.measure import compared
from fe_gradcam import CamError, explain
from tests.models.zoo import BY_NAME, ZOO, Entry, inference, shortfalls


def row(entry: Entry, batch: int, pairs: int) -> str:
    """The layer that was chosen, what fell short or "passes", and the time ratio."""
    images = entry.images(batch)
    try:
        model = entry.make()
        heatmap = explain(model, images)
    except Exception as error:  # what an entry fails with is what the table is to show
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, CamError) and entry.error is not None and re.search(entry.error, str(error)):
            return f"- | passes: {said} | -"
        return f"- | FAILS: {said} | -"
    plain = inference(entry, model, images)
    short = shortfalls(entry, model, images, plain(), heatmap)
    if entry.error is not None:
        short.append("no error was raised")
    ratio = compared(lambda: explain(model, images), plain, pairs=pairs)
    return f"{heatmap.layer} | {'FALLS SHORT: ' + '; '.join(short) if short else 'passes'} | {ratio}"


def main() -> None:
    """Prints a row for each entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of entries; all of them by default")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=9)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    entries = [BY_NAME[name] for name in chosen.names] or list(ZOO)
    print(f"model | framework | layer | heatmaps | explain over plain inference, {chosen.batch} images")
    for entry in entries:
        print(f"{entry.name} | {entry.framework} | {row(entry, chosen.batch, chosen.pairs)}", flush=True)


if __name__ == "__main__":
    main()
