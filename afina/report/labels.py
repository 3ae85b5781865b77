"""Keys as labels, and numbers as text with the unit that their key tells."""

from __future__ import annotations

from afina.units import show_bytes, show_seconds, show_share

_LABELS = {
    "peak_bytes": "peak memory",
    "memory_bytes": "memory",
    "usable_bytes": "usable memory",
    "train_seconds": "time of training",
    "sha256": "SHA-256",
    "weights_sha256": "SHA-256 of weights",
    "tokenizer_sha256": "SHA-256 of tokenizer",
    "chat_template_sha256": "SHA-256 of chat template",
}


def words(key: str) -> str:
    """A key as a label.

    >>> words("tokens_per_second"), words("peak_bytes")
    ('tokens per second', 'peak memory')
    """
    return _LABELS.get(key, key.replace("_", " "))


def number(value: float) -> str:
    """A number without a unit: whole ones in groups of three, others with four significant digits.

    >>> number(12345), number(0.123456), number(2e-4), number(1234.5678), number(float("nan"))
    ('12,345', '0.1235', '0.0002', '1,234.6', 'nan')
    """
    if isinstance(value, int) or (value == value and abs(value) != float("inf") and value == int(value)):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """A share with one decimal, so that a column of them and their differences agree.

    >>> percent(0.925), percent(0.0)
    ('92.5 %', '0.0 %')
    """
    return f"{100 * share:.1f} %"


def with_unit(value: float, key: str) -> str:
    """A number with the unit that the last word of its key tells.

    >>> with_unit(2048, "peak_bytes"), with_unit(0.5, "replay_share"), with_unit(3, "files")
    ('2.0 KiB', '50 %', '3')
    """
    last = key.rsplit("_", 1)[-1]
    return {"bytes": show_bytes, "seconds": show_seconds, "share": show_share}.get(last, number)(value)
