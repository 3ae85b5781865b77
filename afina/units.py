"""One meaning per unit: bytes, seconds, tokens and a currency inside; text only at the edges.

Everything else in the house computes in plain bytes, seconds and tokens. Only this file turns
them into GiB, minutes and thousands, and back.
"""

from __future__ import annotations

import re

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def show_bytes(count: float) -> str:
    """Bytes as people read them, in powers of 1024.

    >>> show_bytes(512), show_bytes(1536), show_bytes(24 * 2**30)
    ('512 B', '1.5 KiB', '24.0 GiB')
    """
    value, step = float(count), 0
    while abs(value) >= 1024 and step < len(_BINARY) - 1:
        value, step = value / 1024, step + 1
    return f"{value:.0f} B" if step == 0 else f"{value:.1f} {_BINARY[step]}"


def read_bytes(text: str) -> int:
    """The opposite of :func:`show_bytes`; ``GB`` is 10**9, ``GiB`` is 2**30.

    >>> read_bytes("24 GiB") == 24 * 2**30, read_bytes("24GB")
    (True, 24000000000)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write it like 24GiB or 24GB")
    return int(float(found[1]) * _BYTES[found[2].lower()])


def show_seconds(seconds: float) -> str:
    """A duration with two significant parts.

    >>> show_seconds(0.42), show_seconds(8.4), show_seconds(135), show_seconds(8460)
    ('0.42 s', '8.4 s', '2 min 15 s', '2 h 21 min')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def read_seconds(text: str) -> float:
    """``90s``, ``5min``, ``2.5h``, ``3d`` in seconds.

    >>> read_seconds("2.5h"), read_seconds("90 s")
    (9000.0, 90.0)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].lower() not in _SECONDS:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 5min, 2.5h or 3d")
    return float(found[1]) * _SECONDS[found[2].lower()]


def show_count(count: float) -> str:
    """A count (tokens, rows, parameters) that keeps three digits.

    >>> show_count(972), show_count(13_430_000), show_count(8.03e9)
    ('972', '13.4 M', '8.03 G')
    """
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(count) >= limit:
            value = count / (1e3 if letter == "k" else limit)
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {letter}"
    return f"{count:.0f}"


def show_number(count: int, what: str) -> str:
    """A number of things.

    >>> show_number(1, "row"), show_number(12, "row")
    ('1 row', '12 rows')
    """
    return f"{count} {what}" + ("" if count == 1 else "s")


def show_money(amount: float, currency: str = "US$") -> str:
    """Money, always with its currency.

    >>> show_money(0.711), show_money(0.004)
    ('US$ 0.71', 'US$ 0.004')
    """
    return f"{currency} {amount:.2f}" if amount == 0 or amount >= 0.01 else f"{currency} {amount:.3f}"


def show_share(share: float) -> str:
    """A share of one as a percentage; never rounds a loss away to 0 % or a flaw to 100 %.

    >>> show_share(0.38), show_share(0.9996), show_share(0.0004), show_share(1.0)
    ('38 %', '99.96 %', '0.04 %', '100 %')
    """
    percent = share * 100
    if 0 < percent < 0.005:
        return "< 0.01 %"
    if 99.995 <= percent < 100:
        return "> 99.99 %"
    if percent == round(percent):
        return f"{percent:.0f} %"
    if 1 <= percent <= 99:
        return f"{percent:.1f} %"
    return f"{percent:.2f} %"
