"""Build a dataset folder: read, clean, cut, choose, ask, split, mix, write, add up.

The folder appears whole or not at all. ``dataset.json`` holds what :func:`build_dataset` returns.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.dataset.build.answers import answers_file, put_answers
from afina.dataset.build.canaries import add_canaries
from afina.dataset.build.choose import NOT_MIXED, REASONS, TEST, TRAIN, VALIDATION, hold_out
from afina.dataset.build.corpus import Corpus, read_corpus
from afina.dataset.build.mix import times_seen
from afina.dataset.build.prose_rows import ProseRows
from afina.dataset.build.spool import DropSpool
from afina.dataset.build.summary import summary_of
from afina.dataset.dropped import Dropped
from afina.dataset.questions.from_structure import write_probes
from afina.dataset.questions.teacher import Taught, TeacherEstimate, Teaching, estimate, teach, teacher_inputs
from afina.endpoint.cache import AnswerCache
from afina.errors import AfinaError, RecipeError
from afina.recipe import HUB, WEB, Recipe
from afina.run import Progress, hash_file, no_progress
from afina.sources.files import SourceReading, expand
from afina.sources.markdown import INCLUDE
from afina.sources.parsers import readers_of
from afina.sources.web import site_files
from afina.temporary import temporary_folder
from afina.text.document import Ledger
from afina.text.example import Example
from afina.text.formats import kind_of
from afina.whole import whole_folder, write_json

if TYPE_CHECKING:
    import numpy as np

TEACHER_FOLDER = "_teacher"
"""Folder of the teacher's answers, beside the runs: no run can be called so, as their names begin with a letter."""


def build_dataset(
    recipe: Recipe,
    folder: Path,
    progress: Progress = no_progress,
    teaching: Teaching | None = None,
    *,
    workers: int | None = None,
) -> dict[str, Any]:
    """Make the dataset that a recipe describes, and say what became of every character.

    Two passes: the first reads every file once, writes its examples beside and keeps some numbers of each
    (:class:`~afina.dataset.build.spool.Columns`); the second copies each line to where it belongs. So
    memory hardly grows with the corpus; what is made from it (questions, a teacher's answers) is added between them.

    Args:
        recipe: the resolved recipe.
        folder: gets ``train.jsonl``, ``validation.jsonl``, ``dropped.jsonl`` and ``dataset.json``, the probes of
            `dataset.hold_out_phrasings`, ``prose.jsonl`` where there are texts to ask about and, where code is
            checked, ``code.jsonl``, ``test.jsonl`` where files stand there for a test; what stood there is replaced
            at the end.
        progress: is told what is being read.
        teaching: for `dataset.teacher`; its answers are kept beside `folder` where not given.
        workers: processes that read; see :func:`~afina.dataset.build.gather.gather`.

    Returns:
        The content of ``dataset.json``: see :func:`~afina.dataset.build.summary.summary_of`. And what is not part of
        the dataset, as it is only how this build came to it: with a teacher ``asking``; where a process that read was
        killed ``read_again``, the first file of its batch -> how often that was read again.

    Raises:
        DataError: for broken files, and for rows that the recipe's policies do not allow: all in one error.
    """
    with whole_folder(folder) as beside:
        corpus = read_corpus(recipe, beside / "parts", progress, workers)
        taught = _add_questions(corpus, teaching or Teaching(folder.parent / TEACHER_FOLDER), progress)
        groups = corpus.notes.groups if corpus.notes else None
        hold_out(corpus.columns, corpus.fate, recipe, groups, corpus.ledger.splits)
        times = times_seen(corpus.columns, corpus.fate, recipe)
        corpus.fate[times == 0] = NOT_MIXED
        prose = ProseRows(corpus) if recipe.prose_can_be_asked else None
        dropped = _write_chosen(beside, corpus, times, prose)
        summary = summary_of(corpus, times, dropped)
        if recipe.dataset.teacher:
            summary["teacher"] = taught.summary
        if not summary["balanced"]:
            raise AfinaError(
                f"the characters do not add up: {json.dumps(summary['characters'])}",
                "this is a defect of afina; please report it with these numbers",
                str(folder),
            )
        if recipe.dataset.check_code:
            corpus.code.write(beside / "code.jsonl")
        _write_probes(beside, corpus, prose, summary)
        put_answers(beside / "train.jsonl", recipe, summary)
        if recipe.safety.canaries:
            add_canaries(beside / "train.jsonl", recipe, summary)
        write_json(beside / "dataset.json", summary)
        shutil.rmtree(corpus.folder)
    how = {"asking": taught.asking} if recipe.dataset.teacher else {}
    return summary | how | ({"read_again": corpus.read_again} if corpus.read_again else {})


