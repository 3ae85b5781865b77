"""What `make zig` and `make scratch` have in common: a command line, and a page of docs/ with what was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.run import read_json, write_json, write_whole

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared/data"
SHOWN_CHARS = 300

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """An experiment of several runs.

    Args:
        name: of its target in the Makefile, of its folder in benchmarks/ and of its page in docs/.
        titles: its runs by their short names, in words.
        steps: as far as `--until` goes, the last one measures.
        page_of: the figures as Markdown; of None, that there are none.
    """

    name: str
    titles: Mapping[str, str]
    steps: tuple[str, ...]
    page_of: Callable[[Figures | None], str]

    @property
    def page(self) -> Path:
        """The page that shows the figures between two marks."""
        return ROOT / f"docs/{self.name}.md"

    @property
    def file(self) -> Path:
        """The figures that were published last."""
        return ROOT / f"benchmarks/{self.name}/figures.json"

    @property
    def marks(self) -> tuple[str, str]:
        """Between which the page shows them."""
        return f"<!-- figures: begin, written by `make {self.name} PUBLISH=1` -->", "<!-- figures: end -->"

    def put_into(self, page: str, shown: str) -> str:
        """The page with what is shown between its marks.

        >>> experiment = Experiment("x", {}, (), str)
        >>> begin, end = experiment.marks
        >>> experiment.put_into(f"a\\n{begin}\\nold\\n{end}\\nb", "new") == f"a\\n{begin}\\n\\nnew\\n\\n{end}\\nb"
        True
        """
        begin, end = self.marks
        head, _, rest = page.partition(begin)
        return f"{head}{begin}\n\n{shown}\n\n{end}{rest.partition(end)[2]}"

    def published(self) -> Figures | None:
        """What was measured last; None where nothing was."""
        return dict(read_json(self.file)) if self.file.exists() else None

    def not_measured(self) -> str:
        """What the page says where nothing was."""
        return f"Not measured yet: `make {self.name} PUBLISH=1` writes the table here."

    def parse(self, arguments: Sequence[str] | None, description: str | None, root: Path) -> argparse.Namespace:
        """The command line.

        Args:
            root: where the inputs are, where it names no other place.
        """
        parser = argparse.ArgumentParser(prog=f"benchmarks.{self.name}", description=description,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every recipe")
        parser.add_argument("--root", type=Path, default=root, help="where the inputs are")
        parser.add_argument("--runs", type=Path, default=Path("runs"))
        parser.add_argument("--only", nargs="+", choices=list(self.titles), default=list(self.titles))
        parser.add_argument("--until", choices=self.steps, default=self.steps[-1])
        parser.add_argument("--again", action="store_true", help="measure again what was measured")
        parser.add_argument("--tiny", action="store_true", help="the short form, whose figures mean nothing")
        parser.add_argument("--json", action="store_true", help="the figures instead of the table")
        parser.add_argument("--publish", action="store_true", help="write figures and table into the project")
        asked = parser.parse_args(arguments)
        if asked.publish and (asked.tiny or list(asked.only) != list(self.titles) or asked.until != self.steps[-1]):
            parser.error("only figures of all the recipes, in their full form, are published")
        return asked

    def finish(self, asked: argparse.Namespace, figures: Figures) -> None:
        """Keep the figures beside the runs, print them, and publish them where that is asked for."""
        write_json(asked.runs / f"{self.name}-figures.json", figures)
        write_whole(asked.runs / f"{self.name}-table.md", self.page_of(figures) + "\n")
        if asked.publish:
            write_json(self.file, figures)
            write_whole(self.page, self.put_into(self.page.read_text(encoding="utf-8"), self.page_of(figures)))
        print(json.dumps(figures, ensure_ascii=False, indent=2) if asked.json else self.page_of(figures))


# ---- Markdown


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head.

    >>> print(markdown_table([["", "a"], ["b", "1"]]))
    |  | a |
    |---|---|
    | b | 1 |
    """
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def cell(text: str) -> str:
    """A text as a cell of a table, in one line."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str, limit: int = SHOWN_CHARS) -> str:
    """A text as code in one line, whatever marks a model wrote; of a long one its beginning.

    >>> code("a"), code("`a`"), code(""), code("abcd", limit=2)
    ('`a`', '`` `a` ``', '(nothing)', '`ab ... (4 characters)`')
    """
    text = cell(text)
    if not text:
        return "(nothing)"
    text = f"{text[:limit]} ... ({len(text)} characters)" if len(text) > limit else text
    return f"`` {text.replace('``', '` `')} ``" if "`" in text else f"`{text}`"
