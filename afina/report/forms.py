"""The forms that a run's report can have, each a file of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from afina.report.markdown import as_markdown
from afina.report.page import report_html
from afina.report.plain import report_values
from afina.report.read import RunFiles, read_run
from afina.whole import write_whole


def _json(run: RunFiles, language: str | None) -> str:
    del language  # for programs, in any of them the same
    return json.dumps(report_values(run), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[RunFiles, str | None], str]] = {
    "html": report_html,
    "md": lambda run, language: as_markdown(report_html(run, language)),
    "json": _json,
}


def write_as(folder: Path, form: str, language: str | None = None) -> Path:
    """Write ``report.html``, ``report.md`` or ``report.json`` into a run's folder, and return its path.

    Args:
        form: one of :data:`FORMS`.
        language: one of :data:`afina.report.language.LANGUAGES`; by default the recipe's ``dataset.language``.

    Raises:
        RecipeError: when there is no run in `folder`.
        AfinaError: naming every file of the run that is damaged.
    """
    path = folder / f"report.{form}"
    write_whole(path, FORMS[form](read_run(folder), language))
    return path
