"""What a base is, proven by hashes, and the checks before anything of it is opened.

Only safetensors are opened: a pickle can run code. Code that comes with a model never runs
unless the recipe names it (``trust_remote_code: true``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, BaseError, Problem, RecipeError
from afina.model.base_damage import TOKENIZERS, find_damage, find_tokens_without_embedding, read_config
from afina.model.base_kind import GGUF_ENDING, KINDS, BaseKind, Program, kind_of, read_object
from afina.model.gguf_file import find_gguf
from afina.model.hub import network_errors, not_given
from afina.model.shape import Shape
from afina.model.shape_read import shape_of_folder
from afina.recipe import Adapter, Recipe
from afina.recipe.home import from_home
from afina.run import hash_file, hash_folder, hash_value, read_mapping

NOT_IN_FOUR_BITS = {
    "rwkv": "RWKV divides its own weights while it answers, which they do not bear in 4 bits under an adapter",
    "falcon": "bitsandbytes knows Falcon's matrices by no name and would hold none of them in 4 bits",
}
"""Families over which QLoRA is refused: seen in docs/architectures.md."""
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
IDENTITY_FILE = "afina.json"
TRAIN_AGAIN = "copy the adapter's folder again, or start its run again: training goes on from its last checkpoint"
"""The next step where a trained adapter is damaged."""
TIED = ("lm_head", "embed_out", "embed_tokens", "wte", "embed_in", "word_embeddings")
"""How models call their output matrix and their embedding, which are one where they are tied."""


@dataclass(frozen=True)
class BaseIdentity:
    """Hashes that say which base this is. A path alone proves nothing."""

    name: str
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)

    def differences(self, other: BaseIdentity) -> list[str]:
        """Which parts differ (the name does not count)."""
        return [
            part
            for part in ("weights", "tokenizer", "chat_template")
            if getattr(self, f"{part}_sha256") != getattr(other, f"{part}_sha256")
        ]


def find_base(
    base: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    program: Program = "transformers",
    say: Callable[[str], None],
) -> Path:
    """The folder of a base, checked: itself, what was written of a GGUF, or the hub's snapshot (downloaded if needed).

    Args:
        program: what is to open it.
        say: told where a GGUF is read into a folder first, which may take minutes; nobody who opens a base may be
            silent about that, so there is no default.

    Raises:
        BaseError: it does not exist, is no model that `program` answers with, is damaged, or wants its own code to
            run; with everything that is wrong.
    """
    place = place_of(base, weights=True, say=say)
    if place is None:
        if looks_like_path(base):
            raise no_such_place(base)
        place = _from_hub(base, revision, lambda small: look_at_base(small, base, trust_remote_code, weights=False))
    try:
        look_at_base(place, base, trust_remote_code, program=program)
    except BaseError as error:
        if find_gguf(base) is None:
            raise
        again = f"remove {place}: it is written again"
        raise BaseError(problems=[replace(each, fix=again) for each in error.problems]) from error
    return place


def place_of(base: str, *, weights: bool, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The folder that a base on this machine stands for: itself, or what was written of a GGUF; a file that is no GGUF
    stands for itself, to be refused. None where `base` names nothing on this machine.

    Args:
        weights: whether those of a GGUF have to be there; without them its description is written, and no torch needed.

    Raises:
        BaseError: it names nothing; a GGUF is damaged, or no model that is opened here.
    """
    if not base.strip():
        raise BaseError("no base is named", "name a folder with a model, a GGUF file, or a hub id", "base")
    if (file := find_gguf(base)) is not None:
        from afina.model.gguf_folder import gguf_folder

        return gguf_folder(file, weights=weights, say=say)
    place = from_home(base)
    return place if place.exists() else None


def looks_like_path(base: str) -> bool:
    """Whether somebody means a place on this machine, by how it is written.

    >>> looks_like_path("./models/x"), looks_like_path("x.gguf"), looks_like_path("Qwen/Qwen3-8B")
    (True, True, False)
    >>> looks_like_path("$HOME/x"), looks_like_path("a/b/c"), looks_like_path("gpt2")
    (True, True, False)
    """
    file = base.lower().endswith(GGUF_ENDING)
    odd = not _HUB_ID.fullmatch(base) and not base.startswith("package:")  # `$HOME/x`, `C:\\x`, `file:///x`
    return file or Path(base).is_absolute() or base.startswith((".", "~")) or odd


def no_such_place(base: str) -> BaseError:
    """The error where a path names nothing."""
    return BaseError(
        "there is no such folder or file",
        "name a folder with a model, a GGUF file, or a hub id; of a run that was moved, base=PATH says where its base "
        "is now",
        base,
    )


