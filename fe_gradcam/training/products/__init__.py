"""What is made at the end of an epoch: a new output is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable

from fe_gradcam.training.epoch import Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.products.film import FilmProduct
from fe_gradcam.training.products.grid import GridProduct
from fe_gradcam.training.products.metrics import MetricsProduct
from fe_gradcam.training.products.verdicts import VerdictsProduct

PRODUCTS: list[Callable[[Options], Product | None]] = [
    GridProduct,
    FilmProduct.asked,
    MetricsProduct.asked,
    VerdictsProduct.asked,
]
"""Each makes a product of what is asked for, or None where it is not asked for; they are made in this order."""
