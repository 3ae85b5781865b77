"""Units: what is printed can be read back, and rounding never hides a flaw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.units import read_bytes, read_seconds, show_bytes, show_count, show_money, show_seconds, show_share


@given(st.integers(0, 2**50))
def test_bytes_read_back_within_the_rounding(count: int) -> None:
    assert read_bytes(show_bytes(count)) == pytest.approx(count, rel=0.06, abs=1)


@pytest.mark.parametrize(
    ("text", "count"), [("1 KiB", 1024), ("1kb", 1000), ("1.5GiB", 3 * 2**29), (" 80 GB ", 80 * 10**9)]
)
def test_read_bytes(text: str, count: int) -> None:
    assert read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "24", "24 G", "GiB", "-1 GB", "1,5 GB", "24 GiB of"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it like 24GiB"):
        read_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5min", 300), ("1.5 h", 5400), ("2D", 172800)])
def test_read_seconds(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "h", "-2h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        read_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (59.4, "59.4 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (86400, "24 h 00 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_show_seconds(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@given(st.floats(0, 1))
def test_a_share_is_0_or_100_percent_only_when_it_is(share: float) -> None:
    shown = show_share(share)
    assert (shown in ("100 %", "100.00 %", "100.0 %")) == (share == 1), shown
    assert (shown in ("0 %", "0.00 %", "0.0 %")) == (share == 0), shown


@pytest.mark.parametrize(
    ("share", "text"), [(0.99999, "> 99.99 %"), (0.9999, "99.99 %"), (0.0001, "0.01 %"), (0.00001, "< 0.01 %")]
)
def test_one_in_a_hundred_thousand_is_seen(share: float, text: str) -> None:
    assert show_share(share) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (10_000, "10.0 k"), (1_234_567, "1.23 M"), (8e12, "8.00 T")]
)
def test_show_count(count: float, text: str) -> None:
    assert show_count(count) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "US$ 0.00"), (0.01, "US$ 0.01"), (12.3, "US$ 12.30"), (0.0042, "US$ 0.004")]
)
def test_show_money(amount: float, text: str) -> None:
    assert show_money(amount) == text
