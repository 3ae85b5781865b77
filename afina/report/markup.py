"""HTML from plain values: every string is escaped unless it is already :class:`Html`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from afina.units import show_bytes, show_seconds, show_share

_VOID = {"br", "meta", "rect", "line", "circle", "path", "polyline", "col"}
# Everything below space but tab and line feed, DEL, C1, and halves of surrogate pairs: not allowed in a page,
# but models write them, so they are shown by their code. Marks that turn the direction of the
# text around could make an answer read as something else: shown too.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Child = str | int | None
"""What stands inside an element; plain strings are escaped, None is nothing."""


def escape(text: str) -> Html:
    r"""Any text, safe inside an element or an attribute; unprintable characters by their code.

    >>> escape('<script>"é"')
    '&lt;script&gt;&quot;é&quot;'
    >>> escape("a\x00b\r\n")
    'a\\u0000b\n'
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(_UNSHOWABLE.sub(_by_code, text.replace("\r\n", "\n"))))


def _by_code(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def join(parts: Iterable[Child], between: str = "") -> Html:
    """Escaped parts, one after another.

    >>> join(["a<", Html("<b>x</b>"), None, 3])
    'a&lt;<b>x</b>3'
    """
    return Html(
        escape(between).join(
            escape(str(part)) if not isinstance(part, Html) else part for part in parts if part is not None
        )
    )


def h(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """An element. ``class_`` is written `class`, ``stroke_width`` is written `stroke-width`.

    >>> h("td", "1 < 2", class_="num")
    '<td class="num">1 &lt; 2</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-") if key != "viewBox" else key}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{written}>" if name in ("br", "meta", "col") else f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def muted(text: str) -> Html:
    """A remark in a quieter colour, e.g. that something was not measured."""
    return h("span", text, class_="muted")


def note(*parts: Child) -> Html:
    """A paragraph of explanation below a heading or a table."""
    return h("p", *parts, class_="note")


def missing(what: str, file: str, *, word: str = "Not measured.") -> Html:
    """The sentence that stands where a part of the run is not there."""
    return h(
        "p",
        h("strong", word),
        " ",
        f"{what} (",
        h("code", file),
        " is not in the run's folder).",
        class_="absent",
    )


def table(
    head: Sequence[Child], rows: Iterable[Sequence[Child]], *, numbers: Iterable[int] = (), class_: str = ""
) -> Html:
    """A table in a frame that scrolls sideways; the columns in `numbers` (from 0) are aligned as numbers."""
    right = set(numbers)

    def cells(kind: str, row: Sequence[Child]) -> Html:
        return join(
            h(kind, cell, class_="num" if position in right else None, scope="col" if kind == "th" else None)
            for position, cell in enumerate(row)
        )

    body = join(h("tr", cells("td", row)) for row in rows)
    return h(
        "div",
        h("table", h("thead", h("tr", cells("th", head))), h("tbody", body), class_=class_ or None),
        class_="scroll",
    )


def pairs(items: Iterable[tuple[str, Child]]) -> Html:
    """Names and values as a definition list."""
    return h("dl", *(h("div", h("dt", name), h("dd", value)) for name, value in items))


def text_block(text: str | None, *, limit: int = 1200, class_: str = "") -> Html:
    """What a model or a person wrote, white space kept, cut after `limit` characters with the rest counted."""
    if text is None:
        return h("div", muted("not recorded"), class_=f"text {class_}".strip())
    if not text.strip():
        return h("div", muted("(empty)" if not text else "(only white space)"), class_=f"text {class_}".strip())
    rest = h("span", f" … {len(text) - limit:,} more characters", class_="muted") if len(text) > limit else None
    return h("div", text[:limit], rest, class_=f"text {class_}".strip(), dir="auto")


def code(text: str | None) -> Html:
    """A hash or a path in type of one width; a remark where there is none."""
    return h("code", text) if text else muted("not recorded")


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


def prose(text: str) -> Html:
    """A sentence of ours, with what stands between backticks as code.

    >>> prose("set `a: <b>`")
    'set <code>a: &lt;b&gt;</code>'
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return join(h("code", part) if position % 2 else part for position, part in enumerate(parts))


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


def named_value(key: str, value: object) -> Html:
    """Any plain value, with the unit that its key tells.

    >>> named_value("peak_bytes", 2048), named_value("balanced", True), named_value("x", [1, 2])
    ('2.0 KiB', 'yes', '1, 2')
    """
    if value is None:
        return muted("not recorded")
    if isinstance(value, bool):
        return escape("yes" if value else "no")
    if isinstance(value, int | float):
        return escape(_with_unit(key, value))
    if isinstance(value, Mapping):
        if not value:
            return muted("none")
        return pairs((words(str(name)), named_value(str(name), item)) for name, item in value.items())
    if isinstance(value, list):
        if not value:
            return muted("none")
        if all(isinstance(item, Mapping) for item in value):
            keys = list(dict.fromkeys(str(name) for item in value for name in item))
            numeric = [
                position
                for position, name in enumerate(keys)
                if all(isinstance(item.get(name), int | float) for item in value if item.get(name) is not None)
            ]
            rows = [[named_value(name, item[name]) if name in item else "" for name in keys] for item in value]
            return table([words(name) for name in keys], rows, numbers=numeric)
        return join([named_value(key, item) for item in value], ", ")
    text = str(value)
    return h("code", text) if "sha256" in key or key in ("path", "commit") else escape(text)


def _with_unit(key: str, value: float) -> str:
    last = key.rsplit("_", 1)[-1]
    if last == "bytes":
        return show_bytes(value)
    if last == "seconds":
        return show_seconds(value)
    if last == "share":
        return show_share(value)
    return number(value)
