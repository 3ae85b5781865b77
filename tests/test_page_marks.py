"""Generated text between the marks of a page: nothing around it changes, and a page without its marks is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina.page_marks import put_between, split_at_marks, write_between

PAGE = """before
<!-- one: begin, written by `make one` -->

old

<!-- one: end -->
<!-- one more: begin -->
<!-- one more: end -->
after
"""


def test_what_stands_around_stays() -> None:
    new = put_between(PAGE, "one", "\nfirst\n\nsecond\n")
    assert new == PAGE.replace("old", "first\n\nsecond")
    assert put_between(new, "one", "old") == PAGE
    assert "".join(split_at_marks(PAGE, "one more")) == PAGE


def test_a_file_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    write_between(page, "one", "ação")
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "ação")


@pytest.mark.parametrize(
    "page",
    [
        "no marks",
        "<!-- x: begin --> all that follows would be lost",
        "<!-- x: end --> <!-- x: begin -->",
        "<!-- x: begin --> <!-- x: end --> <!-- x: begin --> <!-- x: end -->",
        "<!-- x: beginning --> <!-- x: end -->",
    ],
)
def test_a_page_without_its_marks_is_refused(page: str, tmp_path: Path) -> None:
    """A benchmark's page that had lost its second mark lost all that followed the first."""
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    with pytest.raises(AssertionError, match="once each, in this order"):
        write_between(tmp_path / "page.md", "x", "new")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page
