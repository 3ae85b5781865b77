"""What a server answers with: one base, any number of adapters on it, and how each is asked."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.model.base import BaseIdentity, check_adapter_fits, find_base, identify_base, place_of
from afina.model.base_kind import Program, kind_of
from afina.model.choices import choose_precision
from afina.model.gguf_file import find_gguf
from afina.model.mlx.adapters import load_beside
from afina.model.mlx.mlx_model import MlxModel
from afina.model.opened_by import back_end_of
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
    def base_name(self) -> str:
        """What the base goes by: a model trained whole is the run; what is below an adapter bears its own name, and
        another one where the run is called so too."""
        if self.adapter is None:
            return self.name
        called = Path(self.base).name
        return f"{called}-base" if called == self.name else called

    @property
    def by_mlx(self) -> bool:
        """Whether MLX computes what is asked of it here: what it trained, and what only it opens."""
        if self.recipe is not None:
            return back_end_of(self.recipe).name == "mlx"
        place = place_of(self.base, weights=False)
        return place is not None and kind_of(place).name == "mlx" and find_spec("mlx_lm") is not None

    @property
    def weights_by_mlx(self) -> str:
        """How MLX holds the base, as a plan of serving says it."""
        if not self.four_bit:
            return "16bit"
        assert self.recipe is not None
        return f"mlx-{self.recipe.adapter.bits or 4}-{self.recipe.adapter.group_size or 64}"

    @property
    def four_bit(self) -> bool:
        """Whether the base was held in 4 bits (by MLX also in 8) while the adapter was trained, and so is here."""
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
        return Target(_called(given), given, Chat(), Path())
    recipe = read_saved_recipe(folder, places)
    root = Path(recipe.root)
    outcome = find_outcome(folder, recipe)
    adapter = outcome.folder if outcome.kind == "adapter" else None
    base = str(recipe.base) if adapter else str(outcome.folder)
    return Target(recipe.name, base, chat_of(outcome.folder, recipe), root, recipe, folder, adapter)


def _called(base: str) -> str:
    """What a base goes by: its folder's name also where it is the folder that one is in.

    >>> _called("models/tiny/"), _called("Qwen/Qwen3-8B"), _called(".") == Path.cwd().name
    ('tiny', 'Qwen3-8B', True)
    """
    return Path(os.path.abspath(base)).name  # noqa: PTH100  # no link is followed: its own name was chosen


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
    """Of torch or of MLX; None where another program holds the weights."""
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
        if name in self.served:
            raise RecipeError(f"the name {name!r} is taken", "choose another, or unload it first")
        if not (folder / "adapter_config.json").is_file():
            raise BaseError(
                "is not an adapter: it has no adapter_config.json", "name a run or PEFT's folder", str(folder)
            )
        warning = check_adapter_fits(folder, self.identity)
        inside = f"adapter{next(self.numbers)}"  # PEFT's names are those of modules: no dots
        if isinstance(self.model, MlxModel):
            load_beside(self.model, inside, folder)
        else:
            from afina.model.load_torch import open_adapter

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
        if isinstance(self.model, MlxModel):
            del self.model.beside[served.inside]
        else:
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
    folder, models = _base_alone(target, say)
    models.model = _opened(target, folder, device)
    in_few_bits = bool(
        models.model.quantization
        if isinstance(models.model, MlxModel)
        else getattr(models.model, "is_loaded_in_4bit", False)  # by its own files, or for this run
    )
    warnings: list[str | None] = []
    for name, each in _wanted(target, adapters).items():
        warnings.append(_other_bits(name, each, in_few_bits))
        own = each.chat if each.recipe else None
        warnings.append(models.load(name, each.adapter or Path(each.base), own, each.run))
    return models, [warning for warning in warnings if warning]


def _opened(target: Target, folder: Path, device: str) -> Any:
    """The base, by the back end that trained what is asked, as it was held there."""
    recipe = recipe_of(target, folder)
    if target.by_mlx:
        from afina.model.load_torch import machine_of
        from afina.model.mlx.open_mlx import open_base

        return open_base(folder, recipe, precision=choose_precision(recipe, machine_of(recipe, "mlx")))
    from afina.model.load_torch import load_base, pick_device

    return load_base(folder, recipe, pick_device(device), four_bit=target.four_bit)


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
    program: Program = "mlx" if target.by_mlx else "transformers"
    folder = find_base(target.base, revision=revision, trust_remote_code=remote_code, program=program, say=say)
    tokenizer = load_tokenizer(str(folder), target.chat, root=target.root, trust_remote_code=remote_code)
    name, run = target.base_name, target.run if target.adapter is None else None
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


def _other_bits(name: str, each: Target, in_few_bits: bool) -> str | None:
    if each.four_bit == in_few_bits:
        return None
    bits = (each.recipe.adapter.bits or 4) if each.recipe and each.four_bit else "16 or 32"
    return f"{name} was trained on a base in {bits} bits; this one is not"
