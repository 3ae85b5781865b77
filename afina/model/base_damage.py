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

from afina.errors import BaseError, Problem, RecipeError
from afina.model.base_kind import kind_of_config, read_object
from afina.model.shape_table import (
    KNOWN,
    PAD_BY_DEFAULT,
    WITHOUT_PADDING,
    in_table,
    rotary,
    rotary_kind,
    rotary_kinds,
    table_shape,
    ties,
)
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
_QUANTIZED_BY: Mapping[str, tuple[str, ...]] = {
    "bnb-4bit": (".quant_state.", ".absmax"),
    "rounded": ("_scale", "_scale_inv", "_scales", "_blocks"),
}
"""Kind of base -> what names of its weights have in them, or end with, where they are held so."""
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

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
    if weights and not any((folder / name).exists() for name in TOKENIZERS):
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
        misfits = list(_misfits(folder, config, shapes, ids or {}))
        problems += misfits
        if whole and config.get("model_type") in KNOWN:
            problems += _misfits_of_known(folder, config, shapes)
        if whole:
            problems += [] if misfits else _beside_the_table(folder, config, shapes)
            problems += _not_quantized(folder, config, shapes)
            problems += _two_for_one(folder, config, shapes)
            problems += _two_sets(folder)
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
    """Every token with its id, as ``tokenizer.json`` and the files beside it say, those too that transformers adds
    behind the others because a file names them and none holds them; of a tokenizer without that file the added ones
    alone. None where there is nothing of it."""
    content = _read_json(folder / "tokenizer.json", problems)
    settings = read_object(folder / "tokenizer_config.json") or {}
    if content is None:
        return _added_ids(folder, settings) or None
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
    ids |= _added_ids(folder, settings)
    behind = 1 + max(ids.values(), default=-1)
    nowhere = [token for token in dict.fromkeys(_named_tokens(folder, settings)) if token not in ids]
    return ids | {token: number for number, token in enumerate(nowhere, start=behind)}


