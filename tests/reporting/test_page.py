"""The page as a file: what is hostile stays text, nothing is asked of anywhere, large pages are thinned."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from fe_gradcam import ArgumentError
from fe_gradcam.reporting import page as pages
from fe_gradcam.reporting.content import Page, PageDataset
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.reporting.page import in_megabytes, render, write_page
from tests.reporting.pages import page_in, part

HOSTILE = "</script><img src=x onerror=alert(1)> & 'quoted' \"twice\" {{ 7 * 7 }}"


def page(epochs: int = 1) -> Page:
    dataset = PageDataset()
    for epoch in range(1, epochs + 1):
        dataset.add(part(), epoch, Shown())
    return Page("title", datasets={"": dataset})


def test_what_users_name_stays_text(tmp_path: Path) -> None:
    hostile = page()
    hostile.title, hostile.names = HOSTILE, {0: HOSTILE}
    hostile.datasets[HOSTILE] = hostile.datasets.pop("")
    write_page(tmp_path / "page.html", hostile)
    text = (tmp_path / "page.html").read_text()
    assert "<img" not in text and "49" not in re.findall(r"<title>(.*?)</title>", text)[0]
    said = page_in(tmp_path / "page.html")
    assert (said["title"], said["class_names"], said["datasets"][0]["name"]) == (HOSTILE, {"0": HOSTILE}, HOSTILE)


def test_what_json_does_not_know_is_no_page() -> None:
    """A browser would refuse all of it."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(page().to_dict() | {"alpha": float("nan")})


def test_the_policy_allows_our_style_and_script_alone() -> None:
    text = render(page().to_dict())
    policy = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)[0].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    parts = [*re.findall(r"<style>(.*?)</style>", text, re.S), *re.findall(r"<script>(.*?)</script>", text, re.S)]
    hashes = [f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in parts]
    assert len(parts) == 2 and all(one in policy for one in hashes)
    assert text.count("<script") == 2 and not re.search(r"\bon\w+=|\bsrc=|\bhref=\"http", text.partition("<script")[0])


def test_the_same_page_is_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        write_page(tmp_path / f"{name}.html", page(3))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_that_would_be_too_large_lacks_its_oldest_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_page(tmp_path / "page.html", page(5))
    assert [one["epoch"] for one in page_in(tmp_path / "page.html")["datasets"][0]["epochs"]] == [1, 2, 3, 4, 5]
    for most in (whole - 1, 1):
        monkeypatch.setattr(pages, "TOO_LARGE", most)
        monkeypatch.setattr(pages, "SPARE", whole)  # a few bytes
        assert write_page(tmp_path / "page.html", thinned := page(5)) < whole
        kept = [one["epoch"] for one in page_in(tmp_path / "page.html")["datasets"][0]["epochs"]]
        assert kept == ([2, 3, 4, 5] if most > 1 else [5])
        which = "Epoch 1 was" if most > 1 else "Epochs 1 to 4 were"
        said = f"{which} left out, as the page would have been too large. The curves have all epochs."
        assert page_in(tmp_path / "page.html")["notes"] == [said]
        assert [one["epoch"] for one in thinned.datasets[""].epochs] == kept


def test_a_page_that_is_thinned_has_room_for_some_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_page(tmp_path / "page.html", page(40))
    monkeypatch.setattr(pages, "TOO_LARGE", whole - 1)
    left = write_page(tmp_path / "page.html", page(40))
    epoch = (whole - write_page(tmp_path / "page.html", page(30))) / 10
    assert whole / 20 - epoch < whole - left < whole / 20 + 2 * epoch


def test_the_size_is_said_by_parts() -> None:
    assert in_megabytes(page(), 12_340_000) == "12.3 MB (pictures 0.0, heat 0.0)"


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"does not end in \.html; pass '.*page\.htm\.html'"):
        write_page(tmp_path / "page.htm", page())
