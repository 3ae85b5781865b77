"""What is damaged in a base's folder, or does not fit together: all of it at once, without opening any weights.

Files are pointers of Git LFS, cut short or empty; shards are missing; config, weights and tokenizer are of
different models. transformers would say so minutes later, in a traceback, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import BaseError, Problem
from afina.model.base_kind import read_object
from afina.model.shape_table import KNOWN, PAD_BY_DEFAULT, WITHOUT_PADDING, rotary, rotary_kind, rotary_kinds, ties
from afina.run import parse_json, read_mapping

GET_AGAIN = "get the file again: hf download, or git lfs pull in the folder"
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""How published models call their table of token embeddings."""
NOT_IN_THE_MODEL: Mapping[str, frozenset[str]] = {"gemma3_text": frozenset({"<image_soft_token>"})}
"""Tokens that a family's tokenizer has and its text model, as published, has no row for."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")

_DTYPE = re.compile(r"b?float(?:8_\w+|16|32|64)?|half|double|u?int(?:8|16|32|64)")
_LAYER_OF_KNOWN = re.compile(r"(?:model\.|transformer\.)?(?:layers|h)\.(\d+)\.")
HEAD = "lm_head.weight"
"""How the families that are known call their output matrix."""
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
"""What names of weights begin with where a model was saved inside of something else. One ``model.`` too many is none:
transformers takes it off."""
_LOOKED = 4096

Shapes = Mapping[str, list[int]]


def find_damage(folder: Path, *, weights: bool = True) -> list[Problem]:
    """Everything that is wrong with a causal model's folder.

    Args:
        weights: whether they, and the tokenizer, have to be there. What is there is looked at in any case.
    """
    problems: list[Problem] = []
    config = _read_json(folder / "config.json", problems, required=True)
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        _read_json(folder / name, problems)
    ids = _token_ids(folder, problems)
    if weights and ids is None and not any((folder / name).exists() for name in TOKENIZERS):
        problems.append(
            Problem(
                "holds no tokenizer (" + ", ".join(TOKENIZERS[:3]) + ")",
                "copy the base's tokenizer files beside its weights",
                str(folder),
            )
        )
    said = (config or {}).get("dtype", (config or {}).get("torch_dtype"))
    if isinstance(said, str) and not _DTYPE.fullmatch(said):
        problems.append(
            Problem(
                f"its numbers are said to be {said!r} (torch_dtype), which is no type of torch",
                "write the one that its weights are held in, such as bfloat16",
                str(folder / "config.json"),
            )
        )
    if config is not None and config.get("model_type") in KNOWN and "auto_map" not in config:
        problems += _not_built(str(folder / "config.json"), config)
    before = len(problems)
    shapes = _weights(folder, problems, required=weights)
    if config is not None and shapes:
        whole = len(problems) == before
        problems += _misfits(folder, config, shapes, ids or {})
        if whole and config.get("model_type") in KNOWN:
            problems += _misfits_of_known(folder, config, shapes)
        if whole:
            problems += _two_for_one(folder, config, shapes)
    return problems


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Name and shape of each tensor in a safetensors file, from its header.

    Raises:
        ValueError: the file is no safetensors, or is not whole; with how much of it is there.
    """
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as opened:
        begins = opened.read(len(_POINTER))
    if begins == _POINTER:
        raise ValueError("is a pointer of Git LFS, not the weights")
    if not begins:
        raise ValueError("is empty")
    try:
        with safe_open(file, framework="np") as held:
            shapes = {name: list(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"is damaged or not whole ({file.stat().st_size} bytes): {error}") from error
    if not shapes:
        raise ValueError("holds no weights")
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that transformers would read, of a folder that :func:`find_damage` has looked at. Others may
    lie beside them: the same weights as their maker stores them, an older copy."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [folder / SINGLE] if (folder / SINGLE).is_file() else []
    return [folder / name for name in sorted(set(read_mapping(folder / INDEX)["weight_map"].values()))]


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model's folder.

    Raises:
        BaseError: it is missing or damaged.
    """
    problems: list[Problem] = []
    config = _read_json(folder / "config.json", problems, required=True)
    if config is None:
        raise BaseError(problems=problems)
    return config


def _read_json(file: Path, problems: list[Problem], *, required: bool = False) -> dict[str, Any] | None:
    if not file.exists():
        if required:
            problems.append(Problem("is missing", "name a folder that a model was saved in", str(file)))
        return None
    try:
        whole = file.read_bytes()
        if whole.startswith(_POINTER):
            problems.append(Problem("is a pointer of Git LFS, not the file", GET_AGAIN, str(file)))
            return None
        content = parse_json(whole)
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        problems.append(Problem(f"damaged: {why}", GET_AGAIN, str(file)))
        return None
    if not isinstance(content, dict):
        problems.append(Problem("damaged: it is not a mapping of keys to values", GET_AGAIN, str(file)))
        return None
    return content


def _token_ids(folder: Path, problems: list[Problem]) -> dict[str, int] | None:
    """Every token with its id, as ``tokenizer.json`` and the files beside it say; None where there is no such file."""
    content = _read_json(folder / "tokenizer.json", problems)
    if content is None:
        return None
    model, added = content.get("model"), content.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict | list) or not isinstance(added, list):
        problems.append(Problem("damaged: it holds no vocabulary", GET_AGAIN, str(folder / "tokenizer.json")))
        return None
    if isinstance(vocab, list):  # Unigram: pairs of a piece and its score
        vocab = {str(pair[0]): number for number, pair in enumerate(vocab) if isinstance(pair, list) and pair}
    ids = {str(token): number for token, number in vocab.items() if isinstance(number, int)}
    marks = [each for each in added if isinstance(each, dict) and isinstance(each.get("id"), int)]
    ids |= {str(each.get("content")): each["id"] for each in marks}
    ids |= {
        token: number
        for token, number in (read_object(folder / "added_tokens.json") or {}).items()
        if isinstance(number, int)
    }
    decoder = (read_object(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder")
    for number, each in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(each, dict) and "content" in each and str(number).isdigit():
            ids[str(each["content"])] = int(number)
    return ids


def _weights(folder: Path, problems: list[Problem], *, required: bool) -> dict[str, list[int]]:
    """The shapes in the files that transformers would read, and what is wrong with those."""
    index, single = folder / INDEX, folder / SINGLE
    shapes: dict[str, list[int]] = {}
    if single.exists() or not index.exists():
        files: Iterable[Path] = [single] if single.exists() else []
        if not files and (required or any(folder.glob("*.safetensors"))):
            problems.append(_no_weights(folder))
        return shapes | _shapes_of(files, problems)
    content = _read_json(index, problems)
    named = (content or {}).get("weight_map")
    if content is not None and not isinstance(named, dict):
        problems.append(Problem("damaged: it names no weights (weight_map)", GET_AGAIN, str(index)))
    if not isinstance(named, dict):
        return shapes
    shards = sorted({str(shard) for shard in named.values()})
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing and (required or len(missing) < len(shards)):
        several = f"{len(missing)} of {len(shards)} files of weights are missing"
        problems.append(Problem(f"{several}: {', '.join(missing[:3])}", "copy the whole model folder", str(folder)))
    shapes = _shapes_of([folder / shard for shard in shards if shard not in missing], problems)
    if not missing and shapes and (lost := sorted(set(named) - set(shapes))) and not _any_file_damaged(problems):
        problems.append(
            Problem(f"names {len(lost)} weights that no file holds: {', '.join(lost[:3])}", GET_AGAIN, str(index))
        )
    return shapes


def _any_file_damaged(problems: Iterable[Problem]) -> bool:
    return any(problem.where.endswith(".safetensors") for problem in problems)


def _shapes_of(files: Iterable[Path], problems: list[Problem]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            shapes |= read_shapes(file)
        except (ValueError, OSError) as error:
            what = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            problems.append(Problem(what, GET_AGAIN, str(file)))
    return shapes


def _no_weights(folder: Path) -> Problem:
    there = sorted(file.name for file in folder.glob("*.safetensors"))
    if any(_SHARD.search(name) for name in there):
        return Problem(
            "holds shards of weights without their index (model.safetensors.index.json)",
            "copy the whole model folder",
            str(folder),
        )
    if there:
        return Problem(
            f"holds weights under names that transformers does not open ({', '.join(there[:3])})",
            "it opens model.safetensors, or shards with model.safetensors.index.json",
            str(folder),
        )
    return Problem("has no weights (*.safetensors)", "copy the whole model folder", str(folder))


def _misfits(folder: Path, config: Mapping[str, Any], shapes: Shapes, ids: Mapping[str, int]) -> Iterator[Problem]:
    """Where config, weights and tokenizer are not of one model."""
    where = str(folder)
    held = {int(found[1]) for name in shapes if (found := _LAYER.search(name))}
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    if isinstance(layers, int) and held and (lost := sorted(set(range(layers)) - held)):
        yield Problem(
            f"config.json says {layers} layers, the weights hold {len(held)} (layer {lost[0]} is missing)",
            "copy the whole model folder",
            where,
        )
    if wrapped := next((each for each in WRAPPERS if all(name.startswith(each) for name in shapes)), None):
        yield Problem(
            f"the names of its weights begin with {wrapped!r}: it was saved inside of something else",
            "save the model itself: model.module of DistributedDataParallel, model._orig_mod of torch.compile, "
            "model.merge_and_unload() of PEFT; or take that from the names, and save them again",
            where,
        )
    rows = next((shape[0] for name, shape in shapes.items() if name.endswith(EMBEDDINGS)), None)
    if rows is None:
        return
    vocab = config.get("vocab_size")
    if isinstance(vocab, int) and vocab != rows:
        yield Problem(
            f"config.json says a vocabulary of {vocab}, the weights hold {rows} embeddings",
            "copy config.json and weights of one model",
            where,
        )
    yield from _without_embedding(where, config, ids, rows)


def _misfits_of_known(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """What transformers would pass over, or make up by random numbers, of a family whose names are known."""
    where, layers = str(folder), config.get("num_hidden_layers", config.get("n_layer"))
    held = {int(found[1]) for name in shapes if (found := _LAYER_OF_KNOWN.match(name))}
    if isinstance(layers, int) and (more := sorted(each for each in held if each >= layers)):
        yield Problem(
            f"config.json says {layers} layers, the weights hold {len(held)}: from layer {more[0]} on they would be "
            "left out",
            "copy config.json and weights of one model; where it is meant to be shorter, save it so by save_pretrained",
            where,
        )
    embedding = any(name.endswith(EMBEDDINGS) for name in shapes)
    if embedding and not ties(config) and not any("lm_head." in name for name in shapes):
        yield Problem(
            f"the weights hold no output matrix ({HEAD}), and config.json does not say that it is the embedding: it "
            "would be random numbers",
            "copy the whole model folder; or, where the model was made with one matrix for both, write "
            "`tie_word_embeddings: true` into config.json",
            where,
        )


def _not_built(where: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """What transformers makes no model of, of a family that is known: it would be found when the base is opened, behind
    the dataset. The families that are not known were built by then to read their shape."""
    kind, kinds = str(config["model_type"]), rotary_kinds(str(config["model_type"]))
    key, rope = rotary(config)
    if kinds and rope:
        named = rotary_kind(rope) if isinstance(rope, Mapping) else rope
        needed = kinds.get(named) if isinstance(rope, Mapping) and isinstance(named, str) else None
        if needed is None:
            yield Problem(
                f"`{key}` names the rotary positions {named!r:.60}, which a {kind} model has not",
                f"write the kind that its weights were trained with, one of {', '.join(kinds)}; its maker's page has "
                "the whole config.json",
                where,
            )
        elif lacks := [each for each in needed if each not in rope]:
            yield Problem(
                f"`{key}` names the rotary positions {named!r} and lacks {', '.join(lacks)}",
                "copy config.json again: its maker's page has the whole of it",
                where,
            )
    pad, vocab = config.get("pad_token_id", PAD_BY_DEFAULT.get(kind)), config.get("vocab_size")
    if kind in WITHOUT_PADDING or not isinstance(pad, int) or not isinstance(vocab, int):
        return
    if not -vocab <= pad < vocab:
        said = f"is {pad}" if "pad_token_id" in config else f"is not there, which means {pad} in a {kind} model,"
        yield Problem(
            f"`pad_token_id` {said} and the vocabulary has {vocab} tokens, with ids up to {vocab - 1}",
            "write `pad_token_id: null` into it; rows are filled up with the tokenizer's own token",
            where,
        )


def _two_for_one(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """Two matrices where the configuration says that they are one: transformers opens both, llama.cpp, vLLM and mlx-lm
    take the embedding for either."""
    head = next((name for name in shapes if name.endswith(HEAD)), None)
    embedding = next((name for name in shapes if name.endswith(EMBEDDINGS)), None)
    if head is None or embedding is None or not ties(config):
        return
    if shapes[head] == shapes[embedding] and not _differ(folder, embedding, head):
        return
    yield Problem(
        f"config.json says that embedding and output are one matrix (tie_word_embeddings), and the weights hold two "
        f"others ({embedding}, {head}): some programs take one, some both",
        "write `tie_word_embeddings: false` into config.json where the output was trained apart, as by "
        "modules_to_save; else take it out of the weights",
        str(folder),
    )


def _differ(folder: Path, one: str, other: str) -> bool:
    """Whether two tensors of one shape hold other numbers; looked at in places all over them, as they may be large."""
    found = [place for name in (one, other) for place in [_place_of(folder, name)] if place is not None]
    if len(found) != 2 or found[0].dtype != found[1].dtype or found[0].size != found[1].size:
        return False
    starts = range(0, found[0].size, max(_LOOKED, found[0].size // 64))
    with found[0].file.open("rb") as first, found[1].file.open("rb") as second:
        for start in starts:
            pieces = []
            for opened, place in ((first, found[0]), (second, found[1])):
                opened.seek(place.start + start)
                pieces.append(opened.read(min(_LOOKED, place.size - start)))
            if pieces[0] != pieces[1]:
                return True
    return False


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a safetensors file, in bytes."""

    file: Path
    dtype: str
    start: int
    size: int


def _place_of(folder: Path, name: str) -> _Place | None:
    for file in weight_files(folder):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            held = parse_json(opened.read(length)).get(name)
        if held is not None:
            begin, end = held["data_offsets"]
            return _Place(file, str(held["dtype"]), 8 + length + begin, end - begin)
    return None


def find_tokens_without_embedding(folder: Path, rows: int) -> list[Problem]:
    """The same as :func:`find_damage` says of the tokenizer, for a model of `rows` embeddings whose weights are not
    there, or hold them under a name of their own."""
    config, ids = read_object(folder / "config.json") or {}, _token_ids(folder, []) or {}
    return list(_without_embedding(str(folder), config, ids, rows))


def _without_embedding(where: str, config: Mapping[str, Any], ids: Mapping[str, int], rows: int) -> Iterator[Problem]:
    allowed = NOT_IN_THE_MODEL.get(str(config.get("model_type")), frozenset())
    beyond = sorted((number, token) for token, number in ids.items() if number >= rows and token not in allowed)
    if beyond:
        first = ", ".join(token for _, token in beyond[:3])
        yield Problem(
            f"the tokenizer has {len(beyond)} tokens that the model has no embedding for ({first}: "
            f"{rows} embeddings, ids up to {beyond[-1][0]})",
            "whoever added them has to call model.resize_token_embeddings(len(tokenizer)) and save the model again; "
            "or take the tokenizer that the model came with",
            where,
        )