def look_at_base(
    place: Path,
    base: str,
    trust_remote_code: bool = False,
    *,
    program: Program | None = None,
    weights: bool = True,
) -> BaseKind:
    """What a folder or file holds, where it is a model, and whole.

    Args:
        base: what the user calls it.
        program: what is to open it; None where any will do.
        weights: whether they and the tokenizer have to be there; to plan, ``config.json`` is enough.

    Raises:
        BaseError: with everything that is wrong.
    """
    kind = kind_of(place)
    if not kind.opens:
        raise BaseError(kind.what, kind.instead, base)
    problems = find_damage(place, weights=weights)
    if program is not None and program not in kind.opens:
        others = " or ".join(f"--engine {each}" for each in kind.opens if each != "transformers")
        way = f"`afina serve {others}`" if others else "`afina serve`"
        problems.append(Problem(kind.what, f"{kind.instead}; {way} opens it as it is", base))
    if "auto_map" in (read_object(place / "config.json") or {}) and not trust_remote_code:
        problems.append(
            Problem(
                "wants to run code that comes with it (auto_map in config.json)",
                "read that code; if you trust it, write `trust_remote_code: true` into the recipe; or, where "
                "transformers knows models of this type itself, take auto_map out of config.json to open it by that",
                base,
            )
        )
    if problems:
        raise BaseError(problems=problems)
    return kind


def check_trainable(folder: Path, recipe: Recipe) -> Shape:
    """Refuse a base over which this recipe's adapter cannot be trained, or not be used afterwards.

    Args:
        folder: looked at by :func:`look_at_base`; its weights need not be there.

    Raises:
        BaseError: with everything that is wrong.
        RecipeError: the same, where it is the recipe's settings alone.
    """
    kind, adapter = kind_of(folder), recipe.adapter
    problems: list[Problem] = []
    if adapter.kind not in kind.trains:
        possible = " or ".join(f"`adapter.kind: {each}` trains over it" for each in kind.trains)
        fix = f"{possible}; or {kind.instead}" if possible else kind.instead
        problems.append(
            Problem(f"{kind.what}, over which adapter.kind {adapter.kind} does not train", fix, str(folder))
        )
    elif kind.name == "bnb-4bit" and adapter.variant == "loftq":
        problems.append(
            Problem(
                "variant loftq starts from what 4 bits lost of the whole weights, and this base holds only the 4 bits",
                "adapter.variant: lora, or name the unquantized model",
                "adapter.variant",
            )
        )
    elif adapter.kind == "qlora" and (why := NOT_IN_FOUR_BITS.get(str(read_config(folder).get("model_type")))):
        problems.append(Problem(why, "adapter.kind: lora", "adapter.kind"))
    wrong_base = bool(problems)
    shape: Shape | None = None
    try:
        shape = shape_of_folder(folder, trust_remote_code=recipe.trust_remote_code)
    except RecipeError as error:
        problems += error.problems
    if shape is not None:
        missing = find_tokens_without_embedding(folder, shape.vocab)
        wrong_base = wrong_base or bool(missing)
        problems += missing
        for check in (partial(check_targets, shape, adapter), partial(check_length, shape, recipe.train.max_length)):
            try:
                check()
            except RecipeError as error:
                problems += error.problems
    if problems or shape is None:
        raise (BaseError if wrong_base or shape is None else RecipeError)(problems=problems)
    return shape


def check_targets(shape: Shape, adapter: Adapter) -> None:
    """Refuse ``adapter.targets`` that the model has not, or shares with another of its layers.

    Tied, output and embedding are one matrix. LoRA on one of them gives two, W + B A and W, and a merged model has
    only one place for them: it would answer otherwise than what was trained.

    Raises:
        RecipeError: for each of them.
    """
    if adapter.kind == "none" or isinstance(adapter.targets, str):
        return
    shared = [name for name in adapter.targets if name.rpartition(".")[2] in TIED]
    if shape.tied_embeddings and shared:
        named = ", ".join(shared)
        raise RecipeError(
            f"{named} is one matrix with the {'embedding' if shared[0].endswith('lm_head') else 'output'} in this base "
            "(tie_word_embeddings): an adapter of one side could be merged nowhere",
            f"leave {named} out of adapter.targets; with `adapter.modules_to_save: [lm_head]` instead the output is "
            "trained whole and apart from the embedding, and is merged",
            "adapter.targets",
        )
    shape.lora_parameters(adapter.rank, adapter.targets)


def check_length(shape: Shape, max_length: int) -> None:
    """Refuse rows longer than the base has positions for: it would read them, and answer with noise.

    Raises:
        RecipeError: with both lengths.
    """
    if 0 < shape.max_positions < max_length:
        raise RecipeError(
            f"train.max_length is {max_length}, the base sees {shape.max_positions} tokens at most",
            f"set train.max_length to {shape.max_positions} or less, and dataset.on_too_long: drop for longer "
            "conversations",
            "train.max_length",
        )


