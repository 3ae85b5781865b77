"""What a server answers with: one base, any number of adapters on it, and how each is asked."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.model.base import BaseIdentity, check_adapter_fits, find_base, identify_base
from afina.model.gguf_file import find_gguf
from afina.outcome import chat_of, find_outcome
from afina.recipe import Chat, Recipe, Source, read_saved_recipe
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer


@dataclass(frozen=True, slots=True)
class Target:
    """What stands behind a name on the command line: a run, an adapter's folder, or a base."""

    name: str
    base: str
    """Folder, GGUF or hub id of the weights."""
    chat: Chat
    root: Path
    """What the recipe's template file is relative to."""
    recipe: Recipe | None = None
    run: Path | None = None
    adapter: Path | None = None

    def for_others(self, folder: Path) -> Target:
        """The same as another program opens it: of a GGUF, the folder that was written of it."""
        return self if find_gguf(self.base) is None else replace(self, base=str(folder))

    @property
    def four_bit(self) -> bool:
        """Whether the base was held in 4 bits while the adapter was trained, and so is here."""
        return self.adapter is not None and self.recipe is not None and self.recipe.adapter.kind == "qlora"


def find_target(given: str, places: Sequence[str] = ()) -> Target:
    """What `given` is: a run's folder (``runs/demo``), or a base, as a recipe names one.

    Args:
        places: where a run's base is now, as ``base=PATH``.

    Raises:
        RecipeError: a run that holds nothing trained by its recipe.
    """
    folder = Path(given)
    if not (folder / "recipe.yaml").is_file():
        if places:
            raise RecipeError(
                f"{given} is not a run: {places[0]} has no place there", "name the base itself", places[0]
            )
        return Target(Path(given).name, given, Chat(), Path())
    recipe = read_saved_recipe(folder, places)
    root = Path(recipe.root)
    outcome = find_outcome(folder, recipe)
    adapter = outcome.folder if outcome.kind == "adapter" else None
    base = str(recipe.base) if adapter else str(outcome.folder)
    return Target(recipe.name, base, chat_of(outcome.folder, recipe), root, recipe, folder, adapter)


