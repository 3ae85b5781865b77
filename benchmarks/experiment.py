"""What `make zig`, `prose` and `scratch` have in common: several recipes, each run judged, one table of all.

Every step goes on where an earlier start stopped. The table goes to ``runs/NAME-table.md``, the figures to
``runs/NAME-figures.json``; `--publish` writes both into the project as well: no figure of a page is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.page_marks import put_between
from afina.run import read_json
from afina.whole import write_json, write_whole

DATA = Path(__file__).resolve().parents[2] / "shared/data"
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One of them.

    Args:
        name: as in `make NAME`.
        about: what `--help` says.
        titles: of its runs by their names.
        steps: as far as it can be asked to go, in their order.
        figures: where the figures are kept that were measured last.
        page: where they are shown.
        page_of: all that the page shows of them, as Markdown.
    """

    name: str
    about: str
    titles: Mapping[str, str]
    steps: Sequence[str]
    figures: Path
    page: Path
    page_of: Callable[[Figures], str]
    root: Path = DATA / "zig"
    """Where its documents are, where the command line names no other place."""

    def main(self, arguments: Sequence[str] | None, work: Callable[[argparse.Namespace], dict[str, Any] | None]) -> int:
        """Do what the command line asks for.

        Args:
            work: does the steps as far as they are asked for, and gives the figures where all are done.

        Returns:
            The exit code: 0 also where a run's verdict is bad, which is what the table is there to show.
        """
        asked = self._parse(arguments)
        try:
            figures = work(asked)
        except AfinaError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
            return 128 + signal.SIGINT
        if figures is not None:
            write_json(asked.runs / f"{self.name}-figures.json", figures)
            write_whole(asked.runs / f"{self.name}-table.md", self.page_of(figures) + "\n")
            if asked.publish:
                write_json(self.figures, figures)
                write_whole(self.page, self.shown(figures))
            print(json.dumps(figures, ensure_ascii=False, indent=2) if asked.json else self.page_of(figures))
        return 0

    def shown(self, figures: Figures | None) -> str:
        """The page with these figures between its marks; None: that nothing was measured."""
        said = f"Not measured yet: `make {self.name} PUBLISH=1` writes the table here."
        page = self.page.read_text(encoding="utf-8")
        return put_between(page, "figures", said if figures is None else self.page_of(figures))

    def measured_last(self) -> Figures | None:
        """The figures that are kept; None where nothing was measured."""
        return dict(read_json(self.figures)) if self.figures.exists() else None

    def _parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"benchmarks.{self.name}", description=self.about,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every recipe: base=PATH")
        parser.add_argument("--root", type=Path, default=self.root, help="where the documents are")
        parser.add_argument("--runs", type=Path, default=Path("runs"))
        parser.add_argument("--only", nargs="+", choices=list(self.titles), default=list(self.titles))
        parser.add_argument("--until", choices=self.steps, default=self.steps[-1])
        parser.add_argument("--again", action="store_true", help="measure again what was measured")
        parser.add_argument("--tiny", action="store_true", help="the short form, whose figures mean nothing")
        parser.add_argument("--json", action="store_true", help="the figures instead of the table")
        parser.add_argument("--publish", action="store_true", help="write figures and table into the project")
        asked = parser.parse_args(arguments)
        if asked.publish and (asked.tiny or list(asked.only) != list(self.titles)):
            parser.error("only figures of all the recipes, in their full form, are published")
        return asked


def cell(text: str) -> str:
    """A text inside a table."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str, limit: int = 300) -> str:
    """A text as code in one line, whatever marks a model wrote; of a long one its beginning.

    >>> code("a"), code("`a`"), code(""), code("abcd", limit=2)
    ('`a`', '`` `a` ``', '(nothing)', '`ab ... (4 characters)`')
    """
    text = cell(text)
    if not text:
        return "(nothing)"
    text = f"{text[:limit]} ... ({len(text)} characters)" if len(text) > limit else text
    return f"`` {text.replace('``', '` `')} ``" if "`" in text else f"`{text}`"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first one its head."""
    head, *body = rows
    lines = [f"| {' | '.join(row)} |" for row in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def base_of(overrides: Sequence[str], recipe_base: str) -> str:
    """What every recipe stands on: the last `base=` of the overrides, else the recipe's."""
    given = [each.removeprefix("base=") for each in overrides if each.startswith("base=")]
    return given[-1] if given else recipe_base
