"""Keys as labels, and numbers as text with the unit that their key tells, all in the language of the page."""

from __future__ import annotations

from collections.abc import Mapping

from afina import units
from afina.report.language import figure, label, mark

_LABELS: Mapping[str, str] = {
    "peak_bytes": mark("peak memory"),
    "memory_bytes": mark("memory"),
    "usable_bytes": mark("usable memory"),
    "train_seconds": mark("time of training"),
    "sha256": mark("SHA-256"),
    "weights_sha256": mark("SHA-256 of weights"),
    "tokenizer_sha256": mark("SHA-256 of tokenizer"),
    "chat_template_sha256": mark("SHA-256 of chat template"),
    "train_sha256": mark("SHA-256 of train"),
    "validation_sha256": mark("SHA-256 of validation"),
}


def words(key: str) -> str:
    """A key as a label: in words of its own, or the key's, translated where ``known.py`` has it.

    >>> words("tokens_per_second"), words("peak_bytes")
    ('tokens per second', 'peak memory')
    """
    return label(_LABELS.get(key, key.replace("_", " ")))


def number(value: float) -> str:
    """A number without a unit: whole ones in groups of three, others with four significant digits.

    >>> number(12345), number(0.123456), number(2e-4), number(1234.5678), number(float("nan"))
    ('12,345', '0.1235', '0.0002', '1,234.6', 'nan')
    """
    if isinstance(value, int) or (value == value and abs(value) != float("inf") and value == int(value)):
        return figure(f"{int(value):,}")
    return figure(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}")


def fixed(value: float, digits: int = 0) -> str:
    """A number with so many decimals.

    >>> fixed(1234.567), fixed(0.7314, 3)
    ('1,235', '0.731')
    """
    return figure(f"{value:,.{digits}f}")


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; a true minus.

    >>> signed(-4.166), signed(0.5, 3)
    ('\u22124.2', '+0.500')
    """
    return figure(f"{value:+.{digits}f}").replace("-", "\u2212")


def percent(share: float) -> str:
    """A share with one decimal, so that a column of them and their differences agree.

    >>> percent(0.925), percent(0.0)
    ('92.5 %', '0.0 %')
    """
    return figure(f"{100 * share:.1f} %")


def show_bytes(count: float) -> str:
    """:func:`afina.units.show_bytes` in the language of the page."""
    return figure(units.show_bytes(count))


def show_seconds(seconds: float) -> str:
    """:func:`afina.units.show_seconds` in the language of the page."""
    return figure(units.show_seconds(seconds))


def show_count(count: float) -> str:
    """:func:`afina.units.show_count` in the language of the page."""
    return figure(units.show_count(count))


def show_money(amount: float, currency: str = "US$") -> str:
    """:func:`afina.units.show_money` in the language of the page."""
    return f"{currency} {figure(units.show_money(amount, '').strip())}"


def show_share(share: float) -> str:
    """:func:`afina.units.show_share` in the language of the page."""
    return figure(units.show_share(share))


def with_unit(value: float, key: str) -> str:
    """A number with the unit that the last word of its key tells.

    >>> with_unit(2048, "peak_bytes"), with_unit(0.5, "replay_share"), with_unit(3, "files")
    ('2.0 KiB', '50 %', '3')
    """
    last = key.rsplit("_", 1)[-1]
    return {"bytes": show_bytes, "seconds": show_seconds, "share": show_share}.get(last, number)(value)
