"""A task of code in a recipe, and the checks of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from afina.recipe.part import Count, Named, Positive, RecipePart


class Check(RecipePart):
    """What the code of a row must do; a row has any number of checks, and all must pass.

    A check is either a `test` that is appended to the code, or one run with inputs and the expected result.
    """

    test: str = ""
    """Code that is appended: Python assertions, Zig `test` blocks. It must run to its end: a program that exits early
    does not pass."""
    args: list[str] = []
    """Command-line arguments."""
    stdin: str = ""
    """Standard input."""
    files: dict[str, str] = {}
    """Files to put into the working folder, name to text."""
    stdout: str | None = None
    """All that it must print to standard output. White space at the ends of lines and of the text does not count."""
    contains: list[str] = []
    """Texts that its output (standard error included) must contain, in any order."""
    lacks: list[str] = []
    """Texts that its output must not contain."""
    writes: dict[str, str] = {}
    """Files that it must write into the working folder, compared as `stdout` is."""
    exit: int = 0
    """Expected exit code."""

    @field_validator("files", "writes", mode="after")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
                raise ValueError(f"{name!r} is not the name of a file in the working folder")
        return files

    @field_validator("writes", mode="after")
    @classmethod
    def _at_the_top(cls, files: dict[str, str]) -> dict[str, str]:
        if deep := next((name for name in files if "/" in name), None):
            raise ValueError(f"{deep!r}: only files of the working folder itself are compared")
        return files

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        others = self.model_fields_set - {"test", "files"}
        if self.test and others:
            raise ValueError(
                f"a check with `test` has no {', '.join(sorted(others))}: the test itself says what is right"
            )
        return self


_CHECKS = TypeAdapter(list[Check])


def read_checks(values: Any) -> Sequence[Check]:
    """A row's checks, from plain values.

    Raises:
        ValueError: with what is wrong, in a line.

    >>> read_checks([{"stdin": "1", "stdout": "2"}])[0].exit
    0
    >>> read_checks([{"stdot": "2"}])
    Traceback (most recent call last):
    ...
    ValueError: checks.0.stdot: no such key; a check has args, contains, exit, files, lacks, stdin, stdout, test, writes
    """
    try:
        return tuple(_CHECKS.validate_python(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("checks", *first["loc"])))
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"no such key; a check has {', '.join(sorted(Check.model_fields))}"
        raise ValueError(f"{place}: {what}") from None


class Code(RecipePart):
    """The answers are programs: rows have a list of `checks` instead of a reference (docs/code.md).

    Each answer's code is compiled and, with `run`, run against the checks. Both are isolated (no network, no files but
    its own); a recipe is refused where the machine does not permit that.
    """

    language: Named = Field(examples=["zig"])
    """Language of the code blocks, as they name it: `zig`, `python`."""
    compiler: Named = Field(examples=["ziglang==0.14.0"])
    """`ziglang==0.14.0`, a Python version such as "3.11", or a command line with `{file}`."""
    start: Named | None = None
    """With a command line as `compiler`: the command line that runs the result, e.g. `./a.out` or `node {file}`."""
    product: Named | None = None
    """File that such a compiler writes and `start` needs, e.g. `a.out`."""
    run: bool = False
    """Let what the model wrote run. Otherwise it is only compiled, and the rows' checks are not used."""
    samples: int = Field(default=0, ge=0)
    """Sampled answers to each prompt, for pass@k, beside the greedy one."""
    pass_at: list[Count] = [1]
    """Each k of pass@k."""
    temperature: Positive = 0.8
    """Temperature of the samples."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Top-p of the samples."""
    seed: int = 0
    """Seed of the samples."""
    seconds: Positive = 10.0
    """Time limit of a program."""
    memory_gb: Positive = 1.0
    """Memory limit of all its processes together, in GiB."""
    disk_mb: Count = 256
    """Limit of all its files together, and of its compiled form, in MiB."""
    processes: Count = 64
    """Most processes and threads at a time."""
    readable: list[str] = []
    """More files and folders that compiler and code may read: a toolchain, a library. Absolute paths."""

    @model_validator(mode="after")
    def _enough_samples(self) -> Code:
        if self.samples and max(self.pass_at, default=0) > self.samples:
            raise ValueError(f"pass@{max(self.pass_at)} needs as many samples, there are {self.samples}")
        if not self.pass_at:
            raise ValueError("pass_at needs a k")
        return self

    @model_validator(mode="after")
    def _can_start(self) -> Code:
        if self.run and "{file}" in self.compiler and not self.start:
            raise ValueError("to run what a command line compiled, `start` says how, e.g. ./a.out or node {file}")
        if self.start and "{file}" not in self.compiler:
            raise ValueError("`start` belongs to a compiler that is a command line with {file}")
        return self

    @field_validator("readable", mode="after")
    @classmethod
    def _absolute(cls, paths: list[str]) -> list[str]:
        if wrong := next((path for path in paths if not PurePosixPath(path).is_absolute()), None):
            raise ValueError(f"{wrong!r} is not an absolute path")
        return paths
