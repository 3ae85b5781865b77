"""``afina export``: write the trained model for other programs, open it there, and prove that it is the trained one.

    run ──> its model asked (expected) ──> merged ──> written ──> opened by the other program ──> compared ──> card

The folder gets its name last. An export that is not the trained model is not left there.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import __version__
from afina.errors import BaseError, DiskFull, DoesNotFit, RecipeError, ResultError
from afina.export.card import base_name, public_base, write_card
from afina.export.compare import ExportComparison, compare
from afina.export.converters import (
    check_converter,
    convert_by_llama_cpp,
    find_rounder,
    kinds_in,
    quantize_gguf,
    quantize_mlx,
    write_for_mlx_lm,
)
from afina.export.ollama import modelfile, read_turns
from afina.export.origin import Origin, open_origin
from afina.export.out import EXPORTS, check_out
from afina.export.programs import LlamaCpp, OpenedExport, Transformers, check_opens_gguf, open_gguf, open_mlx
from afina.export.push import PushTarget, check_push, push_folder
from afina.export.template import baked_tokenizer
from afina.llamacpp.gguf_vocab import check_keeps_text
from afina.llamacpp.gguf_write import ARCHITECTURES, ROUNDED_HERE, begins_with_bos, check_architecture, write_gguf
from afina.llamacpp.lora_write import refused_by_llama_cpp, write_lora
from afina.llamacpp.program import INSTALL, find_llama_cpp
from afina.model.base import TRAIN_AGAIN, identify_base, read_adapter_config
from afina.model.base_kind import kind_of_config, read_object
from afina.model.choices import Precision
from afina.model.hub import hub_commit
from afina.model.rounding import tolerance
from afina.recipe import Chat, nearest
from afina.recipe.methods import in_words
from afina.record import Record
from afina.run import Progress, no_progress, read_mapping
from afina.tokenizer.chat import Renderer
from afina.tokenizer.day import TRAINED_DAY, asks_the_day
from afina.tokenizer.folding import folds_of
from afina.tokenizer.load import open_tokenizer
from afina.units import show_bytes
from afina.verify.proof import PROOF, why_no_proof, write_proof
from afina.whole import whole_folder, write_json

if TYPE_CHECKING:
    from afina.export.expected_torch import Expected

FORMATS = ("merged", "gguf", "gguf-lora", "ollama", "mlx", "adapter", "hub-folder")
COMPARISON = "comparison.json"
SHORT: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8": 8.5, "q6": 6.6, "q5": 6.0, "q4": 5.0}
"""Bits a weight, scales included; for the room on the disk."""


@dataclass(frozen=True)
class ExportOptions:
    """What the command line gives."""

    to: str
    """One of :data:`FORMATS`."""
    out: Path | None = None
    quantize: str | None = None
    llama_cpp: Path | None = None
    merged: bool = False
    """With ``hub-folder``: the merged model instead of the adapter."""
    check: bool = True
    tolerance: float | None = None
    licence: str | None = None
    places: Sequence[str] = ()
    """Where base and root are now, as ``base=PATH``."""
    push: PushTarget | None = None
    """With ``hub-folder``: where it goes then."""


@dataclass
class WrittenExport:
    """An export as far as it is written."""

    holds: str
    """What the folder holds: `adapter`, `merged`, `gguf`, `gguf-lora`, `mlx` or `ollama`."""
    kind: str
    """How its weights are held."""
    open: Callable[[int], tuple[OpenedExport, str | None]]
    """Opens it for a context of so many tokens; with what that leaves open."""
    notes: list[str] = field(default_factory=list)


def export(
    run: Path, options: ExportOptions, *, say: Callable[[str], None], progress: Progress = no_progress
) -> dict[str, Any]:
    """Export a run; returns what was made and how it compares, as plain values.

    Raises:
        RecipeError: the command asks for what cannot be, or the run was never measured.
        BaseError: the model has no place in the format.
        DiskFull, DoesNotFit: there is no room, found before anything is read or written.
        ResultError: the export is not the trained model.
    """
    origin = open_origin(run, options.places, say)
    holds = _holds(origin, options)
    if options.push:
        check_push(options.push, origin.recipe, "model")
    kind = _kind(origin, holds, options)
    out = options.out or run / EXPORTS / options.to
    check_out(out)
    _look_before(origin, holds, kind, options)
    _check_room(origin, out, holds, kind)
    _check_memory(origin, compared=options.check)
    for line in _before(origin, holds):
        say(line)
    expected = _expected(origin, progress) if options.check else None
    with whole_folder(out, of_a_person=True) as beside:
        made = _make(origin, holds, kind, beside, options, progress, say)
        made.notes += _folding_notes(origin)
        comparison: ExportComparison | None = None
        if expected is not None:
            comparison = _compare(origin, made, expected, options, progress)
            say(comparison.describe())
            if comparison.identity_problem:
                raise ResultError(
                    f"the run's folder does not hold the model that was measured: {comparison.identity_problem}",
                    f"put back the {'adapter' if origin.adapter else 'model'} that was measured; or measure this one, "
                    f"on this machine: remove {run / 'scores.json'}, `afina eval {run}`, then export again",
                    str(run),
                )
            if comparison.problems:
                raise _wrong(origin, made, comparison, expected, beside, progress)
            write_json(beside / COMPARISON, comparison.as_json())
        else:
            say("not opened and not compared with the run (--no-check)")
        for note in made.notes:
            say(f"note: {note}")
        if why := why_no_proof(run):
            say(f"without {PROOF}/, so that nobody else can check the verdict: {why}")
        else:
            write_proof(run, origin.recipe, beside, holds=holds)
        card = write_card(
            origin,
            beside,
            holds=holds,
            comparison=comparison.as_json() if comparison else None,
            notes=made.notes,
            licence=options.licence,
        )
        (beside / "README.md").write_text(card, encoding="utf-8")
    files = {file.relative_to(out).as_posix(): file.stat().st_size for file in sorted(out.rglob("*")) if file.is_file()}
    message = f"{origin.recipe.name}, by afina {__version__}"
    pushed = push_folder(out, options.push, "model", message, say) if options.push else None
    return {
        "to": options.to,
        "folder": str(out),
        "weights": kind,
        "files": files,
        "notes": made.notes,
        "comparison": comparison.as_json() if comparison else None,
        **({"pushed": pushed} if pushed else {}),
    }


# ---- before


def _holds(origin: Origin, options: ExportOptions) -> str:
    """What the folder will hold."""
    if options.to not in FORMATS:
        close = nearest(options.to, FORMATS)
        raise RecipeError(f"--to {options.to} is not known", f"use {close or ' or '.join(FORMATS)}", "--to")
    if options.merged and options.to != "hub-folder":
        raise RecipeError("--merged belongs to --to hub-folder", f"--to {options.to} says what is written already")
    if options.push and options.to != "hub-folder":
        raise RecipeError(
            f"--push sends what --to hub-folder writes, not {options.to}", "use --to hub-folder", "--push"
        )
    if options.to == "hub-folder":
        return "merged" if options.merged or not origin.adapter else "adapter"
    if options.to in ("adapter", "gguf-lora") and not origin.adapter:
        raise RecipeError(
            "this run trained every weight: there is no adapter", "use --to merged or gguf", f"--to {options.to}"
        )
    return options.to


def _kind(origin: Origin, holds: str, options: ExportOptions) -> str:
    """How the weights will be held: as the base's are, where nothing else is asked for."""
    own, asked = SHORT[origin.precision], options.quantize
    if holds in ("adapter", "gguf-lora"):
        if asked:
            raise RecipeError("an adapter is kept as it was trained", "leave --quantize out", "--quantize")
        return "f32"
    if asked is None:
        return own
    asked = asked.lower()
    plain = ("f32", "bf16", "f16")
    if holds == "merged" and asked not in plain:
        raise RecipeError(
            f"a merged model is written in {', '.join(plain)}, not {asked}", "use --to gguf or mlx", "--quantize"
        )
    if holds == "mlx" and asked not in (*plain, "q8", "q4"):
        raise RecipeError(f"mlx has no {asked} here", f"use {', '.join(plain)}, q8 or q4", "--quantize")
    return asked


