"""A run is a folder. This file opens it, logs into it, knows what is finished, and resumes it.

Nothing in a run's folder is ever half-written under its final name (:mod:`afina.whole`).

Which stages are finished, with the fingerprint of what went into each and the hash of what came
out, stands in ``stages.json``. A stage is skipped when both still agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from afina.errors import AfinaError, DiskFull, Problem, RecipeError
from afina.recipe import Recipe
from afina.whole import disk_errors, write_json

REDO = "remove the file and start the run again: the stage that wrote it is done anew"
"""The next step where a file of a run is not what it should be."""


def again(run: Path, verb: str = "run") -> str:
    """The command that goes on with a run's folder, wherever it lies and whatever it is called now.

    >>> again(Path("runs/demo"))
    'afina run runs/demo/recipe.yaml'
    >>> again(Path("/data/demo"), "train")
    'afina train /data/demo/recipe.yaml --runs /data'
    """
    from afina.recipe.starter import yaml_value

    recipe, place = run / "recipe.yaml", run.parent
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    named = re.search(r"(?m)^name: *['\"]?([^\s'\"]+)", text)
    elsewhere = f" --runs {shlex.quote(str(place))}" if place.resolve() != Path("runs").resolve() else ""
    # Quoted as YAML wants it: of `name=2026-11-29` the value would be a date.
    renamed = f" {shlex.quote(f'name={yaml_value(run.name)}')}" if named and named[1] != run.name else ""
    return f"afina {verb} {shlex.quote(str(recipe))}{elsewhere}{renamed}"


Progress = Callable[[int, int | None, str], None]
"""Called by a long stage as ``progress(done, total, what)``; `total` is None where it is not known."""


def what_runs_left(folder: Path) -> str:
    """What a folder that afina made below ``runs/`` is; empty of any other. Nobody's documents are in it."""
    if (folder / "recipe.yaml").is_file() and any((folder / name).exists() for name in (".lock", "stages.json")):
        return "a run of afina"
    if folder.name in ("_answers", "_teacher") and (folder / "answers.jsonl").is_file():
        return "answers that afina keeps beside its runs"
    if folder.parent.name == "_improve" and (folder / "improve.json").is_file():
        return "rows that afina adds in rounds"
    if folder.name == "_launch" and (folder / "CACHEDIR.TAG").is_file():
        return "copies that afina launch sends"
    return ""


def launched_file(run: Path) -> Path:
    """Where `afina launch` keeps what it knows of a run that is under way elsewhere."""
    return run.parent / "_launch" / run.name / "state.json"


FORGOTTEN = (
    "look first whether a rented machine is still there (`sky status`; `sky down` gives it back), then remove the file "
    "and start the same command again"
)
"""What to do where nobody knows any more how long a machine was had."""


