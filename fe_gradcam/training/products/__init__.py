"""The products of an epoch: a new product is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable

from fe_gradcam.training.epoch import Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.products.film import FilmProduct
from fe_gradcam.training.products.grid import GridProduct
from fe_gradcam.training.products.metrics import MetricsProduct
from fe_gradcam.training.products.report import ReportProduct
from fe_gradcam.training.products.verdicts import VerdictsProduct

PRODUCTS: list[Callable[[Options], Product]] = [
    GridProduct,
    FilmProduct,
    MetricsProduct,
    VerdictsProduct,
    ReportProduct,  # the last, as it shows what the others found
]
"""The products in the order in which they are made; one without keys is not made."""
