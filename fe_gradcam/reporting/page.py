"""The page as a file: template, style and script put together, and kept from growing too large."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fe_gradcam.files import FilePath, checked_path, write_bytes
from fe_gradcam.reporting.content import Page
from fe_gradcam.reporting.entries import Entry

LARGE = 10_000_000
"""Bytes from which a page is warned of."""

TOO_LARGE = 50_000_000
"""Bytes from which the oldest epochs are left out."""


SPARE = 20
"""One part of so many is left free then, or each later epoch would be rendered twice."""


def render(page: Entry) -> str:
    """The page as text that needs nothing else: no request is made, and its policy forbids all.

    What the user named (classes, files, the title) is escaped: in the template by autoescape, in the data by `tojson`.
    """
    template, css, js, csp = _parts()
    return template.render(page=page, title=page["title"], css=css, js=js, csp=csp)


@cache
def _parts() -> tuple[Template, Markup, Markup, str]:
    """The template, the style, the script, and the policy that allows these two alone."""
    folder = files("fe_gradcam.reporting")
    html, css, js = (folder.joinpath(f"page.{ending}").read_text("utf-8") for ending in ("html", "css", "js"))
    csp = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}"
    return _environment().from_string(html), Markup(css), Markup(js), csp


def write_page(path: FilePath, page: Page) -> int:
    """Writes a page to a file, whole or not at all; one that would be too large lacks its oldest epochs.

    Args:
        path: Must end in ``.html``; missing folders are made.
        page: The page; epochs that are left out are taken from it.

    Returns:
        The size in bytes.

    Raises:
        ArgumentError: The path ends in something else.
    """
    target = checked_path(path, ".html")
    written = render(page.to_dict()).encode("utf-8", "backslashreplace")
    while len(written) > TOO_LARGE and page.thin(len(written) - TOO_LARGE + TOO_LARGE // SPARE):
        written = render(page.to_dict()).encode("utf-8", "backslashreplace")
    write_bytes(target, written)
    return len(written)


def in_megabytes(page: Page, size: int) -> str:
    """As "12.1 MB (pictures 3.2, heat 8.5)"."""
    said = page.to_dict()
    pictures = len(json.dumps(said["pictures"])) + sum(
        len(image["src"] or "") for one in said["datasets"] for image in one["images"]
    )
    columns = [column for one in said["datasets"] for epoch in one["epochs"] for column in epoch["columns"]]
    heat = sum(len(json.dumps(column["heat"])) for column in columns)
    return f"{size / 1e6:.1f} MB (pictures {pictures / 1e6:.1f}, heat {heat / 1e6:.1f})"


def _environment() -> Environment:
    """Jinja with autoescape; JSON in the order in which it was made, and without NaN."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _hash(text: str) -> str:
    """The hash by which a policy allows a style or a script."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'"