def read_launch(file: Path) -> dict[str, Any] | None:
    """What `afina launch` keeps of a run that is under way; None where there is none.

    Raises:
        AfinaError: the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        return read_mapping(file, "on")
    except AfinaError as error:
        raise AfinaError(problems=[replace(each, fix=FORGOTTEN) for each in error.problems]) from error


def launched_on(run: Path) -> str:
    """The machine on which a run is under way; empty where it is not. In Slurm's queue it runs in this very folder.

    Raises:
        AfinaError: what is kept of it is damaged.
    """
    found = read_launch(launched_file(run))
    on = str(found["on"]) if found else ""
    return "" if on == "slurm" else on


def no_progress(done: int, total: int | None, what: str) -> None:
    """The silent :data:`Progress`."""


LONGEST_NUMBER = 300
"""Digits of a whole number; one with more cannot be made a float."""


def parse_json(text: str | bytes) -> Any:
    """JSON that was written by a program of ours or of others, and may be damaged.

    >>> parse_json('{"loss": 0.5}')
    {'loss': 0.5}

    Raises:
        ValueError: it is no JSON in UTF-8, or holds what nothing could be done with: brackets in brackets without end,
            a number of hundreds of digits.
    """

    def whole(digits: str) -> int:
        if len(digits) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    text = text if isinstance(text, str) else text.decode("utf-8")
    try:
        return json.loads(text, parse_int=whole)
    except RecursionError as error:
        raise ValueError("brackets in brackets without end") from error


def read_json(path: Path) -> Any:
    """Read JSON; a file that is damaged, missing or no file is named."""
    try:
        content = parse_json(path.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # ValueError: half a character, which could not be written
        return content
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise AfinaError(f"damaged: {why}", REDO, str(path)) from error


def read_mapping(path: Path, *keys: str) -> dict[str, Any]:
    """:func:`read_json` where it has to be a mapping that holds `keys`; :mod:`afina.record` looks at the values."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(content).__name__}", REDO, str(path))
    for key in keys:
        if key not in content:
            raise AfinaError(f"`{key}` is missing", REDO, str(path))
    return content


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hash_folder(folder: Path, pattern: str = "**/*") -> str:
    """SHA-256 over the names and hashes of the files of a folder."""
    lines = [
        f"{hash_file(file)}  {file.relative_to(folder).as_posix()}"
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_value(value: object) -> str:
    """SHA-256 of a plain value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class Run:
    """The folder of a run, open and locked.

    Args of :meth:`open`: the folder, and the resolved recipe, which is written to
    ``recipe.yaml`` when the first stage begins.
    """

    folder: Path
    recipe: Recipe
    say: Callable[[str], None]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: FileLock | None = None
    _metrics: TextIO | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        recipe: Recipe,
        say: Callable[[str], None],
        *,
        writes: bool = True,
        launching: bool = False,
    ) -> Run:
        """Open or create a run's folder.

        Args:
            writes: whether anything will be written into it. Nothing else needs a folder that can be written.
            launching: whether it is opened to bring home what is made of it elsewhere.

        Raises:
            RecipeError: when another process works in it, or another machine, or it cannot be written.
            AfinaError: when ``stages.json`` is not what was written.
        """
        if writes and not launching and (on := launched_on(folder)):
            raise RecipeError(
                f"this run is under way on {on}, and what is made there replaces what would be made here",
                f"bring it home with the command that began it (--on {on}), give this one a name=, or, if that machine "
                f"is no more, remove {launched_file(folder)}",
                str(folder),
            )
        lock: FileLock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise RecipeError(
                "another afina works in this run", "wait for it, or give this one a name=", str(folder)
            ) from None
        except OSError as error:
            if writes or not folder.is_dir():
                what = f"the run's folder cannot be written: {error.strerror or error}"
                raise RecipeError(what, "name a folder that can be with --runs, or allow it", str(folder)) from error
            lock = None
        run = cls(folder, recipe, say, _lock=lock)
        stages = folder / "stages.json"
        if stages.exists():
            run.stages = read_stages(stages)
        return run

    def close(self) -> None:
        """Give the folder back."""
        if self._metrics:
            self._metrics.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, event: str, **values: object) -> None:
        """Append one event to ``metrics.jsonl``."""
        with disk_errors(self.folder / "metrics.jsonl"):
            if self._metrics is None:
                self._metrics = _open_for_append(self.folder / "metrics.jsonl")
            line = json.dumps({"event": event, "time": round(time.time(), 3), **values}, ensure_ascii=False)
            self._metrics.write(line + "\n")
            self._metrics.flush()

    def stage(
        self,
        name: str,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        do: Callable[[], dict[str, Any]],
        *,
        replaces: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Do a stage, or skip it when the same inputs have already given the outputs on disk.

        Args:
            name: of the stage, e.g. ``dataset``.
            inputs: all that the outcome depends on, as plain values; differences are told to the user.
            outputs: files and folders below the run's folder that the stage writes.
            do: the work; its plain return value is kept and handed back when the stage is skipped.
            replaces: what is moved to ``replaced/`` instead of written over where it came of other inputs: for stages
                that cost hours their outputs, and what was made of them.
        """
        plain = json.loads(json.dumps(inputs, ensure_ascii=False, default=str))
        known = self.stages.get(name)
        if known is not None:
            changed = list(_differences(known["inputs"], plain))
            if not changed and self.outputs_hash(outputs) == known["outputs"]:
                self.say(f"{name}: done before, unchanged, kept")
                return dict(known["result"])
            if changed:
                self.say(f"{name}: redone, because of " + "; ".join(changed[:6]) + _more(changed, 6))
                self.set_aside(name, replaces)
            else:
                self.say(f"{name}: redone, because its files on disk are not the ones that it wrote")
        started, began = time.time(), time.monotonic()  # a clock that is set must not change what the budget counts
        self.log("stage", name=name, state="began")
        try:
            result = do()
        except BaseException as error:
            self._note_stop(name, error)
            raise
        self.stages[name] = {
            "inputs": plain,
            "outputs": self.outputs_hash(outputs),
            "wrote": list(outputs),
            "result": result,
            "started": started,
            "seconds": round(time.monotonic() - began, 3),
        }
        self._write_stages()
        self.log("stage", name=name, state="done")
        return result

    def _note_stop(self, name: str, error: BaseException) -> None:
        """Log why a stage did not end: the folder tells nothing else of it. A kill leaves no note."""
        signal = error.code - 128 if isinstance(error, SystemExit) and isinstance(error.code, int) else 0
        if isinstance(error, AfinaError):
            problems = [asdict(problem) for problem in error.problems]
        elif isinstance(error, KeyboardInterrupt) or signal > 0:
            what = "interrupted" if signal <= 0 else f"stopped by signal {signal}"
            problems = [asdict(Problem(what, f"to go on: {again(self.folder)}"))]
        else:
            problems = [asdict(Problem(f"{type(error).__name__}: {error}"[:1000], "", ""))]
        with contextlib.suppress(DiskFull):  # the error that is on its way says it better
            self.log("stage", name=name, state="stopped", error=type(error).__name__, problems=problems)

    def begin(self, name: str, inputs: Mapping[str, object], outputs: Sequence[str]) -> Path | None:
        """Note that a resumable stage has begun, and set aside what an older recipe left of it.

        A stage that leaves states to go on from (training) calls this first: states made from
        other inputs than these are moved to ``replaced/``, never used and never deleted.

        Args:
            outputs: the stage's states and outputs by whatever recipe, and what later stages made of them.

        Returns:
            Where what was set aside lies; None where nothing was.
        """
        plain = json.loads(json.dumps(inputs, ensure_ascii=False, default=str))
        marker, kept = self._marker(name), None
        if marker.exists():
            changed = list(_differences(self.begun(name), plain))
            if changed:
                self.say(f"{name}: started anew, because of " + "; ".join(changed[:6]) + _more(changed, 6))
                kept = self.set_aside(name, outputs)
        write_json(marker, plain | {"check": hash_value(plain)})
        return kept

    def begun(self, name: str) -> dict[str, Any] | None:
        """The inputs that :meth:`begin` noted last, as plain values; None where the stage has not begun.

        Raises:
            AfinaError: the note is not what was written. Taken for another recipe's it would cost a training.
        """
        marker = self._marker(name)
        if not marker.exists():
            return None
        noted = read_mapping(marker)
        check = noted.pop("check", None)  # None: begun before notes had one
        if check is not None and check != hash_value(noted):
            what = f"damaged: what it notes of the stage `{name}` is not what was written"
            raise AfinaError(what, _after_removal(self.folder), str(marker))
        return noted

    def retire(self, name: str, outputs: Sequence[str]) -> None:
        """Set aside what an earlier recipe made by a stage that this one has not, and forget that it was done."""
        self.set_aside(name, outputs)
        known = self.stages.pop(name, None)
        if known is not None or self._marker(name).exists():
            self.log("retired", stage=name)
            self._write_stages()
            self._marker(name).unlink(missing_ok=True)

    def set_aside(self, name: str, outputs: Sequence[str]) -> Path | None:
        """Move what an earlier recipe left to ``replaced/N-name/``, as it lies in the run: it may have cost hours.

        Stages other than `name` whose outputs are among it are forgotten. Returns the folder, None for nothing.
        """
        present = [output for output in dict.fromkeys(outputs) if (self.folder / output).exists()]
        if not present:
            return None
        earlier = self.folder / "replaced"
        numbers = [int(each.name.partition("-")[0]) for each in earlier.glob("[0-9]*-*")]  # some may have been removed
        number = 1 + max(numbers, default=0)
        target = earlier / f"{number}-{name}"
        for output in present:
            (target / output).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / output).rename(target / output)
            if "/" in output:
                with contextlib.suppress(OSError):  # it holds more
                    (self.folder / output).parent.rmdir()
        undone = [
            each for each, known in self.stages.items() if each != name and {*known.get("wrote", ())} & {*present}
        ]
        for each in undone:
            del self.stages[each]
        if undone:
            self._write_stages()
        self.say(f"{name}: what was there is kept in {target}")
        return target

    def replace(
        self,
        name: str,
        output: str,
        made: Path,
        made_of_it: Sequence[str],
        note: Callable[[Path], dict[str, Any]],
        *,
        by: str,
    ) -> None:
        """Put a folder in the place of what a finished stage wrote, as if the stage had: it is not done again for that.

        Args:
            made: the folder, on the run's own disk; it is moved.
            made_of_it: what later stages made of the former output; it is set aside with it.
            note: what is added to the stage's result, given where the former output lies now.
            by: whoever does it.

        Raises:
            RecipeError: nothing says that the stage was done here.
        """
        known = self.stages.get(name)
        if known is None:
            raise RecipeError(
                f"the run does not say how its {output}/ was made: stages.json has no stage `{name}`",
                "copy the whole run, or name a folder of its own for the new one: --to FOLDER",
                str(self.folder),
            )
        kept = self.set_aside(by, [output, *made_of_it])
        assert kept is not None, f"{output} is there"
        made.rename(self.folder / output)
        self.stages[name] = {key: value for key, value in known.items() if key != "check"} | {
            "outputs": self.outputs_hash(known["wrote"]),
            "result": known["result"] | note(kept),
        }
        self._write_stages()

    def _marker(self, name: str) -> Path:
        return self.folder / f".{name}.begun.json"

    def _write_stages(self) -> None:
        for known in self.stages.values():
            known.setdefault("check", _check_of(known))
        write_json(self.folder / "stages.json", self.stages)

    def outputs_hash(self, outputs: Sequence[str]) -> str:
        """SHA-256 over the contents of files and folders of the run."""
        parts = []
        for output in outputs:
            path = self.folder / output
            parts.append(hash_folder(path) if path.is_dir() else hash_file(path) if path.exists() else "missing")
        return hash_value(parts)


