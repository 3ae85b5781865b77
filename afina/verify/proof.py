"""What an export carries so that somebody else can check its verdict: the folder ``proof/``.

    commitment.json, probes.jsonl   as they were written before training
    recipe.json                     what of the recipe the check needs
    predictions, samples, choices, skills, task_predictions, safety, retrieval, continuations (.jsonl)
                                    what was answered
    scores.json                    what it is worth
    proof.json                      hashes of all of these, and of the weights they belong to

Nothing in it names a folder of the machine that trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from afina import __version__
from afina.errors import AfinaError, BaseError, RecipeError, ResultError
from afina.evaluate.prompts import CONTINUATIONS_FILE
from afina.evaluate.scores import RETRIEVAL_FILE
from afina.manifest import read_manifest
from afina.outcome import find_outcome
from afina.recipe import Recipe
from afina.record import Record, read_record, read_rows
from afina.run import hash_file, hash_folder, read_mapping
from afina.verify.commitment import COMMITMENT, COPY_AGAIN, FILES, VERSION, as_promised, checked_part
from afina.whole import write_json

PROOF = "proof"
PROOF_FILE = "proof.json"
RECIPE = "recipe.json"
FIRST = "first-commitment.json"
"""That of the first of two trainings."""
SCORES = "scores.json"
TASKS = "task_predictions.jsonl"
SAFETY = "safety.jsonl"
ANSWERS = (
    *("predictions.jsonl", "samples.jsonl", "choices.jsonl", "skills.jsonl"),
    *(TASKS, SAFETY, RETRIEVAL_FILE, CONTINUATIONS_FILE),
)
BASE_SKILLS = "base-skills.jsonl"
"""What the base answered about skills, before the training."""
ASKED_AGAIN = ("adapter", "merged", "gguf", "mlx")
"""What an export may hold whose questions are asked again here."""
READ = (
    *("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.onnx", "*.npz"),
    *("config.json", "adapter_config.json", "generation_config.json", "*.index.json", "*.py", "*.jinja", "*.model"),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("*.tiktoken", "Modelfile", "additional_chat_templates/*"),
)
"""Files that programs read of a model's folder: one that the export did not write makes another model of it."""
TEXTS = (".json", ".jsonl", ".jinja", ".txt", ".py")
"""Endings of files whose line ends git may change (``core.autocrlf``)."""
PEOPLES = ("README.md", "comparison.json")
"""Files of an export that a person may rewrite."""


def why_no_proof(run: Path) -> str:
    """Why an export of a run can carry no proof; empty where it can."""
    if missing := [name for name in FILES if not (run / name).is_file()]:
        return f"the run has no {missing[0]}: its training began before runs committed to their questions"
    if not (run / SCORES).is_file() or not (run / "predictions.jsonl").is_file():
        return "the run was not measured"
    return ""


def write_proof(run: Path, recipe: Recipe, folder: Path, *, holds: str) -> None:
    """Write ``proof/`` into an export that is otherwise whole.

    Args:
        holds: what the export holds, as `afina.export` calls it.
    """
    proof = folder / PROOF
    proof.mkdir()
    for name in (*FILES, SCORES):
        shutil.copyfile(run / name, proof / name)
    if (run / "first" / COMMITMENT).is_file():
        shutil.copyfile(run / "first" / COMMITMENT, proof / FIRST)
    if (run / BASE_SKILLS).is_file():  # byte for byte: it was committed to
        shutil.copyfile(run / BASE_SKILLS, proof / BASE_SKILLS)
    for name in ANSWERS:
        rows = read_rows(run / name, whole_characters=True)
        if rows is not None:  # without `from`: a path of the machine that trained
            kept = [{key: value for key, value in row.values.items() if key != "from"} for row in rows]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            (proof / name).write_text(text, encoding="utf-8")
    promised = read_mapping(proof / COMMITMENT).get("checked_sha256")
    write_json(proof / RECIPE, as_promised(checked_part(recipe), promised))
    outcome, manifest = find_outcome(run, recipe), read_manifest(run)
    noted = manifest.trained.weights_sha256 if manifest and manifest.trained else None
    write_json(
        proof / PROOF_FILE,
        {
            "version": VERSION,
            "afina": __version__,
            "holds": holds,
            "trained": outcome.kind,
            # As noted when it was measured: what lies in the run now may be another.
            "trained_sha256": noted or hash_folder(outcome.folder, "*.safetensors"),
            "export": _hashes(_files(folder)),
            "files": _hashes({file.name: file for file in _own(proof)}),
        },
    )


def _files(folder: Path) -> dict[str, Path]:
    """All that programs may read of an export, by its path in it: weights, settings, tokenizer, template."""
    files = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {
        path.as_posix(): file
        for path, file in files.items()
        if path.parts[0] != PROOF and path.as_posix() not in PEOPLES and not _is_hidden(path)
    }


def _own(proof: Path) -> Iterator[Path]:
    """The files of a proof that :data:`PROOF_FILE` notes."""
    yield from (file for file in sorted(proof.iterdir()) if file.name != PROOF_FILE and not _is_hidden(Path(file.name)))


def _is_hidden(path: Path) -> bool:
    """Whether a system or a download left it: ``.DS_Store``, ``.cache/``."""
    return any(part.startswith(".") for part in path.parts)


