"""What is exported: a run's trained model, its base, its tokenizer, and the questions it is known by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.model.base import check_adapter_fits, find_base, identify_base
from afina.model.base_damage import read_config, weight_files
from afina.model.base_kind import kind_of_config
from afina.model.choices import Precision
from afina.model.shape_read import read_shape
from afina.model.stored_precision import IN_FEW_BITS, stored_precision
from afina.recipe import Recipe
from afina.serve.opened import Target, find_target
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer


@dataclass
class Origin:
    """A run to export, with what of it is small."""

    run: Path
    target: Target
    recipe: Recipe
    base: Path
    """Folder of the weights below the adapter, or of the model that was trained whole."""
    tokenizer: Any

    @property
    def adapter(self) -> Path | None:
        """None where every weight was trained."""
        return self.target.adapter

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self.target.chat)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The base's ``config.json``."""
        return read_config(self.base)

    @cached_property
    def precision(self) -> Precision:
        """The precision that the base's matrices are stored in: what is merged into.

        Raises:
            BaseError: they are stored in fewer bits than 16.
        """
        return stored_precision(self.base, self.config)

    @property
    def in_few_bits(self) -> bool:
        """Whether the base's folder holds 4 or 8 bits, which are dequantized before anything is merged."""
        return kind_of_config(self.config).name in IN_FEW_BITS

    @property
    def weight_bytes(self) -> int:
        """Size of the base's weights; of those in few bits, once they are dequantized."""
        files = sum(file.stat().st_size for file in weight_files(self.base))
        if not self.in_few_bits:
            return files
        parameters = read_shape(self.config, str(self.base)).parameters
        return parameters * (4 if self.precision == "fp32" else 2)


def open_origin(run: Path, places: Sequence[str] = (), say: Callable[[str], None] = lambda _: None) -> Origin:
    """Look at a run without loading any weights.

    Args:
        places: where its base is now, as ``base=PATH``, of a run that was moved.
        say: told where the base has to be read from a GGUF first.

    Raises:
        RecipeError: `run` is not a run, or nothing was trained in it.
        BaseError: the base is missing, or is not the one that the adapter was trained on.
    """
    if not (run / "recipe.yaml").is_file():
        raise RecipeError(f"{run} is not a run: it has no recipe.yaml", "name a folder such as runs/demo")
    target = find_target(str(run), places)
    assert target.recipe is not None
    recipe = target.recipe
    revision = recipe.base_revision if target.adapter else None
    base = find_base(target.base, revision=revision, trust_remote_code=recipe.trust_remote_code, say=say)
    tokenizer = load_tokenizer(str(base), target.chat, root=target.root, trust_remote_code=recipe.trust_remote_code)
    if target.adapter is not None:
        check_adapter_fits(target.adapter, identify_base(base, target.base, tokenizer))
    return Origin(run, target, recipe, base, tokenizer)