def _look_before(origin: Origin, holds: str, kind: str, options: ExportOptions) -> None:
    """Everything that would fail after minutes and can be known at once."""
    if holds == "adapter":  # its tokenizer goes along as it lies there, and nothing else of the export reads it
        assert origin.adapter is not None
        open_tokenizer(origin.adapter, trust_remote_code=origin.recipe.trust_remote_code, fix=TRAIN_AGAIN)
    if holds == "gguf-lora":
        _look_before_lora(origin, options)
    if holds != "merged" and kind_of_config(origin.config).name == "recurrent":
        raise RecipeError("no program but afina opens a recurrent model (LSTM or GRU)", "--to merged", "--to")
    if holds in ("gguf", "gguf-lora", "ollama"):
        check_keeps_text(origin.tokenizer)
    if holds in ("gguf", "ollama"):
        if options.llama_cpp is None:
            check_architecture(origin.config, origin.recipe.train.max_length)
        else:
            check_converter(options.llama_cpp, origin.config)
            if options.check:
                check_opens_gguf(origin.config)
        if kind not in ROUNDED_HERE:
            find_rounder(kind, options.llama_cpp)
    if holds == "ollama":
        read_turns(origin.renderer)
    if holds == "mlx" and options.quantize in ("q8", "q4") and find_spec("mlx_lm") is None:
        raise RecipeError("mlx-lm quantizes, and it is not installed", "pip install mlx-lm", "--quantize")


