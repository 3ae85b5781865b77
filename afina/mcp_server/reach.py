"""What an agent may have read, and whether it may start runs: the roots that a person named, and nothing around them.

A recipe leads elsewhere by its paths, and some of its settings start programs, download or pay. Both are looked at
before a verb is given it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.errors import Problem, RecipeError
from afina.recipe import Recipe, expand_path, is_remote, load_recipe, read_saved_recipe, recipe_of
from afina.recipe.home import ROOTS, from_home

RUNS_CODE = "trust_remote_code"
"""The key by which code of a base is run."""
OPENED = ("base", "chat.template")
"""What of a run's recipe is read where its model is opened again."""


@dataclass(frozen=True)
class Reach:
    """What the server's tools may do.

    Args:
        runs: where runs are, and are started.
        roots: further folders that may be read; absolute, links followed.
        allow_runs: whether runs may be started, and what costs, downloads or starts programs may be asked.
    """

    runs: Path
    roots: tuple[Path, ...]
    allow_runs: bool = False

    @classmethod
    def of(cls, runs: Path, roots: Sequence[Path], *, allow_runs: bool) -> Reach:
        """With the folders that a person named; this one where none is.

        Raises:
            RecipeError: a root is no folder.
        """
        found = tuple(from_home(root).resolve() for root in roots) or (Path.cwd().resolve(),)
        if missing := [root for root in found if not root.is_dir()]:
            raise RecipeError("there is no such folder", "name one that is there", f"--root {missing[0]}")
        return cls(from_home(runs).resolve(), found, allow_runs)

    @property
    def variables(self) -> dict[str, str]:
        """What a verb's process is told of it: a text may include other files, of these folders alone."""
        return {ROOTS: os.pathsep.join(map(str, (*self.roots, self.runs)))}

    def inside(self, path: str | Path) -> Path:
        """A path with its links followed, which lies in the runs' folder or in a root; one that is not absolute counts
        from the first root.

        Raises:
            RecipeError: it lies elsewhere, or is no path.
        """
        if not str(path).strip():  # `Path("")` is the folder that it counts from
            raise RecipeError("no path is given", "name a file or folder below a root", "path")
        try:
            found = (self.roots[0] / from_home(path)).resolve()
            found.exists()  # what is too long or barred is said here
        except (OSError, ValueError, RuntimeError) as error:
            raise RecipeError(f"no path: {error}", "name a file or folder below a root", str(path)[:200]) from error
        if any(found.is_relative_to(folder) for folder in (self.runs, *self.roots)):
            return found
        places = ", ".join(map(str, (*self.roots, self.runs)))
        raise RecipeError(
            f"outside of what this server may read: {places}",
            "start it with a further folder: `afina mcp --root FOLDER`",
            str(path)[:200],
        )

    def whole(self, path: str | Path) -> Path:
        """:meth:`inside`, with every link below it.

        Raises:
            RecipeError: the path or such a link leads elsewhere.
        """
        found = self.inside(path)
        for link in _links_below(found):
            self.inside(link)
        return found

    def run_folder(self, run: str) -> Path:
        """The folder of a run, by its name or its path.

        Raises:
            RecipeError: it lies elsewhere, or holds no run.
        """
        named = self.runs / run
        folder = self.whole(named if "/" not in run and _is_folder(named) else run)
        if not (folder / "recipe.yaml").is_file():
            raise RecipeError("there is no run here", "the tool `runs` lists the runs that there are", str(run)[:200])
        return folder

    def reopened(self, run: str) -> Path:
        """:meth:`run_folder` of a run whose model is opened: its base may be read too, and brings no code.

        Raises:
            RecipeError: as there, or its recipe names what lies elsewhere or asks for what needs leave.
        """
        folder = self.run_folder(run)
        recipe = read_saved_recipe(folder)
        code = [problem for problem in self._without_leave(recipe) if problem.where == RUNS_CODE]
        self._refuse([*self._outside(each for each in _named_alone(recipe) if each[0] in OPENED), *code])
        return folder

    def recipe(self, file: str, settings: Sequence[str]) -> Path:
        """A recipe's file that may be read, with all that it names.

        Args:
            settings: KEY=VALUE, as on the command line.

        Raises:
            RecipeError: it is no recipe, it names what lies elsewhere, or it asks for what needs leave.
        """
        found = self.inside(file)
        if wrong := [each for each in settings if each.startswith("-")]:
            raise RecipeError(f"{wrong[0]!r} is no setting", "write it as train.epochs=2", "settings")
        recipe = load_recipe(found, list(settings))
        self._refuse([*self._outside([("root", Path(recipe.root))])])  # before any of its globs is followed
        self._refuse([*self._outside(_paths(recipe)), *self._without_leave(recipe)])
        return found

    def check_settings(self, settings: Sequence[str]) -> None:
        """Refuse settings for files that lead elsewhere or ask for what needs leave.

        Raises:
            RecipeError: with each of them.
        """
        recipe = recipe_of(list(settings))
        self._refuse([*self._outside(_named_alone(recipe)), *self._without_leave(recipe)])

    def _refuse(self, problems: Sequence[Problem]) -> None:
        if problems:
            raise RecipeError(problems=problems)

    def _without_leave(self, recipe: Recipe) -> Iterator[Problem]:
        fix = "take it out, or have a person start the server with --allow-runs"
        yield from (Problem(what, fix, key) for key, what in _needs_leave(recipe) if not self.allow_runs)

    def _outside(self, paths: Iterable[tuple[str, Path]]) -> Iterator[Problem]:
        for key, path in paths:
            try:
                (self.inside if key == "root" else self.whole)(path)
            except RecipeError as error:
                for problem in error.problems:
                    yield Problem(problem.what, problem.fix, f"{key}: {problem.where}")


