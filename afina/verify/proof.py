"""What an export carries so that somebody else can check its verdict: the folder ``proof/``.

    commitment.json, probes.jsonl   as they were written before training
    recipe.json                     what of the recipe the check needs
    predictions, samples, choices, skills (.jsonl), scores.json   what was answered and what was made of it
    proof.json                      hashes of all of these, and of the weights they belong to

Nothing in it names a folder of the machine that trained.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from afina import __version__
from afina.errors import RecipeError
from afina.manifest import read_manifest
from afina.outcome import find_outcome
from afina.recipe import Recipe
from afina.record import Record, read_record, read_rows
from afina.run import hash_file, hash_folder, write_json
from afina.verify.commitment import COMMITMENT, COPY_AGAIN, FILES, VERSION, checked_part

PROOF = "proof"
PROOF_FILE = "proof.json"
RECIPE = "recipe.json"
FIRST = "first-commitment.json"
"""That of the first of two trainings."""
SCORES = "scores.json"
ANSWERS = ("predictions.jsonl", "samples.jsonl", "choices.jsonl", "skills.jsonl")
BASE_SKILLS = "base-skills.jsonl"
"""What the base answered about skills, before the training."""
ASKED_AGAIN = ("adapter", "merged")
"""What an export may hold whose questions are asked again here."""
WEIGHTS = (".safetensors", ".gguf")
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
        rows = read_rows(run / name)
        if rows is not None:  # without `from`: a path of the machine that trained
            kept = [{key: value for key, value in row.values.items() if key != "from"} for row in rows]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            (proof / name).write_text(text, encoding="utf-8")
    write_json(proof / RECIPE, checked_part(recipe))
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
            "export": _files(folder),
            "files": {file.name: hash_file(file) for file in sorted(proof.iterdir())},
        },
    )


def _files(folder: Path) -> dict[str, str]:
    """Hashes of all that programs read of an export: weights, settings, tokenizer, template."""
    read = (file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in PEOPLES)
    return {file.name: hash_file(file) for file in read}


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
        return read_rows(self.folder / name) or []

    def changed_files(self) -> list[str]:
        """Files of the proof that are not those that the export wrote, and those that are gone."""
        noted = self.known.required_record("files")
        return [
            name
            for name in noted.values
            if not (file := self.folder / Path(name).name).is_file() or hash_file(file) != noted.required_text(name)
        ]

    def changed_export(self) -> list[str]:
        """Files that programs read of the export and that are not those it was written with, and weights beside them.
        What else somebody put there is theirs."""
        noted, there = self.known.required_record("export"), _files(self.export)
        other = [name for name, value in noted.values.items() if there.get(name) != value]
        return other + [name for name in there if name not in noted and name.endswith(WEIGHTS)]

    @property
    def has_other_weights(self) -> bool:
        """Whether the adapter is not the one that was measured. What was merged or converted has other files."""
        return self.holds == "adapter" and hash_folder(self.export, "*.safetensors") != self.trained_sha256

    @property
    def trained_sha256(self) -> str:
        return self.known.required_text("trained_sha256")


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