def _look_before_lora(origin: Origin, options: ExportOptions) -> None:
    assert origin.adapter is not None
    check_architecture(origin.config)
    if problems := refused_by_llama_cpp(read_adapter_config(origin.adapter), origin.recipe.name):
        raise BaseError(problems=problems)
    if options.check and find_llama_cpp() is None:
        raise RecipeError("only llama.cpp opens a GGUF adapter, and it is not here", INSTALL, "--to gguf-lora")


def _check_room(origin: Origin, out: Path, holds: str, kind: str) -> None:
    """
    Raises:
        DiskFull: with what is needed and what is there.
    """
    weights = origin.weight_bytes
    parameters = weights * 8 / BITS[SHORT[origin.precision]]
    needed = parameters * BITS.get(kind, BITS.get(kind[:2], 8.0)) / 8
    if holds in ("adapter", "gguf-lora"):
        assert origin.adapter is not None
        needed = sum(file.stat().st_size for file in origin.adapter.rglob("*") if file.is_file())
    elif (holds in ("gguf", "ollama") and kind not in ROUNDED_HERE) or (holds == "mlx" and kind in ("q8", "q4")):
        needed += weights  # rounded in a second step, from whole weights beside it
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed * 1.02 + 2**20 > free:
        raise DiskFull(
            f"about {show_bytes(needed)} are needed, {show_bytes(free)} are free",
            "make room, or name another --out",
            str(out),
        )


def _check_memory(origin: Origin, *, compared: bool) -> None:
    """
    Raises:
        DoesNotFit: with what is needed and what is there.
    """
    from afina.plan.device import local_device

    there = local_device("cpu").usable_bytes
    parameters = origin.weight_bytes * 8 / BITS[SHORT[origin.precision]]
    merging, comparing = origin.weight_bytes * 1.1, parameters * 4 * 1.1
    needed = max(merging, comparing) if compared else merging
    if needed > there:
        why = (
            "the run's model is opened in 32 bits to compare with" if needed == comparing else "weights are merged here"
        )
        fix = f"a machine with more memory; --no-check needs {show_bytes(merging)}, and proves nothing"
        raise DoesNotFit(f"about {show_bytes(needed)} of memory are needed, {show_bytes(there)} are here: {why}", fix)


def _before(origin: Origin, holds: str) -> list[str]:
    if origin.in_few_bits and origin.adapter and holds != "adapter":
        return [
            f"the base is in few bits; they are dequantized to {origin.precision}, and the adapter is merged into that"
        ]
    if origin.recipe.adapter.kind == "qlora" and origin.adapter and holds != "adapter":
        return [
            f"the adapter was trained over a base in 4 bits; it is merged into the same base in {origin.precision}, "
            "and compared with the adapter on that one: answers may differ from those measured in the run"
        ]
    return []


def _folding_notes(origin: Origin) -> list[str]:
    folds = in_words(folds_of(origin.tokenizer), "and")
    return [f"the tokenizer folds {folds}: the model neither reads nor writes them"] if folds else []


def _expected(origin: Origin, progress: Progress) -> Expected:
    import torch

    from afina.export.expected_torch import TRAINED, expected_of
    from afina.export.merge_torch import open_unmerged

    if not origin.tokenizer.chat_template and not (origin.run / TRAINED).is_file():
        what = f"a model without a chat template is asked to go on with its run's texts, and {TRAINED} is not there"
        raise RecipeError(what, "copy the whole run; or --no-check, which proves nothing", str(origin.run))
    # On the CPU in 32 bits, whatever it was trained in: what differs is then the export's doing.
    return expected_of(origin, open_unmerged(origin, torch.device("cpu"), "fp32"), progress)


# ---- making