def estimate_teacher(recipe: Recipe, cache: Path, progress: Progress = no_progress) -> TeacherEstimate:
    """What the teacher of a recipe would be asked, and what it would cost; asks nothing.

    Raises:
        DataError, RecipeError: as :func:`build_dataset`; a recipe without `dataset.teacher`.
    """
    if recipe.dataset.teacher is None:
        raise RecipeError("the recipe has no teacher", "set `dataset.teacher.url` and `model`", "dataset.teacher")
    with temporary_folder("estimate") as temporary:
        corpus = read_corpus(recipe, temporary / "parts", progress)
        return estimate(recipe, corpus.staying, AnswerCache(cache))[0]


def _add_questions(corpus: Corpus, teaching: Teaching, progress: Progress) -> Taught:
    """What is made from the documents that stay: questions by templates, and a teacher's."""
    recipe, taught = corpus.recipe, Taught()
    if corpus.notes:
        questions = corpus.notes.questions
        made = questions.examples(corpus.staying, corpus.has_any)
        left_out = [Dropped(item.reason, item.told.where, item.told.source, item.text) for item in questions.left_out]
        corpus.add_made("questions", made, left_out)
    if recipe.dataset.teacher:
        taught = teach(recipe, corpus.staying, teaching)
        corpus.add_made("teacher", taught.examples, taught.dropped)
        taught.examples, taught.dropped = [], []
    if len(corpus.columns) > corpus.read:
        corpus.leave_out_wrong_code(corpus.read, progress)
    return taught


def _write_probes(folder: Path, corpus: Corpus, prose: ProseRows | None, summary: dict[str, Any]) -> None:
    """Write what can be asked of a model before and after, and say in the summary where that is nothing."""
    questions = corpus.notes.questions if corpus.notes else None
    if questions and corpus.recipe.dataset.hold_out_phrasings:
        trained = {group for row, (_, group) in corpus.columns.made.items() if corpus.fate[row] == TRAIN}
        probes = dict(zip(("seen", "unseen"), questions.probes(trained), strict=True))
        summary["probes"] = {name: len(rows) for name, rows in probes.items()}
        for name, rows in probes.items():
            if rows:
                write_probes(folder / f"probes-{name}.jsonl", rows)
    if prose and (about := prose.write(folder, questions.held_out_phrasings() if questions else {})):
        summary["prose"] = about


