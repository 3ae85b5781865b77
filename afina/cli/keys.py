"""Options of the command line that set a key of the recipe: their help is the key's own."""

from __future__ import annotations

from typing import Any

from afina.cli.verb import Verb

KEY_OF = {"anyway": "budget.anyway", "engine": "dataset.engine"}
"""Option -> the key that it sets."""


class KeyCommand(Verb):
    """A verb that opens a recipe. Its room is loaded when its options are looked at, so that ``afina --help`` is not
    slower."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; those that set a key with the help of its field."""
        from afina.recipe.keys import every_key

        keys = {key.path: key for key in every_key()}
        params: list[Any] = [*super().get_params(ctx)]
        for param in params:
            if path := KEY_OF.get(str(param.name)):
                param.help = f"{keys[path].brief} Sets {path}."
        return params
