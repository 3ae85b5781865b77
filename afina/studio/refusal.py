"""How the studio says no: a status, and what, where and what to do next."""

from __future__ import annotations

from typing import Any

from afina.errors import AfinaError, Problem
from afina.recipe import KeyProblem


class StudioRefusal(AfinaError):
    """A request that is not answered, with the status that says why; any other `AfinaError` is answered by 422."""

    def __init__(self, status: int, what: str, fix: str = "", where: str = "") -> None:
        super().__init__(what, fix, where)
        self.status = status


def error_values(*problems: Problem) -> dict[str, Any]:
    """The body of an answer that says no: ``error`` is the first problem, ``problems`` are all of them; one of a recipe
    has its ``key`` too.

    >>> error_values(Problem("it is not there", "look again", "runs/x"))["error"]
    {'what': 'it is not there', 'where': 'runs/x', 'fix': 'look again'}
    """
    told = [
        {"what": each.what, "where": each.where, "fix": each.fix}
        | ({"key": each.key} if isinstance(each, KeyProblem) else {})
        for each in problems
    ]
    return {"error": told[0], "problems": told}