@dataclass(slots=True)
class Served:
    """A model under a name of its own."""

    name: str
    renderer: Renderer
    inside: str | None
    """PEFT's name of its adapter; None for the base."""
    folder: Path | None = None
    run: Path | None = None
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(slots=True)
class Models:
    """All that one base answers as. ``served[0]`` is the base."""

    model: Any
    """None where another program holds the weights."""
    tokenizer: Any
    identity: BaseIdentity
    chat: Chat
    served: dict[str, Served]
    numbers: Any = field(default_factory=itertools.count)

    @property
    def base(self) -> Served:
        """The base, without any adapter."""
        return next(iter(self.served.values()))

    def load(self, name: str, folder: Path, chat: Chat | None = None, run: Path | None = None) -> str | None:
        """Add an adapter; returns a warning where its base cannot be checked.

        Raises:
            RecipeError: the name is taken.
            BaseError: it was trained on another base, or holds no safetensors.
        """
        from afina.model.load_torch import open_adapter

        if name in self.served:
            raise RecipeError(f"the name {name!r} is taken", "choose another, or unload it first")
        if not (folder / "adapter_config.json").is_file():
            raise BaseError(
                "is not an adapter: it has no adapter_config.json", "name a run or PEFT's folder", str(folder)
            )
        warning = check_adapter_fits(folder, self.identity)
        inside = f"adapter{next(self.numbers)}"  # PEFT's names are those of modules: no dots
        self.model = open_adapter(self.model, folder, inside)
        self.served[name] = Served(name, Renderer(self.tokenizer, chat or self.chat), inside, folder, run)
        return warning

    def unload(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            RecipeError: there is none of that name.
        """
        served = self.served.get(name)
        if served is None or served.inside is None:
            raise RecipeError(
                f"there is no adapter {name!r}", f"there are: {', '.join(list(self.served)[1:]) or 'none'}"
            )
        self.model.delete_adapter(served.inside)
        del self.served[name]


def open_models(
    target: Target, adapters: Mapping[str, Target], device: str = "auto", say: Callable[[str], None] = lambda _: None
) -> tuple[Models, list[str]]:
    """Load the base of `target` once, and every adapter on it; with it, what could not be checked.

    Raises:
        BaseError: an adapter was trained on another base.
        RecipeError: a name is taken, or an adapter is not an adapter.
    """
    from afina.model.load_torch import load_base, pick_device

    folder, models = _base_alone(target, say)
    models.model = load_base(folder, recipe_of(target, folder), pick_device(device), four_bit=target.four_bit)
    in_four_bits = bool(getattr(models.model, "is_loaded_in_4bit", False))  # by its own files, or for this run
    warnings: list[str | None] = []
    for name, each in _wanted(target, adapters).items():
        warnings.append(_other_bits(name, each, in_four_bits))
        own = each.chat if each.recipe else None
        warnings.append(models.load(name, each.adapter or Path(each.base), own, each.run))
    return models, [warning for warning in warnings if warning]


def name_models(
    target: Target, adapters: Mapping[str, Target], say: Callable[[str], None]
) -> tuple[Path, Models, list[str]]:
    """The base's folder and what :func:`open_models` gives, without opening any weights: another program does.

    :attr:`Served.inside` is an adapter's place among the adapters, as text.

    Raises:
        BaseError, RecipeError: as :func:`open_models`.
    """
    folder, models = _base_alone(target, say)
    warnings: list[str | None] = []
    for number, (name, each) in enumerate(_wanted(target, adapters).items()):
        if name in models.served:
            raise RecipeError(f"the name {name!r} is taken", "choose another, or unload it first")
        place = each.adapter or Path(each.base)
        warnings += [_other_bits(name, each, False), check_adapter_fits(place, models.identity)]
        renderer = Renderer(models.tokenizer, each.chat if each.recipe else models.chat)
        models.served[name] = Served(name, renderer, str(number), place, each.run)
    return folder, models, [warning for warning in warnings if warning]


def recipe_of(target: Target, folder: Path) -> Recipe:
    """The recipe by which the base is opened."""
    return target.recipe or Recipe(name="served", base=str(folder), sources=[Source(path=".")])


def _base_alone(target: Target, say: Callable[[str], None]) -> tuple[Path, Models]:
    """The base's folder, and its name, tokenizer and identity, with no weights opened."""
    remote_code = bool(target.recipe and target.recipe.trust_remote_code)
    revision = target.recipe.base_revision if target.recipe and target.adapter else None
    folder = find_base(target.base, revision=revision, trust_remote_code=remote_code, say=say)
    tokenizer = load_tokenizer(str(folder), target.chat, root=target.root, trust_remote_code=remote_code)
    # A model trained whole is the run; an adapter's base goes by its own name.
    name = target.name if target.adapter is None else Path(target.base).name
    run = target.run if target.adapter is None else None
    base = Served(name, Renderer(tokenizer, target.chat), None, run=run)
    return folder, Models(None, tokenizer, identify_base(folder, target.base, tokenizer), target.chat, {name: base})


def _wanted(target: Target, adapters: Mapping[str, Target]) -> dict[str, Target]:
    """Every adapter by name, the run's own first.

    Raises:
        RecipeError: one of them is not an adapter.
    """
    wanted = ({target.name: target} if target.adapter else {}) | dict(adapters)
    for name, each in wanted.items():
        if each.adapter is None and not (Path(each.base) / "adapter_config.json").is_file():
            raise RecipeError(
                f"{each.base} is not an adapter", "give --adapter NAME=RUN of an adapter's run", f"--adapter {name}"
            )
    return wanted


def _other_bits(name: str, each: Target, in_four_bits: bool) -> str | None:
    if each.four_bit == in_four_bits:
        return None
    return f"{name} was trained on a base in {'4' if each.four_bit else '16 or 32'} bits; this one is not"
