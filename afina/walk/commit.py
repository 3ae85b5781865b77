"""Before its first step a training commits to the questions that will judge it, and to all that it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afina import __version__
from afina.model.base import identify_base
from afina.run import hash_file, hash_value
from afina.text.example import read_examples
from afina.verify.commitment import (
    CHOICE,
    COMMITMENT,
    FILES,
    PROBES,
    QUESTION,
    VERSION,
    checked_part,
    code_hash,
    last_parts,
    read_commitment,
    recipe_hash,
)
from afina.walk.asked import check_asked, probes_asked
from afina.walk.base import base_files, base_folder, identity, renderer, tokenizer_folder
from afina.walk.context import Context
from afina.walk.gone import files_read, still_there
from afina.walk.manifest import commit_of_code
from afina.walk.skills import BASE_FILE as BASE_SKILLS
from afina.walk.start import start_of
from afina.walk.trainings import Training, trainings_of
from afina.whole import write_json, write_whole


def commit(context: Context, training: Training, inputs: dict[str, Any]) -> None:
    """Write ``commitment.json`` and ``probes.jsonl`` into the training's folder, where no weight has changed yet.

    A training that goes on keeps the commitment that it began with, whatever its questions are by now. One that has
    taken no step yet commits anew where something is another; what was committed to before is set aside.

    Args:
        inputs: of the training.

    Raises:
        RecipeError, DataError: something that is to be asked afterwards cannot be.
    """
    say, folder = context.run.say, context.folder / training.folder
    known = read_commitment(folder)
    if _has_begun(folder):
        if known is None:
            say(
                f"{training.name}: it goes on from a state made without a fingerprint (docs/verify.md), and "
                "one made now would prove nothing"
            )
        return
    check_asked(context)
    rows = list(question_rows(context))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    kinds = [row["kind"] for row in rows]
    asked = {"questions": kinds.count(QUESTION), "choices": kinds.count(CHOICE)}
    promises = {"version": VERSION, **_promises(context, training, inputs)}
    promises["probes"] = asked | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    probes = folder / PROBES
    if known is None or known.promises != promises or not probes.is_file() or probes.read_bytes() != text.encode():
        context.run.set_aside("commitment", [training.folder + name for name in FILES])
        write_whole(probes, text)
        write_json(folder / COMMITMENT, promises | {"written": datetime.now(UTC).isoformat(timespec="seconds")})
    sha256 = hash_file(folder / COMMITMENT)
    say(
        f"{training.name}: the questions that will judge it ({asked['questions']} open, {asked['choices']} multiple "
        f"choice), the data, the base and the recipe are fixed by this fingerprint: {sha256}. Publish it before the "
        "training ends if others are to check the verdict (docs/verify.md); otherwise there is nothing to do"
    )
    context.run.log("committed", training=training.name, sha256=sha256)


def _has_begun(folder: Path) -> bool:
    """Whether a state of the training has been kept: what it goes on from is not what it began with."""
    return any((folder / "checkpoints").glob("*/state.json"))


def question_rows(context: Context) -> Iterator[dict[str, Any]]:
    """Every question with its id, and a hash of the tokens that it is asked in; every choice with its sentences."""
    from afina.evaluate.probes import SAMPLES, ProbeSet, Question, question_id, question_row, samples_of
    from afina.verify.questions import asked_hash

    chat = renderer(context)

    def row_of(number: int, probe: ProbeSet, question: Question) -> dict[str, Any]:
        known = {"id": question_id(probe, question), "asked": asked_hash(chat, question)}
        return {"kind": QUESTION, "set": number, **known, **question_row(probe, question)}

    probes = probes_asked(context, context.recipe)[0]
    for number, probe in enumerate(probes):
        yield from (row_of(number, probe, question) for question in probe.questions)
        for choice in probe.choices:
            said = {"prompt": choice.prompt, "sentences": list(choice.sentences), "terms": list(choice.terms)}
            known = {"kind": CHOICE, "set": number, "probe": probe.name, "role": probe.role}
            yield {**known, **said, "cluster": choice.cluster}
    held_out = read_examples(context.folder / "dataset/validation.jsonl")
    for question in samples_of(held_out, chat, context.recipe.evaluate.samples):
        yield row_of(len(probes), SAMPLES, question)


def _promises(context: Context, training: Training, inputs: dict[str, Any]) -> dict[str, Any]:
    from afina.evaluate.skills import items_hash

    recipe, folder = context.recipe, context.folder
    from_base, skills, first = base_folder(context) is not None, folder / BASE_SKILLS, trainings_of(recipe)[0]
    own = tokenizer_folder(context)
    known = identity(context) if from_base else identify_base(own, "", renderer(context).tokenizer)
    before = read_commitment(folder / first.folder) if training != first else None
    return {
        "afina": __version__,
        "code": {"sha256": code_hash(), "commit": commit_of_code()},
        "training": {"name": training.name, "sha256": hash_value(inputs), "computed": inputs.get("computed")},
        "recipe_sha256": recipe_hash(recipe),
        "checked_sha256": hash_value(checked_part(recipe)),
        "base": {"weights_sha256": known.weights_sha256, "files": base_files(context)} if from_base else None,
        "tokenizer_sha256": known.tokenizer_sha256,
        "chat_template_sha256": known.chat_template_sha256,
        "dataset": {name: hash_file(folder / f"dataset/{name}.jsonl") for name in ("train", "validation")}
        | {"test": hash_file(test) if (test := folder / "dataset/test.jsonl").is_file() else None},
        "starts_from": start.sha256 if (start := start_of(context)) else None,
        "after": before.sha256 if before else None,
        "skills": {"questions": items_hash(), "asked_sha256": hash_file(skills)} if skills.is_file() else None,
        "read": {part: last_parts(hashes) for part, hashes in files_read(context).items()},
        **_asked_beside(context),
    }


def _asked_beside(context: Context) -> dict[str, Any]:
    """What is asked besides the probes: each task's questions, and the prompts that the trained model continues."""
    from afina.evaluate.prompts import prompts_file, read_prompts
    from afina.evaluate.task_rows import task_promise
    from afina.evaluate.tasks import longest_answer, read_tasks

    recipe = still_there(context).recipe
    tasks = read_tasks(recipe, read_examples(context.folder / "dataset/train.jsonl"))
    prompts = read_prompts(file) if (file := prompts_file(recipe)) else []
    return {
        "tasks": [task_promise(task, longest_answer(task, recipe)) for task in tasks],
        "prompts": {"count": len(prompts), "sha256": hash_value(prompts)} if prompts else None,
    }