def _added_ids(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that were added to a vocabulary, as the files beside it say."""
    added = read_object(folder / "added_tokens.json") or {}
    ids = {token: number for token, number in added.items() if isinstance(number, int)}
    decoder = settings.get("added_tokens_decoder")
    for number, each in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(each, dict) and "content" in each and str(number).isdigit():
            ids[str(each["content"])] = int(number)
    return ids


def _named_tokens(folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens that the tokenizer's settings name."""
    older = {} if "added_tokens_decoder" in settings else read_object(folder / "special_tokens_map.json") or {}
    for key in _NAMED_TOKENS:
        named = older.get(key) or settings.get(key)
        token = named.get("content") if isinstance(named, dict) else named
        if isinstance(token, str) and token:
            yield token


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


def _beside_the_table(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """The matrices of each layer of a family whose names are known, beside those that the configuration describes: of
    another shape, missing, and what has no place in it (biases, norms of queries and keys, scales of few bits)."""
    if not in_table(config) or config.get("quantization_config") or config.get("quantization"):
        return
    try:
        shape = table_shape(config, "")
    except RecipeError:  # a number is missing: who reads the shape says so
        return
    if not shape.layers or not shape.layers[0].linears or shape.layers[0].mixer == "recurrent":
        return
    turned = config.get("model_type") == "gpt2"  # its matrices are inputs x outputs
    wanted: dict[str, list[int]] = {}
    for linear in shape.layers[0].linears:
        sizes = [linear.outputs, linear.inputs]
        wanted[f"{linear.name}.weight"] = sizes[::-1] if turned else sizes
        if linear.bias:
            wanted[f"{linear.name}.bias"] = sizes[:1]
    holders = {linear.name for linear in shape.layers[0].linears}
    holders |= set() if shape.layers[0].qk_norm else set(_QK_NORMS)
    lost: list[str] = []
    other: list[str] = []
    found: set[tuple[int, str]] = set()
    for name, sizes in shapes.items():
        if not (match := _LAYER_OF_KNOWN.match(name)):
            continue
        part = name[match.end() :]
        found.add((int(match[1]), part))
        if part in wanted and sizes != wanted[part]:
            other.append(f"{name} {sizes} instead of {wanted[part]}")
        elif part not in wanted and part.count(".") > 1 and ".".join(part.split(".")[:2]) in holders:
            lost.append(name)
    layers = sum(kind.count for kind in shape.layers)
    missing = [f"layer {number}: {part}" for number in range(layers) for part in wanted if (number, part) not in found]
    where = str(folder)
    for wrong, what in ((other, "are of another shape than config.json says"), (missing, "are missing")):
        if found and wrong:
            yield Problem(
                f"{len(wrong)} of its weights {what} ({'; '.join(wrong[:3])})",
                "copy config.json and weights of one model",
                where,
            )
    lost = [name for name in lost if not (name.endswith(".bias") and is_zero(folder, name))]
    if lost:
        yield lost_weights(lost, where)


def lost_weights(names: list[str], where: str) -> Problem:
    """That weights of a base would be left out."""
    return Problem(
        f"holds {len(names)} weights that its configuration has no place for ({', '.join(names[:3])}): they would be "
        "left out, and it would be another model",
        "copy config.json and weights of one model: biases want `attention_bias` or `mlp_bias` in config.json or "
        "another `model_type`, scales of few bits a `quantization_config`",
        where,
    )


def _not_quantized(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """Weights that are whole where the configuration says that they are in few bits, left over of a training over 4
    bits whose result was merged; and whole numbers where it does not say what they stand for."""
    said, kind = config.get("quantization_config"), kind_of_config(config).name
    signs = _QUANTIZED_BY.get(kind)
    unsaid = isinstance(said, Mapping) and (
        not said or (said.get("quant_method") == "bitsandbytes" and kind == "quantized")
    )
    if unsaid or (signs and not any(sign in name for name in shapes for sign in signs)):
        yield Problem(
            "config.json says that the weights are quantized (quantization_config), and "
            + ("does not say how" if unsaid else "none of them is"),
            "take quantization_config out of config.json; or get the quantized weights that it was written for",
            str(folder),
        )
    if kind in ("causal", "sees"):
        held = _places_in(weight_files(folder))
        whole = [name for name in held if name.endswith(".weight") and held[name].dtype[0] in "IU"]
        if whole:
            yield Problem(
                f"{len(whole)} of its weights are whole numbers ({', '.join(whole[:3])}), and config.json does not say "
                "what they stand for",
                "get the config.json that belongs to these quantized weights, or the unquantized model",
                str(folder),
            )


def _two_sets(folder: Path) -> Iterator[Problem]:
    """A single file and shards with their index, which hold other numbers: an older copy of the model is left, and
    nobody can tell which one is meant."""
    single, index = folder / SINGLE, folder / INDEX
    if not (single.is_file() and index.is_file()):
        return
    named = (read_object(index) or {}).get("weight_map")
    files = {folder / str(shard) for shard in (named.values() if isinstance(named, dict) else ())} - {single}
    if not files or not all(file.is_file() for file in files):
        return
    try:
        one, other = _places_in([single]), _places_in(sorted(files))
    except (ValueError, OSError, KeyError, TypeError):  # the shards are not those that are opened, and are damaged
        return
    same = one.keys() == other.keys() and not any(_differ(one[name], other[name]) for name in one)
    if not same:
        yield Problem(
            f"holds two models: {SINGLE}, which would be opened, and other weights in {len(files)} shards ({INDEX})",
            "remove the one that is not meant; the index goes with the shards",
            str(folder),
        )


def _two_for_one(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """Two matrices where the configuration says that they are one: transformers opens both, llama.cpp, vLLM and mlx-lm
    take the embedding for either."""
    head = next((name for name in shapes if name.endswith(HEAD)), None)
    embedding = next((name for name in shapes if name.endswith(EMBEDDINGS)), None)
    if head is None or embedding is None or not ties(config):
        return
    held = _places_in(weight_files(folder))
    if shapes[head] == shapes[embedding] and not _differ(held[embedding], held[head]):
        return
    yield Problem(
        f"config.json says that embedding and output are one matrix (tie_word_embeddings), and the weights hold two "
        f"others ({embedding}, {head}): some programs take one, some both",
        "write `tie_word_embeddings: false` into config.json where the output was trained apart, as by "
        "modules_to_save; else take it out of the weights",
        str(folder),
    )


def is_zero(folder: Path, name: str) -> bool:
    """Whether a tensor of a base holds zeros alone; no tensor does not."""
    place = _places_in(weight_files(folder)).get(name)
    if place is None:
        return False
    with place.file.open("rb") as opened:
        opened.seek(place.start)
        return not any(opened.read(place.size))


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a safetensors file, in bytes."""

    file: Path
    dtype: str
    start: int
    size: int


def _places_in(files: Iterable[Path]) -> dict[str, _Place]:
    """Every tensor of whole safetensors files, by name."""
    found: dict[str, _Place] = {}
    for file in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = parse_json(opened.read(length))
        for name, held in header.items():
            if name != "__metadata__":
                begin, end = held["data_offsets"]
                found[name] = _Place(file, str(held["dtype"]), 8 + length + begin, end - begin)
    return found


def _differ(one: _Place, other: _Place) -> bool:
    """Whether two tensors hold other numbers, of one type and size; looked at in places all over them, as they may be
    large."""
    if one.dtype != other.dtype or one.size != other.size:
        return False
    starts = range(0, one.size, max(_LOOKED, one.size // 64))
    with one.file.open("rb") as first, other.file.open("rb") as second:
        for start in starts:
            pieces = []
            for opened, place in ((first, one), (second, other)):
                opened.seek(place.start + start)
                pieces.append(opened.read(min(_LOOKED, place.size - start)))
            if pieces[0] != pieces[1]:
                return True
    return False


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