def _is_folder(path: Path) -> bool:
    """Whether a folder is there; False as well where the name is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _paths(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Every file and folder that a recipe names, with its key."""
    root = Path(recipe.root).resolve()
    named: list[tuple[str, str | None]] = []
    for number, source in enumerate(recipe.sources):
        named.append((f"sources.{number}.path", None if is_remote(source.path) else source.path))
        named.append((f"sources.{number}.solutions", source.solutions))
    named.append(("dataset.answers", recipe.dataset.answers))
    named += [(f"evaluate.probes.{number}.path", probe.path) for number, probe in enumerate(recipe.evaluate.probes)]
    named += [(f"evaluate.tasks.{number}.path", task.path) for number, task in enumerate(recipe.evaluate.tasks)]
    named += [("evaluate.prompts", recipe.evaluate.prompts), ("safety.strings", recipe.safety.strings)]
    for key, path in named:
        for found in expand_path(root, path) if path else ():
            yield key, found
    yield from _named_alone(recipe)


def _named_alone(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """What is one path: the root, a template below it, a base, an earlier run."""
    root, template = Path(recipe.root), recipe.chat.template
    yield "root", root
    if template is not None and template != "chatml":
        yield "chat.template", root / template
    for key, path in (("base", recipe.base), ("start_from", recipe.start_from)):
        if path:  # a hub's id is the path of nothing that lies elsewhere
            yield key, Path(path)


def _links_below(folder: Path) -> Iterator[Path]:
    """Links in a folder, which may lead out of it; those that they lead to are not walked."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (entry := Path(place) / name).is_symlink():
                yield entry


def _needs_leave(recipe: Recipe) -> Iterable[tuple[str, str]]:
    """What a look at a recipe would start, download or pay for, by key."""
    asked = {
        "dataset.teacher": ("a teacher is asked, which may cost money", recipe.dataset.teacher is not None),
        "dataset.check_code": ("programs are compiled", bool(recipe.dataset.check_code)),
        "dataset.datatrove": ("jobs are given to other machines", recipe.dataset.datatrove.executor != "local"),
        RUNS_CODE: ("code that came with a base is run", recipe.trust_remote_code),
    }
    remote = [number for number, source in enumerate(recipe.sources) if is_remote(source.path)]
    asked |= {f"sources.{number}.path": ("a website or a dataset is downloaded", True) for number in remote}
    return [(key, f"{what}, and this server only reads") for key, (what, wanted) in asked.items() if wanted]
