"""The last stage: the page that tells the whole run and then, last of all files, ``finished.json``."""

from __future__ import annotations

import time
from typing import Any

from afina.errors import ResultError
from afina.report.page import write_report
from afina.walk.context import Context
from afina.whole import write_json


def report(context: Context) -> dict[str, Any]:
    """Write ``report.html`` and ``finished.json``."""
    verdict = context.run.stages["evaluate"]["result"]
    code = 0 if verdict["passed"] else ResultError.exit_code
    finished = {"exit_code": code, "verdict": verdict["text"], "ended": time.time()}
    write_report(context.folder, finished)
    write_json(context.folder / "finished.json", finished)
    return {}
