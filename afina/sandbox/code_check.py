"""Check code with its compiler before it teaches anything.

| result | what it means |
|---|---|
| ``ok`` | the compiler takes it; or it fails with the very error that the text shows right after it |
| ``wrong`` | the compiler refuses it; its lines are kept |
| ``lacks_dependency`` | all that the compiler misses is a module, header, library or file that is not here |
| ``fragment`` | it does not parse by itself, and nothing says that it is a whole file: nothing is proven |
| ``timeout`` | a limit of time or memory ended the compiler before it answered |

What counts as a whole file: a file of code, and a fenced block that holds ``main`` or imports what it uses
(:func:`~afina.text.code_blocks.claims_to_be_whole`). Any other block is a snippet: where the compiler has a
parser of its own (Zig's ``ast-check``, which also wants every name declared), a snippet that does not pass it is a
``fragment``, and one that passes and does not build is ``wrong``; for other compilers every refusal of a snippet is
a ``fragment``.

Results are kept by a hash of code and compiler, so that a second run costs nothing. Nothing of the code is run. Where
the machine permits it and what the compiler needs is known (Zig, Python), it is isolated, else limited:
:mod:`afina.sandbox.launcher`.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afina.cache import user_cache
from afina.run import Progress, hash_value, no_progress, parse_json
from afina.sandbox.compilers import Compiler, find_compilers
from afina.sandbox.launcher import ProgramLimits, ProgramOutcome, isolation_missing, run_limited
from afina.temporary import temporary_folder
from afina.text.code_blocks import CodeBlock

Result = Literal["ok", "wrong", "lacks_dependency", "fragment", "timeout"]

REVISION = 3
"""Counts up when the same compiler's answer is read in another way: kept results of before no longer hold."""
WORKERS = 2
LINES_KEPT = 12
_AHEAD = 64

_ERROR = re.compile(r"\berror\b(?:\[\w+\])?: ?(?P<said>.*)|\b(?P<python>(?:Syntax|Indentation|Tab|Value)Error: .*)")
_DEPENDENCY = re.compile(
    r"no module named|unable to (?:load|open|find|resolve) ['\"./\w-]+|file not found|No such file or directory"
    r"|libc headers not available|No module named|[Cc]annot find (?:module|package|crate|name|-l)|can't find crate"
    r"|unresolved import|no required module provides package|is not in (?:GOROOT|std)|could not import"
    r"|package [\w.]+ does not exist|unable to find .*library|library not found|dependency on (?:dynamic )?library",
)
_C_IMPORT = "C import failed"
_TRACE = re.compile(r"^(?:referenced by:|\s{4}\S.*: \S+:\d+:\d+$|\s{4}\d+ reference\(s\) hidden|Traceback|  File \"<)")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a compiler said about one block."""

    block: CodeBlock
    result: Result
    lines: str
    """The compiler's own lines, the first dozen; line numbers count within the block."""
    compiler: str

    def as_json(self) -> dict[str, Any]:
        """The row of ``code.jsonl``."""
        row = {"where": self.block.where, "language": self.block.language, "result": self.result}
        return row | ({"lines": self.lines} if self.lines else {}) | {"compiler": self.compiler}


def check_blocks(
    blocks: Iterable[CodeBlock],
    wanted: Mapping[str, str],
    progress: Progress = no_progress,
    *,
    limits: ProgramLimits | None = None,
    cache: Path | None = None,
) -> Iterator[Checked]:
    """Check every block whose language is in `wanted`, two at a time, in the order given.

    Args:
        blocks: read as they are needed, a few ahead.
        wanted: the recipe's ``dataset.check_code``.
        limits: of each compilation.
        cache: folder of the kept results; the user's cache folder where not given.

    Raises:
        RecipeError: a compiler is neither here nor can be fetched.
    """
    with temporary_folder("code") as work:
        compilers = find_compilers(wanted, work, progress)
        yield from check_with(compilers, blocks, work, progress, limits=limits or ProgramLimits(), cache=cache)


def check_with(
    compilers: Mapping[str, Compiler],
    blocks: Iterable[CodeBlock],
    work: Path,
    progress: Progress = no_progress,
    *,
    limits: ProgramLimits,
    cache: Path | None = None,
) -> Iterator[Checked]:
    """:func:`check_blocks` with compilers that are found already, in their own folder `work`."""
    place = user_cache()
    folder = cache or (place / "checked" if place else None)
    kept = {name: _Kept(folder, each) for name, each in compilers.items()}
    pool = ThreadPoolExecutor(WORKERS)
    waiting: deque[tuple[CodeBlock, Future[tuple[Result, str]]]] = deque()
    done = 0

    def finish() -> Checked:
        block, future = waiting.popleft()
        result, lines = future.result()
        if result == "wrong" and _is_shown(lines, block.shown_after):
            result, lines = "ok", "fails as the text says: " + lines
        return Checked(block, result, lines, compilers[block.language].version)

    try:
        for block in blocks:
            if block.language not in compilers:
                continue
            compiler = compilers[block.language]
            waiting.append((block, pool.submit(_check, block, compiler, kept[block.language], work, limits)))
            if len(waiting) > _AHEAD:
                yield finish()
                done += 1
                progress(done, None, "code blocks checked")
        while waiting:
            yield finish()
            done += 1
            progress(done, None, "code blocks checked")
    finally:
        pool.shutdown(cancel_futures=True)


