"""The process in which an unknown family's shape is read: it imports what a walk needs, answers, and ends.

    python -m afina.model.shape_apart [--whole] [FOLDER] < config.json

prints one JSON object: `shape`, or `what` and `fix` where there is none. FOLDER is given where code that comes with the
model may run; then, and with --whole, everything is imported as it always is. `doubtful` in the answer says that
what was left out may have spoiled it: whoever asked does it again with --whole.

torch, transformers and PEFT import a compiler, its computer algebra, every method of adapting and a list of all models,
which were two thirds of the time. None of it says anything about a shape. A stand-in that is asked for more than it
answers loads the real module (:mod:`afina.model.deferred`), so that at worst time is lost.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from afina.errors import BaseError
from afina.model.deferred import Deferred, defer
from afina.run import parse_json

UNUSED = ("bitsandbytes", "scipy", "sklearn", "torchaudio", "torchvision")
"""Libraries that transformers and PEFT import wherever they are installed, for what no walk does: quantizing, losses of
other models, pictures and sound. They take as long to load as transformers itself."""
SHARDED = ("torch.distributed.fsdp", "torch.distributed.tensor")
"""What torch and transformers import where several processes may compute together; torch is built without it too."""
FILLS: tuple[str, ...] = ("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_")
FILLS += ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_")
"""What gives a new weight its values, in torch.nn.init: on `meta` there are none to give."""


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """A mark for the compiler: none compiles here."""
    return (lambda marked: marked) if function is None else function


def _true(value: bool, skip: int = 0) -> bool:  # noqa: ARG001  # how many callers to leave out of a report
    """A truth that is known, where symbols would have to be looked at."""
    return bool(value)


def _all_true(*values: bool) -> bool:
    return all(values)


def _any_true(*values: bool) -> bool:
    return any(values)


def _same(left: Any, right: Any) -> bool:
    """Whether two sizes, or two rows of sizes, are equal."""
    return bool([*left] == [*right] if isinstance(left, (list, tuple)) else left == right)


class _Symbol:
    """A class of which nothing is an instance: every size here is a number."""


LATER = {
    "torch._dynamo": Deferred(dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _as_it_is)),
    "torch.fx.experimental.symbolic_shapes": Deferred(
        dict.fromkeys(("guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true"), _true)
        | {"expect_true": _true, "sym_and": _all_true, "sym_or": _any_true}
        | {"is_nested_int": lambda _: False, "has_free_symbols": lambda _: False, "has_guarding_hint": lambda _: True}
        | {"guarding_hint_or_throw": lambda value: value, "sym_eq": _same}
    ),
    "sympy": Deferred({"Basic": _Symbol}),
    "transformers": Deferred(
        places={
            "BloomPreTrainedModel": "transformers.models.bloom.modeling_bloom",
            "PreTrainedModel": "transformers.modeling_utils",
        },
        submodules=True,
    ),
    "transformers.models": Deferred(submodules=True),
    "peft": Deferred(
        places={
            "LoraConfig": "peft.tuners.lora.config",
            "PeftConfig": "peft.config",
            "PeftType": "peft.utils",
        },
    ),
    "peft.tuners": Deferred(),
}
"""Packages that a walk imports for little or nothing, and what it asks them: of a computation in numbers, not symbols,
that nothing compiles."""


def _leave_out() -> None:
    """Import torch and, from here on, as little as a walk needs."""
    defer(LATER)
    import torch

    for name in (*UNUSED, *SHARDED):
        sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say: it is not there
    torch.distributed.is_available = lambda: False
    for name in FILLS:
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    from transformers import utils

    # Its module of processors runs the whole package a second time, for names that it asks when one is opened.
    utils.direct_transformers_import = lambda *_, **__: sys.modules["transformers"]


def main() -> None:
    """Read a configuration, write its shape."""
    gc.disable()  # the walk is all that this process does; it would look through a thousand imports again and again
    words = sys.argv[1:]
    folder = next((Path(word) for word in words if word != "--whole"), None)
    if shortened := not words:
        _leave_out()
    from afina.model.shape_walk_torch import walk

    try:
        shape = walk(parse_json(sys.stdin.read()), folder)
        found: dict[str, Any] = {"shape": shape.as_json()}
        doubtful = bool(shape.uncertain)
    except BaseError as error:
        found = {"what": error.problems[0].what, "fix": error.problems[0].fix}
        doubtful = error.__cause__ is not None  # something was raised that a stand-in may be the cause of
    sys.stdout.write(json.dumps(found | ({"doubtful": True} if shortened and doubtful else {})) + "\n")
    sys.stdout.flush()
    os._exit(0)  # to take down two thousand modules one by one would be a quarter of the time


if __name__ == "__main__":
    main()
