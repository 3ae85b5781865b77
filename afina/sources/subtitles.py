"""Subtitles (SRT, WebVTT) as plain text: what is said, without numbers, times and settings of the display."""

from __future__ import annotations

import re
from collections.abc import Iterator

from afina.sources.files import FileText, SourceReading
from afina.text.document import Document, visible

_TIMES = re.compile(r"\s*(\d+:)?\d+:\d+[.,]\d+\s*-->.*")
_TAG = re.compile(r"</?(?:[bicuv]|font|ruby|rt|lang|c)(?:[.\s][^>]*)?>|<\d[\d:.]*>|\{\\[^}]*\}")


def read_subtitles(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``text``; a line that rolls over two displays is said once."""
    entry = opened.entry
    entry.chars_in += visible(opened.text)
    said: list[str] = []
    for number, block in enumerate(re.split(r"\n[ \t]*\n", opened.text)):
        lines = block.split("\n")
        times = next((place for place, line in enumerate(lines) if _TIMES.fullmatch(line)), None)
        if times is None:
            kind = lines[0].strip().split(" ")[0] if lines else ""
            if (number == 0 and kind == "WEBVTT") or kind in ("NOTE", "STYLE", "REGION"):
                entry.drop("settings and notes of the subtitles", block)
                continue
            times = -1  # text without times: it is kept
        entry.drop("numbers and times", "\n".join(lines[: times + 1]))
        for line in lines[times + 1 :]:
            shown = _TAG.sub("", line)
            if tags := "".join(_TAG.findall(line)):
                entry.drop("marks of the display", "".join(hit[0] for hit in _TAG.finditer(line)) if tags else "")
            if shown.strip() and said and shown.strip() == said[-1]:
                entry.drop("said again while it rolls", shown)
            elif shown.strip():
                said.append(shown.strip())
    if not said:
        return
    text = "\n".join(said) + "\n"
    entry.chars_out += visible(text)
    entry.documents += 1
    yield Document(opened.path, opened.sha256, text=text, source=reading.position)
