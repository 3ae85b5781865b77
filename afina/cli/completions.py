"""What the shell offers behind Tab: recipes, keys of a recipe with their values, runs.

Where nothing is offered the shell completes files by itself. Rooms are loaded when a completion is asked for.
"""

import glob
from collections.abc import Callable
from pathlib import Path

import typer

ENDINGS = (".yaml", ".yml")
RUNS = "runs"
"""Where runs are kept where nothing else is said."""


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes whose path begins so, here or one folder further."""
    return _paths(incomplete, lambda path: path.suffix in ENDINGS and path.is_file())


def complete_plan(incomplete: str) -> list[str]:
    """The same, and what `afina plan` answers without a recipe."""
    return ["scratch", "scaling", *complete_recipe(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Folders of runs whose path begins so; where nothing is written yet, those below ``runs/``."""
    return _paths(incomplete or f"{RUNS}/", lambda path: (path / "recipe.yaml").is_file())


def complete_key(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Keys of a recipe with what they are for, and behind ``KEY=`` the values to choose from, or the default."""
    from afina.recipe.keys import every_key

    keys = {key.path: key for key in every_key() if key.part is None and "[]" not in key.path}
    name, equals, _ = incomplete.partition("=")
    if equals:
        return [(f"{name}={value}", "") for value in keys[name].choices] if name in keys else []
    given = [word for word in context.params.get("overrides") or [] if word != "="]
    if given and given[-1] in keys:  # bash takes `=` for a word of its own
        return [(value, "") for value in keys[given[-1]].choices]
    begun = [key for path, key in keys.items() if path.startswith(incomplete)]
    if len(begun) == 1:  # more than one answer with the same beginning: bash then puts no space behind the `=`
        return [(f"{begun[0].path}={value}", begun[0].brief) for value in ("", *begun[0].choices)]
    return [(f"{key.path}=", key.brief) for key in begun]


def _paths(begun: str, wanted: Callable[[Path], bool]) -> list[str]:
    """As they were begun: `./a` stays `./a`, which a path object would make `a`."""
    found = [each for pattern in ("*", "*/*") for each in glob.glob(glob.escape(begun) + pattern)]  # noqa: PTH207
    return sorted(each for each in found if wanted(Path(each)))