class _Kept:
    """Results of one compiler, kept in a file of lines: ``{"key", "result", "lines"}``. Where that cannot be, for lack
    of a place or of the right to write, code is checked again the next time."""

    def __init__(self, folder: Path | None, compiler: Compiler) -> None:
        name = f"{compiler.language}-{hash_value([REVISION, compiler.version])[:12]}.jsonl"
        self.file = folder / name if folder else None
        self.known: dict[str, tuple[Result, str]] = {}
        if self.file is not None and self.file.is_file():
            for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = parse_json(line)
                    self.known[row["key"]] = (row["result"], row["lines"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut by a kill: that block is checked again

    def keep(self, key: str, result: Result, lines: str) -> None:
        self.known[key] = (result, lines)
        if self.file is None:
            return
        row = json.dumps({"key": key, "result": result, "lines": lines}, ensure_ascii=False)
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as out:  # one write: lines of two processes do not mix
                out.write(f"{row}\n".encode())


def _check(block: CodeBlock, compiler: Compiler, kept: _Kept, work: Path, limits: ProgramLimits) -> tuple[Result, str]:
    key = hash_value([block.whole, block.code])
    if key in kept.known:
        return kept.known[key]
    with tempfile.TemporaryDirectory(dir=work) as own:
        folder = Path(own)
        (folder / compiler.file).write_text(block.code, encoding="utf-8")
        result, lines = _compile(block, compiler, folder, limits)
        lines = without_places(lines, folder, work, compiler)
    if result != "timeout":
        kept.keep(key, result, lines)
    return result, lines


def without_places(lines: str, folder: Path, work: Path, compiler: Compiler) -> str:
    """A compiler's lines without the folders of this run: they differ every time, and help nobody."""
    for place in (str(folder), str(work), compiler.home):
        lines = lines.replace(f"{place}/", "") if place else lines
    return lines


def _compile(block: CodeBlock, compiler: Compiler, folder: Path, limits: ProgramLimits) -> tuple[Result, str]:
    view = None if isolation_missing() else compiler.view
    if not block.whole and compiler.parse is not None:
        read = run_limited(compiler.parse(folder), folder, limits, compiler.variables, view=view)
        if read.code or read.stopped:
            return ("timeout", read.stopped) if read.stopped else ("fragment", first_lines(read.output))
    built = run_limited(compiler.build(folder, block.code), folder, limits, compiler.variables, view=view)
    result = judge(built)
    if result == "wrong" and not block.whole and compiler.parse is None:
        result = "fragment"
    return result, built.stopped if result == "timeout" else "" if result == "ok" else first_lines(built.output)


def judge(outcome: ProgramOutcome) -> Result:
    """What an outcome means for a whole file.

    It lacks a dependency only when every error is about something that is not here; Zig's ``C import failed`` says
    nothing by itself and goes by the other errors.

    >>> judge(ProgramOutcome(1, "a.zig:1:2: error: no module named 'x' available within module main"))
    'lacks_dependency'
    >>> judge(ProgramOutcome(1, "a.zig:1:2: error: no module named 'x'\\na.zig:2:2: error: unused variable"))
    'wrong'
    """
    if outcome.stopped:
        return "timeout"
    if outcome.code == 0:
        return "ok"
    lines = outcome.output.splitlines()
    errors = [line for line in lines if _ERROR.search(line) and _C_IMPORT not in line]
    if not errors:
        errors = [line for line in lines if _C_IMPORT not in line and _DEPENDENCY.search(line)]
    return "lacks_dependency" if errors and all(_DEPENDENCY.search(line) for line in errors) else "wrong"


def first_lines(output: str) -> str:
    """The compiler's first dozen lines, without its trace of who refers to whom.

    >>> first_lines("a: error: no\\nreferenced by:\\n    main: a.zig:1:2\\n    2 reference(s) hidden; use x\\nb")
    'a: error: no\\nb'
    """
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and not _TRACE.match(line)]
    more = [f"... and {len(lines) - LINES_KEPT} lines more"] if len(lines) > LINES_KEPT else []
    return "\n".join([*lines[:LINES_KEPT], *more])


def _is_shown(lines: str, text: str) -> bool:
    """Whether a text holds the first error that the compiler gave: the document meant it to fail."""
    found = _ERROR.search(lines)
    said = (found["said"] or found["python"] or "").strip() if found else ""
    # A type's name begins with that of its file: `main.Foo` here, `test_enum.Foo` in the text.
    said, text = (re.sub(r"\b\w+\.(?=[A-Z])", "", " ".join(each.split())) for each in (said, text))
    return len(said) >= 8 and said in text