def _make(
    origin: Origin,
    holds: str,
    kind: str,
    folder: Path,
    options: ExportOptions,
    progress: Progress,
    say: Callable[[str], None],
) -> WrittenExport:
    if holds == "adapter":
        return _make_adapter(origin, folder, scrub=options.to == "hub-folder")
    if holds == "gguf-lora":
        return _make_lora(origin, folder, say)
    if holds in ("gguf", "ollama"):
        return _make_gguf(origin, holds, kind, folder, options, progress, say)
    from afina.export.merge_torch import merge, save_merged

    precision: Mapping[str, Precision] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
    if holds == "mlx" and kind not in precision:
        whole = folder / ".whole"
        save_merged(merge(origin), origin, whole)
        quantize_mlx(whole, folder, int(kind[1:]), origin.recipe.adapter.group_size)  # as the base was trained over
    else:
        save_merged(merge(origin, precision[kind]), origin, folder)
    if holds == "mlx":
        write_for_mlx_lm(folder)
        return WrittenExport(holds, kind, lambda _: open_mlx(folder))
    return WrittenExport(holds, kind, lambda _: (Transformers(folder), None))


def _make_adapter(origin: Origin, folder: Path, *, scrub: bool) -> WrittenExport:
    """PEFT's folder as it is; for the hub without the names of this machine's folders."""
    assert origin.adapter is not None
    shutil.copytree(origin.adapter, folder, dirs_exist_ok=True)
    kind = SHORT[origin.precision] if origin.in_few_bits else "f32"  # a base in few bits computes in its own precision
    made = WrittenExport("adapter", kind, lambda _: (Transformers(origin.base, adapter=folder), None))
    if scrub:
        file = folder / "adapter_config.json"
        content = read_adapter_config(folder)
        content["base_model_name_or_path"] = base_name(origin)
        if public_base(origin) and (commit := hub_commit(origin.base)):
            content["revision"] = commit  # what PEFT opens the base at
        write_json(file, content)
        identity = folder / "afina.json"
        if identity.is_file():
            known = Record(read_mapping(identity), str(identity))
            named = dict(known.record("base").values) | {"name": base_name(origin)}
            write_json(identity, dict(known.values) | {"base": named})
        if origin.recipe.base and Path(origin.recipe.base).exists():
            made.notes.append(
                f"the base is a folder of this machine ({base_name(origin)}): nobody else finds it by that name"
            )
    made.notes += _notes_of_asking(origin)
    return made


def _notes_of_asking(origin: Origin) -> list[str]:
    """What of the way of asking is not part of an adapter."""
    notes, template = [], origin.tokenizer.chat_template
    if origin.recipe.chat.system or origin.recipe.chat.template_args:
        notes.append("the recipe's system text and template arguments are not part of an adapter: give them")
    if isinstance(template, str) and asks_the_day(template):
        notes.append(
            f"the base's chat template writes the day on which it is asked: the adapter was trained and measured with "
            f"{TRAINED_DAY}, and other programs write their own"
        )
    return notes


def _make_lora(origin: Origin, folder: Path, say: Callable[[str], None]) -> WrittenExport:
    """The adapter alone as GGUF; what it is compared by is the base in the precision that it is stored in."""
    from afina.llamacpp.base_file import find_base_file, write_base_file

    assert origin.adapter is not None
    file, kind = folder / f"{origin.recipe.name}-lora.gguf", SHORT[origin.precision]
    written = write_lora(origin.adapter, origin.config, file, name=origin.recipe.name)

    def opened(context: int) -> tuple[OpenedExport, str | None]:
        weights = identify_base(origin.base, origin.target.base, origin.tokenizer).weights_sha256
        asked = Renderer(baked_tokenizer(origin.renderer), Chat())  # with the system text that the note tells of
        base = find_base_file(origin.base, weights, asked, kind)
        return LlamaCpp(write_base_file(base, origin.recipe, asked, say), context, file), None

    made = WrittenExport("gguf-lora", kind, opened)
    made.notes.append(f"{written.pairs} matrices are changed; the base's own GGUF file is needed beside it")
    made.notes += _notes_of_asking(origin)
    return made