def _hashes(files: dict[str, Path]) -> dict[str, str]:
    return {name: hash_file(file) for name, file in files.items() if file.is_file()}


def is_file_of(file: Path, sha256: str | None) -> bool:
    """Whether a file is there and has this hash."""
    return file.is_file() and hash_file(file) == sha256


def of_the_export(opener: Callable[..., Any], *given: Any) -> Any:
    """What a function opens of an export, which somebody else wrote.

    Raises:
        ResultError: it is damaged: that is a result, and no mistake of whoever verifies.
    """
    try:
        return opener(*given)
    except BaseError as error:
        raise ResultError(problems=[replace(each, fix=COPY_AGAIN) for each in error.problems]) from error


@dataclass(frozen=True)
class Proof:
    """The proof of an export, opened; its hashes are not looked at yet."""

    export: Path
    folder: Path
    known: Record
    """``proof.json``."""

    @property
    def holds(self) -> str:
        return self.known.required_text("holds")

    def rows(self, name: str) -> list[Record]:
        """The rows of a file; none where there is no such file.

        Raises:
            AfinaError: it is damaged.
        """
        return read_rows(self.folder / name, whole_characters=True) or []

    def changed_files(self) -> list[str]:
        """Files of the proof that are not those that the export wrote, those that are gone, and those beside them."""
        noted, there = self.known.required_record("files"), {file.name: file for file in _own(self.folder)}
        return _changed(noted, there) + [name for name in there if name not in noted]

    def changed_export(self) -> list[str]:
        """Files that programs read of the export and that are not those it was written with, and such files beside
        them. What else somebody put there is theirs."""
        noted, there = self.known.required_record("export"), _files(self.export)
        beside = [name for name in there if name not in noted]
        return [*_changed(noted, there), *(name for name in beside if _is_read(name)), *_linked(self.export)]

    def with_other_line_ends(self) -> list[str]:
        """Of the changed files, those that are what the export wrote but for their line ends."""
        every = (
            (self.known.required_record("files"), {file.name: file for file in _own(self.folder)}),
            (self.known.required_record("export"), _files(self.export)),
        )
        return [
            name
            for noted, there in every
            for name, sha256 in noted.values.items()
            if name in there and there[name].suffix in TEXTS and _differs_in_line_ends(there[name], sha256)
        ]

    @property
    def has_other_weights(self) -> bool:
        """Whether the adapter is not the one that was measured. What was merged or converted has other files."""
        return self.holds == "adapter" and hash_folder(self.export, "*.safetensors") != self.trained_sha256

    @property
    def trained_sha256(self) -> str:
        return self.known.required_text("trained_sha256")


def _changed(noted: Record, there: dict[str, Path]) -> list[str]:
    """Names of files that have another hash than the noted one, or are not there."""
    return [name for name, sha256 in noted.values.items() if name not in there or not is_file_of(there[name], sha256)]


def _linked(export: Path) -> Iterator[str]:
    """Folders of an export that are links, and in which programs read: no export holds one, and what such a folder
    holds is nowhere noted."""
    for path in sorted(export.rglob("*")):
        name = path.relative_to(export)
        if not (path.is_symlink() and path.is_dir()) or _is_hidden(name) or name.parts[0] == PROOF:
            continue
        if any(_is_read(f"{name.as_posix()}/{each.name}") for each in path.iterdir()):
            yield f"{name.as_posix()}/"


def _differs_in_line_ends(file: Path, sha256: str) -> bool:
    """Whether a file is another than noted, and with line feeds alone would be the noted one."""
    if not file.is_file() or is_file_of(file, sha256):
        return False
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == sha256


def _is_read(name: str) -> bool:
    """
    >>> _is_read("adapter_model.bin"), _is_read("mlx-lm/adapters.safetensors"), _is_read("notes.txt")
    (True, True, False)
    """
    return any(fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern) for pattern in READ)


def open_proof(export: Path) -> Proof:
    """The proof that an export carries.

    Raises:
        RecipeError: there is none.
        AfinaError: it is damaged.
    """
    folder = export / PROOF
    if (export / "recipe.yaml").is_file() and not folder.is_dir():
        raise RecipeError(
            "this is a run, and what is verified is an export of it",
            f"afina export {export} --to hub-folder, then `afina verify` with that folder",
            str(export),
        )
    if not (folder / PROOF_FILE).is_file():
        raise RecipeError(
            f"there is no {PROOF}/{PROOF_FILE} here: no export of afina, or of a run that had committed to nothing",
            "name the folder of an export; a run trained by this afina commits before it begins, and its export proves "
            "it",
            str(export),
        )
    every = [each for place in (export, folder) for each in sorted(place.iterdir())]
    if odd := [each for each in every if each.exists() and not (each.is_file() or each.is_dir())]:
        raise AfinaError("is neither a file nor a folder", COPY_AGAIN, str(odd[0]))  # a pipe would never end
    found = read_record(folder / PROOF_FILE)
    assert found is not None
    known = Record(found.values, found.where, fix=COPY_AGAIN)
    if known.required_whole("version") != VERSION:
        raise RecipeError(
            f"a proof of version {known.whole('version')}; this afina reads {VERSION}",
            "use the afina that wrote it, or a newer one",
            known.where,
        )
    return Proof(export, folder, known)