def _write_chosen(folder: Path, corpus: Corpus, times: np.ndarray, prose: ProseRows | None) -> DropSpool:
    """Copy each example's line to its side of the split, or to what was dropped."""
    import numpy as np

    columns, fates, row = corpus.columns, corpus.fate.tobytes(), 0
    source = np.frombuffer(columns.source, np.uint16)
    as_it_was = (times == np.array([each.repeat for each in corpus.recipe.sources])[source]).tobytes()
    dropped = DropSpool(folder / "dropped.jsonl")
    with ExitStack() as files:
        train, validation = (
            files.enter_context((folder / f"{name}.jsonl").open("wb")) for name in ("train", "validation")
        )
        held_out = {VALIDATION: validation}
        if (corpus.fate == TEST).any():
            held_out[TEST] = files.enter_context((folder / "test.jsonl").open("wb"))
        for spool, drops in zip(corpus.spools, corpus.drops, strict=True):
            dropped.absorb(drops)
            with spool.open("rb") as lines:
                for line in lines:
                    if prose:
                        prose.take(row, line)
                    if fates[row] in held_out:
                        held_out[fates[row]].write(line)
                    elif fates[row] != TRAIN:
                        dropped.append(_dropped(corpus, row, Example.from_json(json.loads(line)), fates[row]))
                    elif as_it_was[row]:
                        train.write(line)
                    else:
                        mixed = replace(Example.from_json(json.loads(line)), repeat=int(times[row]))
                        train.write(mixed.as_line())
                    row += 1
    dropped.close()
    assert row == len(columns), "as many lines as numbers"
    return dropped


def _dropped(corpus: Corpus, row: int, example: Example, fate: int) -> Dropped:
    columns, same = corpus.columns, int(corpus.same_as[row])
    return Dropped(
        REASONS[fate],
        columns.where(row),
        example.source,
        example.text,
        example.messages,
        rejected=example.rejected,
        tools=example.tools,
        label=example.label,
        same_as=columns.where(same) if same != row else "",
        chars=columns.chars[row] - columns.context[row] if row < corpus.read else 0,
        lines=corpus.said.get(row, ""),
    )


def dataset_inputs(recipe: Recipe, progress: Progress = no_progress) -> dict[str, Any]:
    """Plain values that a dataset depends on: a finished one is still valid while these are the same.

    ``files`` holds the hash of every file that the sources name and of those that pages include (by path relative
    to `root`: a project that was moved as a whole is the same), of every page of a website (fetched into the cache
    where it lacks them), and the commit of a dataset of the hub. ``readers`` names the libraries that PDF and Word
    files are read with: another one gives other text. ``answers`` is the hash of the file of `dataset.answers`.

    Raises:
        DataError: for a named file that cannot be text, a pattern that matches nothing, a website that fails.
    """
    root = Path(recipe.root)
    hashes: dict[str, str] = {}
    waiting: list[Path] = []
    for position, source in enumerate(recipe.sources):
        reading = SourceReading(source, position, root, Ledger())
        if source.path.startswith(HUB):
            hashes[source.path] = source.revision or ""
            continue
        if source.path.startswith(WEB):
            waiting += [site.file.full for site in site_files(reading, progress)]
            continue
        for pattern in (source.path, source.solutions):
            waiting += [file.full for file in expand(reading, pattern, source.kind)] if pattern else []
    while waiting:
        file = waiting.pop()
        name = Path(os.path.relpath(file, root)).as_posix()
        if name not in hashes and file.is_file():
            hashes[name] = hash_file(file)
            if kind_of(name) == "markdown":
                text = file.read_text(encoding="utf-8", errors="replace")
                waiting += [file.parent / found[1].split(":")[0] for found in INCLUDE.finditer(text)]
            elif kind_of(name) == "html":  # a docgen page includes the programs beside it
                waiting += sorted(file.with_suffix("").glob("*"))
    readers, answers = readers_of(hashes), answers_file(recipe)
    return {
        "sources": [source.model_dump(mode="json", exclude={"stage", "private"}) for source in recipe.sources],
        "dataset": recipe.dataset.model_dump(mode="json", exclude={"engine", "datatrove", "answers"}),
        "seed": recipe.seed,
        "method": recipe.train.method,
        **recipe.stages,
        "section_chars": recipe.section_chars,
        "files": dict(sorted(hashes.items())),
        **({"readers": readers} if readers else {}),
        **({"answers": hash_file(answers) if answers.is_file() else None} if answers else {}),
        **(
            {"canaries": recipe.safety.model_dump(include={"canaries", "canary_repeats"})}
            if recipe.safety.canaries
            else {}
        ),
        **teacher_inputs(recipe.dataset.teacher),
    }