def _make_gguf(
    origin: Origin,
    holds: str,
    kind: str,
    folder: Path,
    options: ExportOptions,
    progress: Progress,
    say: Callable[[str], None],
) -> WrittenExport:
    from afina.export.merge_torch import merge, save_merged

    file = folder / f"{origin.recipe.name}.gguf"
    tokenizer = baked_tokenizer(origin.renderer)
    rounds_itself = kind in ROUNDED_HERE
    first = kind if rounds_itself else SHORT[origin.precision]
    written = file if rounds_itself else folder / "whole.gguf"
    model = merge(origin)
    made = WrittenExport(holds, kind, lambda context: open_gguf(file, context, origin.base))
    if options.llama_cpp is not None:
        whole = folder / ".whole"
        save_merged(model, origin, whole)
        del model
        convert_by_llama_cpp(options.llama_cpp, whole, written, first, say)
        shutil.rmtree(whole)
    else:
        found = write_gguf(
            model, tokenizer, origin.renderer, written, first, name=origin.recipe.name, progress=progress
        )
        made.notes += found.notes
        del model
    if not rounds_itself:
        quantize_gguf(written, file, kind, options.llama_cpp, say)
        written.unlink()
        held = ", ".join(f"{count} in {name}" for name, count in kinds_in(file).items())
        made.notes.append(f"llama.cpp holds some tensors in other kinds than {kind}: {held}")
    if holds == "ollama":
        generation = origin.base / "generation_config.json"
        text, notes = modelfile(
            origin.renderer,
            file.name,
            positions=origin.config.get("max_position_embeddings"),
            generation=read_object(generation) or {},
            begins_with_bos=begins_with_bos(tokenizer, origin.renderer),
        )
        (folder / "Modelfile").write_text(text, encoding="utf-8")
        made.notes += notes
    return made


# ---- comparing


def _compare(
    origin: Origin, made: WrittenExport, expected: Expected, options: ExportOptions, progress: Progress
) -> ExportComparison:
    from afina.export.expected_torch import HELD_OUT

    program, caveat = made.open(expected.context)
    with contextlib.closing(program):
        found = compare(
            program,
            expected,
            origin.tokenizer,
            origin.renderer.stop_ids(),
            made.kind,
            kl_limit=options.tolerance,
            progress=progress,
        )
    if caveat:
        found.notes.append(caveat)
    if not expected.rows_there and not (origin.run / HELD_OUT).is_file():
        found.notes.append("no held-out row was read by either: the run's dataset is not there any more")
    if found.model_as_stored is not None and found.model_as_stored < found.asked:
        _explain_stored(origin, found, expected, progress)
    return found


def _explain_stored(origin: Origin, found: ExportComparison, expected: Expected, progress: Progress) -> None:
    """The run's own model gave other answers than are stored: rounding where that is proven, else another model."""
    from afina.export.expected_torch import given_again

    proven = given_again(origin, expected, progress)
    if proven.missing:
        question, stored, given = proven.missing[0]
        found.identity_problem = (
            f"{len(proven.missing)} of {found.asked} of the run's stored answers are not this model's, in "
            f"{' or '.join(proven.tried)}: to {question!r} it says {given!r}, in the run it was {stored!r}"
        )
        return
    found.notes.append(
        f"in 32 bits the run's own model gives {found.model_as_stored} of {found.asked} of the stored answers; opened "
        f"again in {' and '.join(proven.tried)} it gives all of them: the difference is rounding"
    )


def _wrong(
    origin: Origin, made: WrittenExport, found: ExportComparison, expected: Expected, folder: Path, progress: Progress
) -> ResultError:
    """The error for an export that differs: rounding to few bits, or wrong."""
    what = f"the export is not the trained model: {'; '.join(found.problems)}"
    own = SHORT[origin.precision]
    by_llama_cpp = origin.config.get("model_type") not in ARCHITECTURES  # then nothing is written here to compare with
    if made.holds not in ("gguf", "ollama") or by_llama_cpp or tolerance(made.kind) <= tolerance(own):
        return ResultError(what, "nothing was left there; please report it with the command and this text")
    from afina.export.merge_torch import merge

    whole, tokenizer = folder / "whole.gguf", baked_tokenizer(origin.renderer)
    write_gguf(merge(origin), tokenizer, origin.renderer, whole, own, name=origin.recipe.name, progress=progress)
    program, _ = open_gguf(whole, expected.context, origin.base)
    with contextlib.closing(program):
        again = compare(program, expected, origin.tokenizer, origin.renderer.stop_ids(), own, progress=progress)
    if again.problems:
        return ResultError(f"{what}; in {own} it is wrong too", "nothing was left there; please report it")
    finer = own if made.kind.startswith("q8") else f"q8_0 or {own}"
    return ResultError(
        f"{what}. It is the rounding to {made.kind}: in {own} the same file has a mean KL of {again.kl_mean:.2g} nats "
        f"and {again.same_answers} of {again.asked} equal answers",
        f"use --quantize {finer}, or allow it with --tolerance {found.kl_mean * 1.1:.2g}",
        "--quantize",
    )