def _check_of(known: Mapping[str, Any]) -> str:
    """The hash of what is noted of a stage, by which a change from outside is seen."""
    noted = {key: value for key, value in known.items() if key != "check"}
    return hash_value(json.loads(json.dumps(noted, default=str)))  # as it is read again: keys are texts


def _after_removal(run: Path) -> str:
    return f"remove the file, then: {again(run)} (training goes on from its last checkpoint)"


def read_stages(file: Path) -> dict[str, dict[str, Any]]:
    """What ``stages.json`` notes of each stage. It is believed where it is what was written, and only there: later
    stages take their figures from it without looking twice.

    Raises:
        AfinaError: with every stage whose note is another.
    """
    stages, problems = read_mapping(file), []
    fix = _after_removal(file.parent)
    for name, known in stages.items():
        whole = isinstance(known, dict) and {"inputs", "outputs", "result"} <= {*known}
        if not whole or ("check" in known and known["check"] != _check_of(known)):
            problems.append(
                Problem(f"damaged: what it notes of the stage `{name}` is not what was written", fix, str(file))
            )
    if problems:
        raise AfinaError(problems=problems)
    return stages


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The events of ``metrics.jsonl``; steps done again after a resume count once, the later one, and those of a
    stage that the recipe has no more not at all.

    The last line may be cut by a kill; it is left out.
    """
    file = folder / "metrics.jsonl"
    if not file.exists():
        return []
    events: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = parse_json(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    retired = {event.get("stage"): position for position, event in enumerate(events) if event.get("event") == "retired"}
    events = [event for position, event in enumerate(events) if position > retired.get(event.get("stage"), -1)]
    last_of: dict[tuple[Any, ...], int] = {}
    started: dict[str | None, int] = {}  # by stage of training: the first of two has a name
    for position, event in enumerate(events):
        if event.get("event") in ("step", "validation"):
            last_of[(event["event"], event.get("stage"), event.get("step"))] = position
        elif event.get("event") == "train_started_anew":
            started[event.get("stage")] = position
    return [
        event
        for position, event in enumerate(events)
        if event.get("event") not in ("step", "validation")
        or (
            position > started.get(event.get("stage"), -1)
            and last_of[(event["event"], event.get("stage"), event.get("step"))] == position
        )
    ]


def _open_for_append(path: Path) -> TextIO:
    """Open for appending; a last line without its end (cut by a kill) is closed first."""
    cut = False
    if path.exists() and path.stat().st_size:
        with path.open("rb") as opened:
            opened.seek(-1, os.SEEK_END)
            cut = opened.read(1) != b"\n"
    out = path.open("a", encoding="utf-8")
    if cut:
        out.write("\n")
    return out


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Where two plain values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        long = any(isinstance(value, list | dict) or len(str(value)) > 48 for value in (old, new))
        yield f"{key} changed" if long else f"{key}: {old} -> {new}"


def _more(items: Sequence[object], shown: int) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
