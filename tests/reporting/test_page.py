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
from fe_gradcam.verdicts.verdict import Evidence, Verdict
from tests.reporting.pages import page_in, part, verdict

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


def said_of(found: list[Verdict], epoch: int) -> str:
    """What the page says of verdicts, without its tags."""
    dataset = PageDataset()
    dataset.add(part(), epoch, Shown(), verdicts=found)
    text = render(Page("title", datasets={"": dataset}).to_dict())
    return " ".join(re.sub(r"<[^>]+>", " ", text[text.index('id="verdicts"') : text.index('id="curves"')]).split())


def test_the_page_says_first_how_many_classes_are_accused_and_what_no_class_was_tested_for() -> None:
    place, sign = Evidence("place", "tested", None, "It moves."), Evidence("sign", "not tested", None, "No box.")
    passed = [Verdict.of(class_id, "cat", [place, sign], 9, 3) for class_id in (2, 3)]
    accused = "After epoch 4, of 3 classes, 1 is found to be told by the wrong thing; 2 passed the tests that were run."
    text = said_of([verdict(1, 4), *passed], 4)
    assert accused in text and "No class was tested for" not in text
    text = said_of(passed[:1], 0)
    assert "Of 1 class, none is found to be told by the wrong thing; 1 passed the tests that were run. No class" in text
    assert "No class was tested for: sign. Told" in text
    few = Verdict.of(5, "hen", [Evidence("nothing_local", "not tested", None, "Few.")], 2)
    suspected = Verdict.of(6, "pig", [Evidence("sign", "suspected", "sign", "Alike.")], 9)
    text = said_of([few, suspected, verdict(7), verdict(8)], 1)
    assert "of 4 classes, 2 are found to be told by the wrong thing, 1 more is suspected; none passed" in text
    assert "run, 1 could not be judged. No class was tested for: nothing local." in text


def test_a_verdict_of_an_earlier_epoch_says_so() -> None:
    assert "in epoch" not in said_of([verdict(1, 4)], 4)
    assert "▲ tested in epoch 3" in said_of([verdict(1, 3)], 4)


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
