"""Every way in which afina says no, and the exit code that goes with it.

    AfinaError              1   a defect of ours, or a machine that misbehaves
    ├── RecipeError         2   the command or the recipe is wrong
    │   ├── BaseError       2   the base model is missing, unsafe or not what it was
    │   └── DiskFull        2   the folder that was named has no room
    ├── DataError           3   the data is unfit
    │   └── ContextOverflow 3   a prompt and its answer are longer than the model can see
    ├── DoesNotFit          4   it will not fit the device or the budget
    │   └── OutOfMemory     4   memory ran out on the way; the walk says what of its recipe needs less
    └── ResultError         5   it did not learn, broke something, or never stops
        └── TrainingDiverged 5  the loss or a gradient stopped being a number

An error says **what** is wrong, **where**, and what to do next (**fix**). Several problems found
at once travel in one error, so that nobody mends a recipe one line per attempt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where (``file:line`` or a recipe key), and the next step."""

    what: str
    fix: str
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}\n  -> {self.fix}" if self.fix else f"{place}{self.what}"


def read_problem(values: Mapping[str, object]) -> Problem:
    """A problem of :meth:`AfinaError.as_json`, as another process prints it; what it holds besides, such as the key and
    the line of one in a recipe, is left out.

    >>> read_problem({"what": "unknown key", "fix": "did you mean `train`?", "where": "a.yaml:3", "key": "trian"})
    Problem(what='unknown key', fix='did you mean `train`?', where='a.yaml:3')
    """
    return Problem(*(str(values.get(name) or "") for name in ("what", "fix", "where")))


class AfinaError(Exception):
    """A failure that the person at the keyboard can act on.

    >>> error = RecipeError("no such file", "check the path", "sources.0.path")
    >>> print(error)
    sources.0.path: no such file
      -> check the path
    >>> error.exit_code
    2
    """

    exit_code = 1

    def __init__(self, what: str = "", fix: str = "", where: str = "", *, problems: Sequence[Problem] = ()) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems) or (Problem(what, fix, where),)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def as_json(self) -> dict[str, object]:
        """The error for machines: ``{"error": class, "exit_code": n, "problems": [...]}``."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "problems": [asdict(problem) for problem in self.problems],
        }


class RecipeError(AfinaError):
    exit_code = 2


class BaseError(RecipeError):
    pass


class DiskFull(RecipeError):
    pass


class DataError(AfinaError):
    exit_code = 3


class ContextOverflow(DataError):
    pass


class DoesNotFit(AfinaError):
    exit_code = 4


class OutOfMemory(DoesNotFit):
    pass


class ResultError(AfinaError):
    exit_code = 5


class TrainingDiverged(ResultError):
    pass


def class_of(exit_code: int | None) -> type[AfinaError]:
    """The error that ends with the exit code with which an afina ended elsewhere.

    >>> class_of(4).__name__, class_of(137).__name__, class_of(None).__name__
    ('DoesNotFit', 'AfinaError', 'AfinaError')
    """
    kinds: tuple[type[AfinaError], ...] = (RecipeError, DataError, DoesNotFit, ResultError)
    return next((each for each in kinds if each.exit_code == exit_code), AfinaError)


LOOK = "look at what is there and at its permissions"


def unreadable_path(error: OSError) -> RecipeError:
    """The system's words for a path that a person named, or allowed to be read, as an error of ours.

    >>> print(unreadable_path(FileNotFoundError(2, "No such file or directory", "a.md")))
    a.md: cannot be read or written: No such file or directory
      -> look at what is there and at its permissions
    """
    return RecipeError(f"cannot be read or written: {error.strerror}", LOOK, os.fsdecode(error.filename))