def _from_hub(base: str, revision: str | None, look: Callable[[Path], object]) -> Path:
    """The snapshot of a hub id; `look` sees what is small of it before gigabytes of weights come."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    small = ["*.json", "*.model", "*.txt", "*.jinja"]
    wrong: tuple[type[Exception], ...] = (*network_errors(), HFValidationError)
    try:
        folder = Path(snapshot_download(base, revision=revision, allow_patterns=small))
        if not any(folder.glob("*.safetensors")):
            if "gguf" in base.lower() and not (folder / "config.json").exists():
                raise BaseError(KINDS["gguf"].what, KINDS["gguf"].instead, base)
            look(folder)
        return Path(snapshot_download(base, revision=revision, allow_patterns=[*small, "*.safetensors"]))
    except wrong as error:
        raise not_given(error, base, revision) from error


def identify_base(folder: Path, name: str, tokenizer: Any) -> BaseIdentity:
    """Hash a base's weights, its tokenizer and the chat template in use."""
    named = [[file for file in files if (folder / file).exists()] for files in (TOKENIZERS[:3], TOKENIZERS[3:])]
    tokenizer_files = named[0] or named[1]
    return BaseIdentity(
        name=name,
        weights_sha256=hash_folder(folder, "*.safetensors"),
        tokenizer_sha256=hash_value([hash_file(folder / file) for file in tokenizer_files]),
        chat_template_sha256=hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest(),
    )


def hash_model(folder: Path) -> dict[str, str]:
    """Hashes of everything in a model's folder that its answers depend on."""
    patterns = {"weights": "*.safetensors", "tokenizer": "tokenizer*", "template": "*.jinja", "config": "config.json"}
    return {name: hash_folder(folder, pattern) for name, pattern in patterns.items()}


def hash_tokenizer(folder: Path) -> dict[str, str]:
    """Hashes of the files in a model's folder that decide how a text becomes tokens, by name."""
    patterns = ["tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"]
    patterns += ["*.jinja", "*.model", "*.tiktoken", "*.py", "config.json"]
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.name: hash_file(file) for file in sorted(files)}


ADAPTER_VALUES: Mapping[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "target_modules": (list, str),
    "target_parameters": (list,),
    "modules_to_save": (list,),
    "base_model_name_or_path": (str,),
    "bias": (str,),
    "layer_replication": (list,),
}
"""What is computed with of PEFT's configuration, and of which kind it is where it is there and not null."""
_HELD: Mapping[str, tuple[type, ...]] = {
    "rank_pattern": (int,),
    "alpha_pattern": (int, float),
    "target_modules": (str,),
    "target_parameters": (str,),
    "modules_to_save": (str,),
}
"""And of which kind is what such a list or mapping holds."""


def read_adapter_config(adapter: Path) -> dict[str, Any]:
    """PEFT's ``adapter_config.json`` in an adapter's folder.

    Raises:
        BaseError: it is damaged: PEFT itself looks at no value before it computes with it.
    """
    file = adapter / "adapter_config.json"
    try:
        config = read_mapping(file)
    except AfinaError as error:
        raise BaseError(problems=[replace(each, fix=TRAIN_AGAIN) for each in error.problems]) from error
    values = [(key, config[key], kinds) for key, kinds in ADAPTER_VALUES.items() if config.get(key) is not None]
    values += [(key, each, kinds) for key, kinds in _HELD.items() for each in _held(config.get(key))]
    if wrong := [f"`{key}` is {value!r:.60}" for key, value, kinds in values if not isinstance(value, kinds)]:
        raise BaseError(f"damaged: {', '.join(wrong)}", TRAIN_AGAIN, str(file))
    return config


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_identity(adapter: Path) -> BaseIdentity | None:
    """The base that an adapter was trained on, or None for an adapter that afina did not write."""
    file = adapter / IDENTITY_FILE
    if not file.exists():
        return None
    known = (read_object(file) or {}).get("base")
    names = [each.name for each in fields(BaseIdentity)]
    if not isinstance(known, dict) or not all(isinstance(known.get(name), str) for name in names):
        raise BaseError("damaged: it does not say which base the adapter was trained on", TRAIN_AGAIN, str(file))
    return BaseIdentity(**{name: known[name] for name in names})


def check_adapter_fits(adapter: Path, base: BaseIdentity) -> str | None:
    """Refuse an adapter that was trained on another base; returns a warning when that cannot be known.

    Raises:
        BaseError: weights, tokenizer or chat template are not those it was trained on.
    """
    trained_on = read_identity(adapter)
    if trained_on is None:
        named = (read_object(adapter / "adapter_config.json") or {}).get("base_model_name_or_path")
        said = f"names its base ({named}) without hashes" if isinstance(named, str) and named else "names no base"
        return f"{adapter} {said}: whether it was trained on this one cannot be checked"
    different = trained_on.differences(base)
    if different:
        raise BaseError(
            f"this adapter was trained on {trained_on.name}, whose {' and '.join(different)} differ from {base.name}",
            "open it on the base it was trained on: base=PATH says where that is now",
            str(adapter),
        )
    return None


def check_same_base(files: Mapping[str, str], trained_on: Mapping[str, str] | None, base: str | None) -> None:
    """A model of which every weight was trained says nothing of its base; the run's stages do.

    Args:
        trained_on: hashes of what it was trained on; None where a run's folder was copied without them.

    Raises:
        BaseError: this is another one.
    """
    if trained_on is None:
        return
    if different := [name for name, value in trained_on.items() if files.get(name) != value]:
        raise BaseError(
            f"the model was trained from another base: {' and '.join(different)} differ",
            "name the base that it was trained from: base=PATH",
            str(base),
        )
