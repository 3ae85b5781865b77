"""`afina verify`: what a run committed to before it trained, and whether an export is what was judged by it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from called import call_afina
from safetensors.torch import load_file, save_file
from tiny import NAMES, ROWS, TOWNS, make_base, make_recipe

from afina import __version__
from afina.cli.opened import walk_of
from afina.errors import AfinaError, RecipeError
from afina.evaluate.probes import ProbeSet, Question, question_id
from afina.evaluate.room import find_endless
from afina.evaluate.scores import RoomToEnd, Scores, Verdict, read_scores, record_of
from afina.evaluate.skills import in_turn, items_hash
from afina.evaluate.task_metrics import metric_values, tally_of
from afina.evaluate.task_rows import code_tally_of, findings_of, normalization, question_rows, results_of, task_promise
from afina.evaluate.task_set import TaskSet
from afina.model.generate.generate_torch import Answer, generate
from afina.model.load_torch import load_base
from afina.page_marks import put_between
from afina.recipe import Chat, Code, Task
from afina.record import Record
from afina.run import hash_file, hash_value, no_progress, read_json, read_metrics
from afina.score.columns import ScoredItem
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.verify.asked_again import AskedAgain, AskedRow
from afina.verify.beside_again import BesideAgain
from afina.verify.card_again import read_card
from afina.verify.commitment import (
    AGAIN,
    COMMITMENT,
    PROBES,
    Commitment,
    as_promised,
    checked_part,
    read_commitment,
    recipe_hash,
)
from afina.verify.endings_again import endings_again
from afina.verify.held_against import HeldAgainst
from afina.verify.how_checked import CHECKED, paths_of, rows_for, table, unknown_keys
from afina.verify.proof import BASE_SKILLS, Proof, open_proof
from afina.verify.questions import read_committed
from afina.verify.tasks_again import tasks_again
from afina.verify.verify import (
    Verification,
    VerifyOptions,
    _check_dataset,
    held_model,
    left_out,
    skills_otherwise,
    verify,
)
from afina.walk.walk import walk_through

ROOT = Path(__file__).parent.parent
LEARNED = ROWS[:18]
OLD = ROWS[18:30]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_project(folder: Path) -> Path:
    """Rows with facts, a page of prose, probes about both, and a base that starts from random weights."""
    base = make_base(folder / "base", hidden_size=64, intermediate_size=128)
    rows = [{"prompt": question, "completion": answer} for question, answer in LEARNED]
    write_rows(folder / "rows.jsonl", rows)
    asked = [row | {"fact": row["completion"]} for row in rows]
    asked += [{"prompt": f"{row['prompt']} Diz.", "completion": row["completion"], "fact": row["completion"]}
              for row in rows]  # fmt: skip
    write_rows(folder / "seen.jsonl", asked)
    write_rows(folder / "old.jsonl", [{"prompt": question, "completion": answer} for question, answer in OLD])
    told = [f"{name} nasceu em {town} no ano de {1900 + 7 * a + b}." for a, name in enumerate(NAMES)
            for b, town in enumerate(TOWNS)]  # fmt: skip
    sections = [f"## {name}\n\n" + " ".join(told[6 * a : 6 * a + 6]) for a, name in enumerate(NAMES)]
    (folder / "page.md").write_text("# Jogadores\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
name: clube
base: {base}
sources: [{{path: rows.jsonl}}, {{path: page.md}}]
dataset: {{language: pt-PT, validation: 0.1, section_chars: 100}}
adapter: {{rank: 8, alpha: 16}}
train: {{epochs: 5, max_length: 64, batch_tokens: 256, learning_rate: 0.01, checkpoint_seconds: 1000000}}
evaluate:
  samples: 3
  questions: 12
  skills: 0
  retrieval: null
  max_new_tokens: 8
  limits: {{learned_min: 0.1, broke_max: 1.0}}
  probes:
    - {{path: seen.jsonl, role: recall, name: aprendidas}}
    - {{path: old.jsonl, role: retention, name: antigas}}
""",
        encoding="utf-8",
    )
    return recipe


def walk(recipe: Path, *overrides: str, until: str = "report") -> list[str]:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afina.cli.opened.say", said.append)
        with walk_of(recipe, list(overrides), recipe.parent / "runs") as opened:
            walk_through(opened, until=until)
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole run, exported for the hub, and what was said."""
    folder = tmp_path_factory.mktemp("project")
    said = walk(write_project(folder))
    call_afina("export", folder / "runs/clube", "--to", "hub-folder", "--out", folder / "export", "--no-check")
    return folder, said


@pytest.fixture
def copied(finished: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, Path]:
    """The export and its base as somebody else has them: under other names, and nothing of the project."""
    folder, _ = finished
    return shutil.copytree(folder / "export", tmp_path / "taken"), shutil.copytree(folder / "base", tmp_path / "model")


def checked(taken: tuple[Path, Path], **options: Any) -> Verification:
    export, base = taken
    return verify(export, VerifyOptions(str(base), **options), say=lambda _: None)


def edit(file: Path, change: Callable[[dict[str, Any]], None], row: int = 0) -> None:
    """Change one row of a JSONL file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    change(rows[row])
    write_rows(file, rows)


def sign(export: Path) -> None:
    """Write the hashes of the proof and of the export anew, as a forger would."""
    file = export / "proof/proof.json"
    known = read_json(file)
    known["files"] = {name: hash_file(export / "proof" / name) for name in known["files"] if
                      (export / "proof" / name).is_file()}  # fmt: skip
    known["export"] = {name: hash_file(export / name) for name in known["export"]}
    file.write_text(json.dumps(known), encoding="utf-8")


def asked_of(folder: Path) -> int:
    """How many questions the run of a project was to be asked."""
    lines = (folder / "runs/clube" / PROBES).read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["kind"] == "question" for line in lines)


def test_before_the_first_step_a_run_commits_and_says_the_hash(finished: tuple[Path, list[str]]) -> None:
    folder, said = finished
    run = folder / "runs/clube"
    sha256 = hash_file(run / COMMITMENT)
    (line,) = [each for each in said if "fixed by this fingerprint" in each]
    assert sha256 in line and f"({asked_of(folder)} open, " in line
    values = read_json(run / COMMITMENT)
    assert values["probes"]["sha256"] == hash_file(run / PROBES)
    assert values["dataset"]["train"] == hash_file(run / "dataset/train.jsonl") and values["dataset"]["test"] is None
    assert values["base"]["weights_sha256"] == read_json(run / "adapter/afina.json")["base"]["weights_sha256"]
    assert values["read"]["probes"] == {name: hash_file(folder / name) for name in ("old.jsonl", "seen.jsonl")}
    happened = [event["event"] for event in read_metrics(run)]
    assert happened.index("committed") < happened.index("step")
    assert not any(str(folder) in file.read_text(encoding="utf-8") for file in (run / COMMITMENT, run / PROBES))


def test_a_copy_elsewhere_is_verified(copied: tuple[Path, Path], finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    shown = [file for file in (copied[0] / "proof").iterdir() if str(folder) in file.read_text(encoding="utf-8")]
    assert not shown, "paths of the machine that trained"
    sha256 = hash_file(copied[0] / "proof" / COMMITMENT)
    found = checked(copied, commitment=sha256.upper())
    assert found.passed and found.answers == "equal" and not found.problems, found.describe()
    choices = len((copied[0] / "proof/choices.jsonl").read_text(encoding="utf-8").splitlines())
    assert choices >= 3 and found.asked == found.equal == 2 * (asked_of(folder) + choices)
    assert "the commitment is the published one" in found.holds and found.published
    assert found.verdict == {key: value for key, value in read_json(copied[0] / "proof/scores.json")["verdict"].items()
                             if key in ("text", "passed", "misses")}  # fmt: skip
    assert f"the verdict: {found.verdict['text']}; not within its limits" in found.describe()
    assert not any("before the training" in each for each in found.unknown)
    assert sha256 in (copied[0] / "README.md").read_text(encoding="utf-8")
    done = call_afina("verify", copied[0], "--base", copied[1], "--questions", 5, "--json")
    told = json.loads(done.stdout)
    assert told["passed"] and told["asked"] == 10 and any("not drawn" in each for each in told["unknown"])
    assert any("--commitment HASH" in each for each in told["unknown"])


def test_a_swapped_adapter_is_noticed_and_one_with_forged_hashes_too(copied: tuple[Path, Path]) -> None:
    file = copied[0] / "adapter_model.safetensors"
    turned = {name: -weight if "lora_B" in name else weight for name, weight in load_file(file).items()}
    save_file(turned, file, {"format": "pt"})
    done = call_afina("verify", copied[0], "--base", copied[1], check=5)
    assert "the adapter's weights are not those whose answers are stored" in done.stdout
    assert "answers: not asked" in done.stdout
    sign(copied[0])
    known = read_json(copied[0] / "proof/proof.json")
    lines = f"{hash_file(file)}  {file.name}"
    known["trained_sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    (copied[0] / "proof/proof.json").write_text(json.dumps(known), encoding="utf-8")
    found = checked(copied)
    assert not found.passed and found.answers == "not equal"
    assert all(each.startswith("the trained model, ") for each in found.problems) and "nats" in found.problems[0]


def test_edited_questions_are_not_those_committed_to(copied: tuple[Path, Path]) -> None:
    """Also where the hashes of the proof, the ids and the answers' rows were made to fit."""
    proof = copied[0] / "proof"
    edit(proof / PROBES, lambda row: row.update(reference="Lagos"))
    problems = checked(copied).problems
    assert "the questions (proof/probes.jsonl) are not those committed to" in problems
    assert any("`id` should be" in each for each in problems)
    edit(proof / PROBES, lambda row: row.update(id="0" * 16))
    known = json.loads((proof / PROBES).read_text(encoding="utf-8").splitlines()[0])
    question = Question(tuple(known["messages"]), "Lagos", "", cluster=known["cluster"])
    made = question_id(ProbeSet(known["probe"], known["role"]), question)
    edit(proof / PROBES, lambda row: row.update(id=made))
    edit(proof / "predictions.jsonl", lambda row: row.update(id=made, reference="Lagos"))
    sign(copied[0])
    assert read_committed(proof).questions[0].question.reference == "Lagos"
    found = checked(copied)
    assert "the questions (proof/probes.jsonl) are not those committed to" in found.problems


def test_a_question_that_is_left_out_is_missed(copied: tuple[Path, Path]) -> None:
    file = copied[0] / "proof/predictions.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[1:]), encoding="utf-8")
    sign(copied[0])
    (problem,) = checked(copied).problems
    asked = read_json(copied[0] / "proof" / COMMITMENT)["probes"]["questions"]
    assert f"{asked - 1} answers to {asked} questions, 1 of which have none" in problem


@pytest.mark.parametrize("side", ["base", "adapter"])
def test_an_edited_answer_is_named_with_its_question(copied: tuple[Path, Path], side: str) -> None:
    file = copied[0] / "proof/predictions.jsonl"
    edit(file, lambda row: row.update({side: "Lisboa"}))
    assert open_proof(copied[0]).changed_files() == ["predictions.jsonl"]
    sign(copied[0])
    found = checked(copied)
    who = "the base" if side == "base" else "the trained model"
    assert not found.passed and found.equal == found.asked - 1
    (problem,) = [each for each in found.problems if each.startswith(who)]
    assert repr(LEARNED[0][0]) in problem and "stored is 'Lisboa'" in problem


def test_edited_scores_are_counted_again(copied: tuple[Path, Path]) -> None:
    file = copied[0] / "proof/scores.json"
    scores = read_json(file)
    before = scores["probes"][0]["after"]["contains"]
    scores["probes"][0]["after"]["contains"] = before / 2 + 0.01
    scores["verdict"]["learned"] = "parrots"
    file.write_text(json.dumps(scores), encoding="utf-8")
    sign(copied[0])
    found = checked(copied)
    assert found.answers == "equal" and not found.passed
    assert any("aprendidas: `after`" in each for each in found.problems)
    assert any("`learned` is 'parrots'" in each for each in found.problems)


def test_an_edited_mark_is_noticed(copied: tuple[Path, Path]) -> None:
    file = copied[0] / "proof/predictions.jsonl"
    edit(file, lambda row: row.update(adapter_correct=not row["adapter_correct"]), row=-4)
    sign(copied[0])
    (problem,) = checked(copied, questions=1).problems
    assert "`adapter_correct` is" in problem


def test_a_choice_that_the_model_does_not_make_is_noticed(copied: tuple[Path, Path]) -> None:
    def turn(row: dict[str, Any]) -> None:
        scores = row["adapter_scores"]
        scores[0] = max(scores[1:]) + (-1.0 if row["adapter_correct"] else 1.0)
        row["adapter_correct"] = not row["adapter_correct"]

    edit(copied[0] / "proof/choices.jsonl", turn)
    sign(copied[0])
    assert any("to choose for" in each for each in checked(copied).problems)


@pytest.mark.parametrize("forged", [False, True])
def test_a_changed_template_is_noticed(copied: tuple[Path, Path], forged: bool) -> None:
    file = copied[0] / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("{%- for", "Sim.{%- for", 1), encoding="utf-8")
    if forged:
        sign(copied[0])
    found = checked(copied, questions=2)
    assert any("asked in other tokens than committed to" in each for each in found.problems)
    assert any("chat_template.jinja is not what the export wrote" in each for each in found.problems) != forged


def test_moved_limits_and_another_commitment_are_noticed(copied: tuple[Path, Path]) -> None:
    proof = copied[0] / "proof"
    published = hash_file(proof / COMMITMENT)
    values = read_json(proof / "recipe.json")
    values["limits"]["learned_min"] = 0.05
    (proof / "recipe.json").write_text(json.dumps(values), encoding="utf-8")
    sign(copied[0])
    assert any("not the recipe committed to" in each for each in checked(copied, questions=1).problems)
    commitment = read_json(proof / COMMITMENT) | {"checked_sha256": hash_value(values)}
    (proof / COMMITMENT).write_text(json.dumps(commitment), encoding="utf-8")
    sign(copied[0])
    assert any("a limit that the stored answers miss" in each for each in checked(copied, questions=1).problems)
    scores = (proof / "scores.json").read_text(encoding="utf-8")
    assert "asks for 10 %" in scores
    (proof / "scores.json").write_text(scores.replace("asks for 10 %", "asks for 5 %"), encoding="utf-8")
    sign(copied[0])
    assert any("README.md: it leaves out 'missed: " in each for each in checked(copied, questions=1).problems)
    card = copied[0] / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("asks for 10 %", "asks for 5 %"), encoding="utf-8")
    found = checked(copied, questions=1)
    assert found.passed and any("--commitment HASH" in each for each in found.unknown), "nothing else can tell"
    found = checked(copied, questions=1, commitment=published)
    assert "the commitment is not the published one" in found.problems[0]
    with pytest.raises(RecipeError, match="is no SHA-256"):
        checked(copied, commitment="5f2b")


def test_of_two_trainings_the_first_ones_hash_may_be_the_published_one(copied: tuple[Path, Path]) -> None:
    """Its questions have to be the same; a first commitment that was made anew is not the one that is named."""
    proof = copied[0] / "proof"
    first = shutil.copy(proof / COMMITMENT, proof / "first-commitment.json")
    published = hash_file(first)
    values_of(lambda it: it.update(after=published), f"proof/{COMMITMENT}")(copied[0])
    values_of(lambda it: it["files"].update({first.name: ""}), "proof/proof.json")(copied[0])
    sign(copied[0])
    found = checked(copied, questions=1, commitment=published)
    assert found.passed and found.published and any("of the first of two trainings" in each for each in found.holds)
    values_of(lambda it: it.update(written="later"), "proof/first-commitment.json")(copied[0])
    sign(copied[0])
    found = checked(copied, questions=1, commitment=published)
    assert not found.published and "the commitment is not the published one" in found.problems[0]
    assert any("is not the commitment of the first training" in each for each in found.problems)


def test_another_base_is_noticed_and_none_is_asked_for(copied: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=1, hidden_size=64, intermediate_size=128)
    found = verify(copied[0], VerifyOptions(str(other)), say=lambda _: None)
    assert any("is not the base committed to: weights" in each for each in found.problems)
    done = call_afina("verify", copied[0], folder=tmp_path, check=2)
    assert "say where it is: --base BASE" in done.stderr


def test_rounding_is_told_from_another_answer(copied: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that another machine gives otherwise: led along the stored one, the margin decides."""
    from afina.verify import asked_again

    def otherwise(*given: Any, **options: Any) -> list[Answer]:
        right = generate(*given, **options)
        return [Answer("Outra", 1, True), *right[1:]]

    generate = asked_again.generate
    monkeypatch.setattr(asked_again, "generate", otherwise)
    found = checked(copied)
    assert found.passed and found.answers == "equal within rounding" and len(found.rounded) == 2, found.describe()
    assert "rounding" in found.describe()


ANSWERS, SCORES = "proof/predictions.jsonl", "proof/scores.json"


def rows_of(change: Callable[[dict[str, Any]], None], file: str = ANSWERS, row: int = 0) -> Callable[[Path], None]:
    return lambda export: edit(export / file, change, row)


def lines_of(change: Callable[[list[str]], list[str]], file: str = ANSWERS) -> Callable[[Path], None]:
    def changed(export: Path) -> None:
        lines = (export / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (export / file).write_text("".join(change(lines)), encoding="utf-8")

    return changed


def values_of(change: Callable[[dict[str, Any]], Any], file: str = SCORES) -> Callable[[Path], None]:
    def changed(export: Path) -> None:
        values = read_json(export / file)
        change(values)
        (export / file).write_text(json.dumps(values), encoding="utf-8")

    return changed


def bytes_of(change: Callable[[bytes], bytes], file: str) -> Callable[[Path], None]:
    return lambda export: (export / file).write_bytes(change((export / file).read_bytes())) and None


def say_it_ended(export: Path) -> None:
    """Of the first answer that the trained model was cut in."""
    rows = [json.loads(line) for line in (export / ANSWERS).read_text(encoding="utf-8").splitlines()]
    cut = next(number for number, row in enumerate(rows) if not row["adapter_stopped"])
    assert "never_stops" not in rows[cut]["adapter_flaws"]
    edit(export / ANSWERS, lambda row: row.update(adapter_stopped=True), cut)


def win(row: dict[str, Any]) -> None:
    assert not row["adapter_correct"]
    row["adapter_scores"][0] = max(row["adapter_scores"][1:]) + 1.0


def without_turns(row: dict[str, Any]) -> None:
    row["messages"] = []
    row["id"] = question_id(ProbeSet(row["probe"], row["role"]), Question((), row["reference"], "",
                                                                          cluster=row["cluster"]))  # fmt: skip


def swap(tokenizer: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    one, two = sorted(vocab)[-2:]
    vocab[one], vocab[two] = vocab[two], vocab[one]


def read_otherwise(tokenizer: dict[str, Any]) -> None:
    replaced = {"type": "Replace", "pattern": {"String": "a"}, "content": "e"}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], replaced]}


def nothing(export: Path) -> None:
    """A commitment to no question."""
    proof = export / "proof"
    for name in (PROBES, "predictions.jsonl", "samples.jsonl", "choices.jsonl"):
        (proof / name).write_text("", encoding="utf-8")
    values_of(lambda it: it["probes"].update(sha256=hash_file(proof / PROBES)), f"proof/{COMMITMENT}")(export)


FORGERIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an answer is cut where it is right": (
        rows_of(lambda row: row.update(base="<|assistant|>")), "the base, asked 'Onde nasceu Ana Faro?'"),
    "an answer that was cut is said to have ended": (
        say_it_ended, "the trained model, asked '"),
    "one that goes in circles is said to end some time": (
        rows_of(lambda row: row.update(base_flaws=["loops", "chat_markers"])), "was cut going in circles"),
    "a choice by its scores and not by its mark": (
        rows_of(win, "proof/choices.jsonl"), "by its `adapter_scores` it took the true sentence"),
    "scores of sentences that are none": (
        rows_of(lambda row: row.update(adapter_scores=5), "proof/choices.jsonl"), "a number for each of the committed"),
    "scores of sentences that are no numbers": (
        rows_of(lambda row: row.update(adapter_scores=[float("nan")] * 8), "proof/choices.jsonl"), "a number for each"),
    "scores of sentences of which some are true or null": (
        rows_of(lambda row: row.update(base_scores=[True] * 7 + [None]), "proof/choices.jsonl"), "a number for each"),
    "scores of sentences beyond every score": (
        rows_of(lambda row: row.update(base_scores=[10**60] * 8), "proof/choices.jsonl"), "a number for each"),
    "a choice of another probe": (
        rows_of(lambda row: row.update(role="control"), "proof/choices.jsonl"), "choices made of 3, which are others"),
    "another verdict in words": (
        values_of(lambda it: it["verdict"].update(text="learned: yes, broke: nothing")), "`text` is 'learned: yes"),
    "another finding": (
        values_of(lambda it: it["verdict"].update(findings=["aprendidas: 100 % right"])), "the findings are not those"),
    "a finding left out": (
        values_of(lambda it: it["verdict"]["findings"].pop()), "some are left out or in another order"),
    "a folding that the tokenizer does not do": (
        values_of(lambda it: it.update(folds=["case"])), "folds case, and it folds nothing"),
    "a miss left out": (values_of(lambda it: it["verdict"]["misses"].pop()), "a limit that the stored answers miss"),
    "a pass in spite of misses": (
        values_of(lambda it: it["verdict"].update(passed=True)), "it says that the run passed, and by the stored"),
    "guardrails of more answers": (
        values_of(lambda it: it["guardrails"].update(answers=999)), "the guardrails are not counted as"),
    "guardrails by other limits": (
        values_of(lambda it: it["guardrails"]["limits"].update(empty=1.0)), "the guardrails' limits are not those"),
    "answers that had room": (
        values_of(lambda it: it["guardrails"]["room"]["after"].update(reached=0)), "`guardrails.room` counts 0"),
    "no scores": (lambda export: (export / SCORES).unlink(), "there is no verdict"),
    "another question shown": (rows_of(lambda row: row.update(prompt="Quem?")), "`prompt` is 'Quem?'"),
    "another fact": (rows_of(lambda row: row.update(fact="Lagos")), "`fact` is 'Lagos'"),
    "answers in another order": (lines_of(lambda lines: [*lines[1::-1], *lines[2:]]), "in another order"),
    "an answer twice": (lines_of(lambda lines: [*lines, lines[0]]), "1 to no question or to one that has its own"),
    "no answers": (lambda export: (export / ANSWERS).unlink(), "53 of which have none"),
    "half a file": (bytes_of(lambda data: data[:2000], ANSWERS), "damaged: Unterminated"),
    "half a character in a question": (
        bytes_of(lambda data: data.replace(b"Faro de Ana", b"\\ud800", 1), f"proof/{PROBES}"), "surrogates not"),
    "half a character in an answer": (
        bytes_of(lambda data: data.replace(b'"adapter": ""', b'"adapter": "\\udfff"', 1), ANSWERS), "surrogates"),
    "a question without turns": (rows_of(without_turns, f"proof/{PROBES}"), "`messages` should be one at least"),
    "a turn that says nothing": (
        rows_of(lambda row: row["messages"][0].pop("content"), f"proof/{PROBES}"), "turns with role and content"),
    "a turn of nobody": (
        rows_of(lambda row: row["messages"][0].update(role="judge"), f"proof/{PROBES}"), "should be one of assistant"),
    "no questions": (lambda export: (export / "proof" / PROBES).unlink(), "are not those committed to"),
    "nothing committed to": (nothing, "no question was committed to"),
    "no recipe": (lambda export: (export / "proof/recipe.json").unlink(), "recipe.json: damaged"),
    "a file that the proof does not list": (
        lambda export: (export / "proof/more.jsonl").write_text("{}"), "proof/more.jsonl is not what the export wrote"),
    "a pickle beside the adapter": (
        lambda export: (export / "adapter_model.bin").write_bytes(b"x"), "adapter_model.bin is not what the export"),
    "another tokenizer": (values_of(swap, "tokenizer.json"), "the export's tokenizer has other tokens"),
    "a tokenizer that reads otherwise": (
        values_of(read_otherwise, "tokenizer.json"), "answers otherwise than the base's"),
    "a damaged tokenizer": (lambda export: (export / "tokenizer.json").write_text("{}"), "no tokenizer can be opened"),
    "another end token": (
        values_of(lambda it: it.update(eos_token="<|user|>"), "tokenizer_config.json"), "has another end token"),
    "answers end elsewhere": (
        values_of(lambda it: it.update(eos_token_id=4), "generation_config.json"), "ends answers at the tokens [4]"),
    "half a configuration": (bytes_of(lambda data: data[:300], "adapter_config.json"), "damaged: Unterminated"),
}  # fmt: skip
"""What is done to an export before its hashes are made to fit, and a part of the reason that is given."""


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forgery_whose_hashes_fit_is_named(copied: tuple[Path, Path], kind: str) -> None:
    """Each ends with exit code 5 and its reason, none with a traceback."""
    forge, reason = FORGERIES[kind]
    forge(copied[0])
    sign(copied[0])
    told = json.loads(call_afina("verify", copied[0], "--base", copied[1], "--json", check=5).stdout)
    assert any(reason in each for each in told["problems"]), told["problems"]


def test_names_in_a_proof_lead_nowhere_and_what_is_no_file_is_not_read(copied: tuple[Path, Path]) -> None:
    """Names are held against the files that are there; a pipe, which would never end, is refused first."""
    other = copied[0].parent / "other.json"
    other.write_text("{}", encoding="utf-8")
    for name in ("../../other.json", "a" * 300, "a\0b"):
        values_of(lambda it, name=name: it["files"].update({name: hash_file(other)}), "proof/proof.json")(copied[0])
    problems = checked(copied, questions=1).problems
    assert sum("is not what the export wrote" in each for each in problems) == len(problems) == 3
    (copied[0] / "proof/recipe.json").unlink()
    os.mkfifo(copied[0] / "proof/recipe.json")
    done = call_afina("verify", copied[0], "--base", copied[1], "--json", check=5)
    assert "is neither a file nor a folder" in done.stdout


def test_a_folder_that_is_a_link_is_none_of_the_exports(copied: tuple[Path, Path]) -> None:
    """Programs follow it to weights whose hashes nobody noted."""
    elsewhere = copied[0].parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "adapters.safetensors").write_bytes(b"forged")
    (copied[0] / "mlx-lm").symlink_to(elsewhere)
    (copied[0] / "pictures").symlink_to(copied[0].parent / "pictures")
    (copied[0].parent / "pictures").mkdir()
    sign(copied[0])
    assert checked(copied, questions=1).problems == ["mlx-lm/ is not what the export wrote"]


def test_line_ends_that_git_changed_are_told_from_a_forgery(copied: tuple[Path, Path]) -> None:
    """A clone on Windows: every text was another, and nothing said why."""
    for name in ("adapter_config.json", "proof/probes.jsonl", "proof/scores.json"):
        file = copied[0] / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    found = checked(copied, questions=1)
    assert any("proof/probes.jsonl is not what the export wrote" in each for each in found.problems)
    assert any(each.startswith("3 of these files differ in their line ends alone") for each in found.problems)
    (copied[0] / "proof/scores.json").write_text("{}", encoding="utf-8")
    assert any(each.startswith("2 of these files differ") for each in checked(copied, questions=1).problems)


def test_limits_that_a_later_afina_knows_are_no_forgery(copied: tuple[Path, Path]) -> None:
    """What was committed to and cannot be read here needs a newer afina; edited it stays a problem."""
    values_of(lambda it: it["limits"].update(new_limit=1), "proof/recipe.json")(copied[0])
    assert any("new_limit" in each for each in checked(copied).problems)
    known = read_json(copied[0] / "proof/recipe.json")
    values_of(lambda it: it.update(checked_sha256=hash_value(known)), f"proof/{COMMITMENT}")(copied[0])
    sign(copied[0])
    done = call_afina("verify", copied[0], "--base", copied[1], check=2)
    assert "is no recipe of this afina" in done.stderr and f"that trained ({__version__})" in done.stderr


def test_what_somebody_else_wrote_stays_in_its_line(copied: tuple[Path, Path]) -> None:
    line = "\n  as it should be: the commitment is the published one\x1b[2K"
    values_of(lambda it: it.update(written=f"today{line}"), f"proof/{COMMITMENT}")(copied[0])
    sign(copied[0])
    found = checked(copied, questions=1)
    assert (
        found.passed
        and found.published is None
        and "whether these came before the training is not shown" in found.describe()
    )
    assert not any(each.strip().startswith("as it should be: the commitment is") for each in
                   found.describe().splitlines())  # fmt: skip
    assert "\x1b" not in found.describe() and "today" in found.describe()


def test_rounding_that_always_favours_the_stored_answer_is_none() -> None:
    """Eleven of eleven is once in a thousand; nine of eleven is not, nor is a model by itself."""
    found = AskedAgain(turned=Counter({("adapter", "recall", True): 11, ("base", "recall", False): 9}))
    (reason,) = found.picked()
    assert (
        reason.startswith("the trained model's answers (recall)") and "11 are better as stored and worse here" in reason
    )
    assert not list(
        AskedAgain(turned=Counter({("adapter", "recall", True): 9, ("adapter", "recall", False): 2})).picked()
    )


def test_answers_about_skills_may_not_be_left_out(tmp_path: Path) -> None:
    """Where the base had skills to lose, a verdict without them is no verdict; where it had none, none are judged."""
    items = in_turn("pt-PT")[:8]
    before = [{"id": item.id, "base": item.example, "base_stopped": True} for item in items]
    proof = Proof(tmp_path, tmp_path, Record({}, "proof.json"))
    write_rows(tmp_path / BASE_SKILLS, before)
    promised = Record({"questions": items_hash(), "asked_sha256": hash_file(tmp_path / BASE_SKILLS)}, "commitment.json")
    (problem,) = skills_otherwise(proof, promised)
    assert "are left out, and the base had skills to lose" in problem
    both = [row | {"adapter": "", "adapter_stopped": True} for row in before]
    write_rows(tmp_path / "skills.jsonl", both)
    assert list(skills_otherwise(proof, promised)) == []
    write_rows(tmp_path / "skills.jsonl", both[1:])
    assert list(skills_otherwise(proof, promised)) == [
        "skills.jsonl: the base's answers are not those that it gave before the training"
    ]
    (tmp_path / "skills.jsonl").unlink()
    write_rows(tmp_path / BASE_SKILLS, [row | {"base": ""} for row in before])
    known = Record({"questions": items_hash(), "asked_sha256": hash_file(tmp_path / BASE_SKILLS)}, "commitment.json")
    assert list(skills_otherwise(proof, known)) == []


def test_a_verdict_that_passed_shows_all_that_its_recipe_measures(tmp_path: Path) -> None:
    proof = Proof(tmp_path, tmp_path, Record({}, "proof.json"))
    measured = {"tasks": ["qa"], "safety": True, "continuations": False}
    (tmp_path / "recipe.json").write_text(json.dumps({"measured": measured}), encoding="utf-8")
    Scores(verdict=Verdict("yes", "nothing", True, "")).write(tmp_path)
    assert [each.partition("recipe's ")[2] for each in left_out(proof)] == ["safety are left out",
                                                                          "tasks are left out: qa"]  # fmt: skip
    Scores(verdict=Verdict("yes", "nothing", False, "", ("safety: not measured",))).write(tmp_path)
    assert list(left_out(proof)) == []


def task_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A task's part of the scores, as it is counted of its rows."""
    metrics = ("exact_match", "f1")
    records = [Record(row, "rows") for row in rows]
    for row, record in zip(rows, records, strict=True):
        one = tally_of([record], metrics, "en")
        row |= {f"{name}_scores": one.last(name) for name in ("base", "adapter")}
    values = metric_values(tally_of(records, metrics, "en"), {0: range(len(rows))})
    return {"name": "qa", "n": len(rows), "items": len(rows), "seeds": [0], "language": "en", "metrics": values} | more


def test_a_tasks_figures_are_counted_again_and_what_no_row_tells_is_said(tmp_path: Path) -> None:
    rows = [{"task": "qa", "reference": ref, "base": "Lagos", "adapter": own} for ref, own in
            (("Faro", "Faro"), (["Silves", "Loulé"], "Loulé"), ("Tavira", "Olhão"))]  # fmt: skip

    def told(task: dict[str, Any], answers: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
        found, asked = held_tasks(tmp_path, task, answers, None)
        assert not asked
        return found.wrong, found.left

    task = task_of(rows)
    wrong, unknown = told(task, rows)
    assert wrong == [] and len(unknown) == 1 and "did not promise each question of a task" in unknown[0]
    (marked,) = told(task, [*rows[:2], rows[2] | {"adapter_scores": {"exact_match": 1.0, "f1": 0.0}}])[0]
    assert "`adapter_scores.exact_match` is 1.0, the answer gets 0.0" in marked
    better = json.loads(json.dumps(task))
    better["metrics"][0]["after"]["mean"] = 0.9
    assert "the task qa: `exact_match.after` is" in told(better, rows)[0][0]
    assert "2 answers to the task qa, of which scores.json counts 3" in told(task, rows[:2])[0][0]
    assert "has no task 'other'" in told(task, [*rows, rows[0] | {"task": "other"}])[0][0]
    assert "its answers are not here" in told(task, [])[1][1]
    drawn = told(task | {"n": 2, "metrics": [*task["metrics"], {"name": "accuracy"}]}, rows)
    assert drawn[0] == [] and "accuracy (no row tells them)" in drawn[1][1] and "its sums" in drawn[1][2]


def held_tasks(
    folder: Path, task: dict[str, Any], answers: list[dict[str, Any]], promised: list[dict[str, Any]] | None
) -> tuple[HeldAgainst, list[AskedRow]]:
    """What comes of a task's answers, and those that are asked again."""
    Scores(tasks=[record_of(task)]).write(folder)
    write_rows(folder / "task_predictions.jsonl", answers)
    scores, found = read_scores(folder), HeldAgainst()
    assert scores
    records = None if promised is None else [Record(each, "commitment.json") for each in promised]
    return found, tasks_again(Proof(folder, folder, Record({}, "proof.json")), scores, records, "en", found)


def choosing_task() -> tuple[TaskSet, list[dict[str, Any]], dict[str, Any]]:
    """Three questions among two towns, of which each seed draws two; the stored answers, and what they are worth."""
    towns = (("A", "Faro"), ("B", "Lagos"))
    items = tuple(ScoredItem(line, (ask, "One word."), ("Faro",), (), choices=towns,
                             messages=({"role": "user", "content": f"{ask}\n\nOne word."},))
                  for line, ask in enumerate(("Where?", "Who?", "When?"), start=1))  # fmt: skip
    task = TaskSet(Task(name="towns", path="qa.jsonl"), items, {7: (0, 1), 8: (1, 2)}, ("accuracy", "f1"), 4, 1)
    rows = question_rows(task)
    for row, answer in zip(rows, ("Faro", "Lagos", "the B"), strict=True):
        row |= {"base": "Lagos", "adapter": answer, "base_stopped": True, "adapter_stopped": False}
        one = tally_of([Record(row, "rows")], task.metrics, "en")
        row |= {f"{name}_scores": one.last(name) for name in ("base", "adapter")}
    records = [Record(row, "rows") for row in rows]
    found = [{"name": name, "prediction": of, "count": count} for name, of, count in findings_of(records, "en")]
    values = metric_values(tally_of(records, task.metrics, "en"), task.drawn)
    scores = {"name": "towns", "n": 2, "items": 3, "rows": 4, "seeds": [7, 8], "trained_on": 1, "notes": task.notes}
    scores |= {"findings": found, "language": "en", "normalization": normalization("en"), "metrics": values}
    return task, rows, scores


def test_a_task_that_was_committed_to_is_told_by_its_rows_and_asked_again(tmp_path: Path) -> None:
    """Choices, what each seed drew and what is wrong with the answers too: nothing is left to believe."""
    task, rows, scores = choosing_task()
    promise = task_promise(task, 8)
    assert rows[0]["asked"] == ["Where?", "One word."] and "messages" not in rows[0]
    assert [row.get("drawn_by") for row in rows] == [[7], None, [8]]
    found, asked = held_tasks(tmp_path, scores, rows, [promise])
    assert (found.wrong, found.left) == ([], [])
    assert [each.question.prompt for each in asked] == [row["prompt"] for row in rows]
    assert [each.room for each in asked] == [8, 8, 8]
    assert [each.worth(Answer("(A)", 1, True)) for each in asked] == [1.0, 1.0, 1.0]

    def wrong(change: Callable[[dict[str, Any], list[dict[str, Any]]], Any]) -> str:
        values, answers = json.loads(json.dumps([scores, rows]))
        change(values, answers)
        found, _ = held_tasks(tmp_path, values, answers, [promise])
        return "\n".join(found.wrong)

    others = "the questions of the task towns are not those committed to"
    assert others in wrong(lambda _, rows: rows[0].update(prompt="What?"))
    assert others in wrong(lambda _, rows: rows[0].pop("among"))
    assert others in wrong(lambda _, rows: rows[2].update(drawn_by=[7, 8]))
    assert others in wrong(lambda scores, rows: (rows.pop(), scores.update(items=2)))
    assert "`trained_on` is 0, and 1 was committed to" in wrong(lambda scores, _: scores.update(trained_on=0))
    assert "`notes` is []" in wrong(lambda scores, _: scores.update(notes=[]))
    assert "`language` is 'pt'" in wrong(lambda scores, _: scores.update(language="pt"))
    assert "its metrics are accuracy, and accuracy, f1" in wrong(lambda scores, _: scores["metrics"].pop())
    assert "`accuracy.after` is" in wrong(lambda scores, _: scores["metrics"][0]["after"].update(mean=1.0))
    assert "its findings are" in wrong(lambda scores, _: scores.update(findings=[]))
    assert "`adapter_scores.accuracy` is 0.0" in wrong(lambda _, rows: rows[1].update(adapter="Faro"))
    found, _ = held_tasks(tmp_path, scores, rows, [])
    assert found.wrong == ["scores.json: the task 'towns' was not committed to"]
    found, _ = held_tasks(tmp_path, scores, [], [promise])
    assert found.wrong == ["the task towns: its answers are not here"]


def test_of_a_task_of_code_the_results_are_counted_and_said_not_to_be_run_again(tmp_path: Path) -> None:
    items = tuple(ScoredItem(line, (ask,), ("",), (), messages=({"role": "user", "content": ask},))
                  for line, ask in enumerate(("Add.", "Print."), start=1))  # fmt: skip
    code = Code(language="python", compiler="3.11", run=True, samples=2, pass_at=[1])
    task = TaskSet(Task(name="code", path="code.jsonl", code=code), items, {0: (0, 1)},
                   ("compiles", "right", "pass@1"), 2, 0, ((), ()))  # fmt: skip
    rows = question_rows(task)
    for row, result in zip(rows, ("right", "no code"), strict=True):
        row |= {"base": "no", "adapter": "yes", "base_stopped": True, "adapter_stopped": True}
        for name, first in (("base", "no code"), ("adapter", result)):
            samples = [{"text": "x", "result": each, "lines": ""} for each in (first, "compiles")]
            row |= {f"{name}_result": first, f"{name}_lines": "", f"{name}_samples": samples}
        one = code_tally_of([Record(row, "rows")], task.metrics, ran=True)
        row |= {f"{name}_scores": one.last(name) for name in ("base", "adapter")}
    records = [Record(row, "rows") for row in rows]
    values = metric_values(code_tally_of(records, task.metrics, ran=True), task.drawn)
    assert rows[0]["adapter_scores"] == {"compiles": 1.0, "right": 1.0, "pass@1": 0.5}
    about = {"language": "python", "ran": True, "samples": 2}
    about |= {"results": dict(zip(("before", "after"), results_of(records), strict=True))}
    scores = {"name": "code", "n": 2, "items": 2, "rows": 2, "seeds": [0], "trained_on": 0, "notes": task.notes}
    scores |= {"findings": [], "language": "en", "code": about, "metrics": values}
    promise = task_promise(task, 8)
    found, asked = held_tasks(tmp_path, scores, rows, [promise])
    assert found.wrong == [] and len(asked) == 2
    assert found.left == [
        "the task code: what its programs did, and its samples: programs are not run again, nor drawn again"
    ]
    better = json.loads(json.dumps(scores))
    better["code"]["results"]["after"]["right"] = 2
    better["metrics"][2]["after"]["mean"] = 1.0
    found, _ = held_tasks(tmp_path, better, rows, [promise])
    assert "`code.results.after` is" in found.wrong[0] and "`pass@1.after` is" in found.wrong[1]
    with pytest.raises(AfinaError, match="should be one of no code"):
        held_tasks(tmp_path, scores, [rows[0] | {"base_result": "good"}, rows[1]], [promise])


@pytest.mark.parametrize("to", ["gguf", "mlx"])
def test_what_other_programs_open_is_asked_as_the_numbers_that_it_stands_for(
    finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    out = tmp_path / to
    call_afina("export", finished[0] / "runs/clube", "--to", to, "--out", out, "--no-check")
    found = verify(out, VerifyOptions(), say=lambda _: None)
    assert found.passed and found.asked, found.describe()
    assert any("their answers alone tell" in each for each in found.unknown)
    edit(out / ANSWERS, lambda row: row.update(adapter="Lisboa"))
    sign(out)
    found = verify(out, VerifyOptions(), say=lambda _: None)
    assert not found.passed and any("stored is 'Lisboa'" in each for each in found.problems)


def test_of_two_gguf_files_none_is_asked(tmp_path: Path) -> None:
    found = Verification("x")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    proof = Proof(tmp_path, tmp_path, Record({"holds": "gguf"}, "proof.json"))
    assert held_model(proof, found, lambda _: None) is None
    assert found.problems == ["it holds 2 GGUF files, and is to hold one"]


def test_a_merged_export_is_verified_alone_and_an_ollama_folder_is_not_asked(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, _ = finished
    call_afina("export", folder / "runs/clube", "--to", "merged", "--out", tmp_path / "merged", "--no-check")
    found = verify(tmp_path / "merged", VerifyOptions(), say=lambda _: None)
    assert found.passed and any("--base names it" in each for each in found.unknown), found.describe()
    known = read_json(tmp_path / "merged/proof/proof.json")
    (tmp_path / "merged/proof/proof.json").write_text(json.dumps(known | {"holds": "ollama"}), encoding="utf-8")
    found = verify(tmp_path / "merged", VerifyOptions(), say=lambda _: None)
    assert not found.passed and found.answers == "not asked" and not found.problems
    assert any("it holds ollama, which is not asked here" in each for each in found.unknown)


def test_whether_an_answer_that_was_cut_ends_is_asked(copied: tuple[Path, Path]) -> None:
    """No stored text tells it: one that had ended with more room is stored as one that never does."""
    file, scores = copied[0] / ANSWERS, read_json(copied[0] / SCORES)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    cut = [row for row in rows if not row["adapter_stopped"] and "never_stops" not in row["adapter_flaws"]]
    assert cut
    for row in cut:
        row["adapter_flaws"].insert(0, "never_stops")
    scores["guardrails"]["after"]["never_stops"] += len(cut)
    write_rows(file, rows)
    (copied[0] / SCORES).write_text(json.dumps(scores), encoding="utf-8")
    sign(copied[0])
    found = checked(copied)
    assert found.answers == "equal" and found.figures["endings"] != "equal"
    said = [each for each in (*found.problems, *found.figures_rounded) if "stored is that it never ends" in each]
    assert len(said) == len(cut) and all(each.startswith("the trained model, asked '") for each in said)


def test_a_model_that_never_stops_cannot_be_said_to_end(tmp_path: Path) -> None:
    base = make_base(tmp_path, max_position_embeddings=256)
    recipe = make_recipe(base)
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"max_new_tokens": 8})})
    model = load_base(base, recipe, torch.device("cpu")).eval()
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    asked = [Question(({"role": "user", "content": question},), "Sim", f"a:{line}")
             for line, (question, _) in enumerate(ROWS, start=1)]  # fmt: skip
    prompts = [renderer.prompt(each.messages) for each in asked]

    def put(numbers: Any, limit: int) -> list[Answer]:
        return generate(model, renderer, [prompts[number] for number in numbers], max_new_tokens=limit)

    answers = put(range(len(asked)), 8)
    told, room = find_endless(answers, [(each.reference, 1) for each in asked], 8, put)
    assert sum(told) > 11

    def again(endless: list[bool], said: RoomToEnd) -> tuple[HeldAgainst, AskedAgain]:
        rows = [
            {"adapter": answer.text, "adapter_stopped": answer.stopped, "adapter_flaws": ["never_stops"] * flag}
            for answer, flag in zip(answers, endless, strict=True)
        ]
        asks = [AskedRow(question, Record(row, "rows"), 8, "recall", lambda _: 0.0)
                for question, row in zip(asked, rows, strict=True)]  # fmt: skip
        found = HeldAgainst()
        return found, endings_again(model, renderer, asks, "adapter", said, recipe, 1e-6, found, no_progress)

    with pytest.MonkeyPatch.context() as patch:  # as the references above have it
        patch.setattr("afina.verify.endings_again.reference_tokens", lambda *_: 1)
        found, same = again(told, room)
        assert found.outcome == "equal" and same.wrong == same.rounded == []
        _, forged = again([False] * len(told), room)
        assert [*forged.wrong, *forged.picked()] and len(forged.wrong) + len(forged.rounded) == sum(told)
        _, forged = again(told, replace(room, ended=room.ended + len(told)))
        assert "answers that were cut ended with more room" in forged.wrong[0]
        found, _ = again(told, replace(room, ceiling=9))
        assert "`guardrails.room.ceiling` is 9" in found.wrong[0] and not found.computed


def test_a_card_may_be_rewritten_and_may_not_tell_other_figures(copied: tuple[Path, Path]) -> None:
    card, scores = copied[0] / "README.md", read_scores(copied[0] / "proof")
    assert scores
    text = card.read_text(encoding="utf-8")
    told = "README.md tells the verdict and the scores that are checked here"
    assert told in checked(copied, questions=1).holds
    card.write_text(text.replace("## Scores\n", "## Scores\n\nAs one would hope.\n"), encoding="utf-8")
    assert told in checked(copied, questions=1).holds, "a remark without a figure is its writer's"
    (row,) = [line for line in text.splitlines() if line.startswith("| aprendidas")]
    better = row.rpartition("| ")[0] + "| 97 % (90 % to 99 %) |"
    for edited, reason in (
        (text.replace(row, better), f"README.md: it tells {better!r}"),
        (text.replace(row + "\n", ""), f"README.md: it leaves out {row!r:.100}"),
        (text.replace("## Scores\n", "## Scores\n\n97 % are right.\n"), "README.md: it tells '97 % are right.'"),
        (text.replace(f"**{scores.verdict.text}**" if scores.verdict else "", "**learned: yes**"), "the verdict, '**"),
        (text.replace("- missed: ", "- nearly: "), "README.md: it leaves out 'missed: "),
    ):
        card.write_text(edited, encoding="utf-8")
        found = checked(copied, questions=1)
        assert not found.passed and any(reason in each for each in found.problems), (reason, found.problems)
    card.write_text(text.replace(row, better), encoding="utf-8")
    values_of(lambda it: it.update(afina="0.0.1"), "proof/proof.json")(copied[0])
    assert any("README.md: it tells the figures 90, 97, 99" in each for each in checked(copied, questions=1).problems)
    card.write_text("# Clube\n\nUm modelo que acerta em 97 % das perguntas.\n", encoding="utf-8")
    found = checked(copied, questions=1)
    assert found.passed and any("was written by somebody else" in each for each in found.unknown)


def test_a_card_tells_what_a_reader_sees_and_each_figure_in_its_column(copied: tuple[Path, Path]) -> None:
    """True figures in a remark that no page shows let others stand below; of another afina's card the columns could
    change places."""
    card, scores = copied[0] / "README.md", read_scores(copied[0] / "proof")
    assert scores
    text = card.read_text(encoding="utf-8")
    for written_by in (__version__, "0.0.1"):
        assert read_card(copied[0], scores, written_by).holds
    front, _, told = text.partition("## Scores\n")
    card.write_text(f"{front}<!--\n## Scores\n{told}\n-->\n## Scores of it\n\n97 % are right.\n", encoding="utf-8")
    found = read_card(copied[0], scores, __version__)
    assert not found.holds and (found.wrong or "was written by somebody else" in found.unknown)
    (row,) = [line for line in text.splitlines() if line.startswith("| aprendidas")]
    first, name, n, base, trained, last = row.split("|")
    assert n != trained
    card.write_text(text.replace(row, "|".join([first, name, trained, base, n, last])), encoding="utf-8")
    assert any("in this order, and scores.json" in each for each in read_card(copied[0], scores, "0.0.1").wrong)
    lines = text.splitlines()
    at = lines.index(row)
    if lines[at + 1].startswith("|"):  # rows in another order are no other figures
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        card.write_text("\n".join(lines), encoding="utf-8")
        assert read_card(copied[0], scores, "0.0.1").holds


def committed_dataset(folder: Path, test: str | None, *, promised: bool = True) -> tuple[Path, Commitment]:
    """A dataset folder as a run leaves it, and what was committed to of it."""
    folder.mkdir()
    for name, text in {"train": "a\n", "validation": "b\n", **({"test": test} if test else {})}.items():
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "dataset.json").write_text('{"test": {}}' if test else "{}", encoding="utf-8")
    there = {name: hash_file(file) if (file := folder / f"{name}.jsonl").is_file() else None
             for name in ("train", "validation", *(("test",) if promised else ()))}  # fmt: skip
    return folder, Commitment(Record({"dataset": there}, COMMITMENT), "0")


def words_of(folder: Path, commitment: Commitment) -> tuple[bool, bool]:
    """Whether the folder is the dataset committed to, and whether its words are counted by."""
    data = _check_dataset(commitment, folder, Verification("export"))
    beside: Any = SimpleNamespace(data=data, promised=commitment.values)
    return data is not None, BesideAgain.whole_data.fget(beside) is not None  # type: ignore[attr-defined]


def test_a_card_in_the_words_of_another_state_of_the_code_tells_the_same(
    copied: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkouts of one version: a line that one of them words otherwise was a forgery to the other."""
    card = copied[0] / "README.md"
    text = card.read_text(encoding="utf-8")
    other = text.replace("Greedy answers that match the reference word for word", "What is the reference, greedily")
    assert other != text
    card.write_text(other, encoding="utf-8")
    assert any("README.md: it leaves out" in each for each in checked(copied, questions=1).problems)
    monkeypatch.setattr("afina.verify.verify.code_hash", lambda: "another state")
    assert checked(copied, questions=1).problems == []
    card.write_text(other.replace("95 % intervals", "99 % intervals"), encoding="utf-8")
    (problem,) = checked(copied, questions=1).problems
    assert "it tells the figures 99, and scores.json" in problem


def test_words_are_known_by_what_was_committed_to_alone(tmp_path: Path) -> None:
    """A test split that nobody had committed to, or a dataset within the dataset, made invented words known: broken
    words and terms that were made up passed."""
    folder, commitment = committed_dataset(tmp_path / "plain", None)
    assert words_of(folder, commitment) == (True, True)
    (folder / "test.jsonl").write_text("xlopt", encoding="utf-8")
    assert words_of(folder, commitment) == (False, False)
    folder, commitment = committed_dataset(tmp_path / "tested", "c")
    assert words_of(folder, commitment) == (True, True)
    (folder / "test.jsonl").write_text("xlopt", encoding="utf-8")
    assert words_of(folder, commitment) == (False, False)
    (folder / "test.jsonl").unlink()
    assert words_of(folder, commitment) == (True, False)
    folder, commitment = committed_dataset(tmp_path / "within", None)
    shutil.copytree(folder, folder / "dataset")
    assert words_of(folder, commitment) == (False, False)
    for test, known in ((None, True), ("c", False)):  # an earlier afina's commitment
        folder, commitment = committed_dataset(tmp_path / f"earlier-{test}", test, promised=False)
        assert words_of(folder, commitment) == (True, known)


def test_the_test_split_is_committed_to(tmp_path: Path) -> None:
    recipe, run = write_project(tmp_path), tmp_path / "runs/clube"
    (tmp_path / "parts").mkdir()
    for name, rows in (("train", LEARNED), ("test", OLD)):
        asked = [{"prompt": question, "completion": answer} for question, answer in rows]
        write_rows(tmp_path / f"parts/{name}.jsonl", asked)
    walk(recipe, "sources=[{path: parts/*.jsonl}]", "train.epochs=1", until="train")
    assert read_json(run / COMMITMENT)["dataset"]["test"] == hash_file(run / "dataset/test.jsonl")


def each_has_its_row(proof: Path) -> None:
    """Every key of every file of a proof stands in one row of the table."""
    told = {(file.name, path) for file in proof.glob("*.json") for path in paths_of(read_json(file))}
    for file in proof.glob("*.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines()
        told |= {(file.name, path) for line in lines for path in paths_of(json.loads(line))}
    assert told and not [each for each in sorted(told) if len(rows_for(*each)) != 1]


def test_no_figure_of_scores_or_proof_is_without_a_way_to_check_it(finished: tuple[Path, list[str]]) -> None:
    """Each belongs to one row of the table of docs/verify.md, which is the one that the answer stands on."""
    from report_fixture import SCORES as EVERY

    each_has_its_row(finished[0] / "export/proof")
    assert not [path for path in paths_of(json.loads(json.dumps(EVERY))) if len(rows_for("scores.json", path)) != 1]
    parts = {each.split(".")[0] for row in CHECKED if row.file == "scores.json" for each in row.keys}
    assert parts == {*Scores(folds=("case",)).as_json()}, "a part of the scores without a row"
    assert unknown_keys(Scores(folds=("case",)).as_json()) == []
    page = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    assert page == put_between(page, "checked", table()), "run `make docs`"


def test_what_nothing_checks_is_said_and_so_is_what_nobody_knows(copied: tuple[Path, Path]) -> None:
    values_of(lambda it: it.update(judge={"n": 5, "better": 5}, stars=5), SCORES)(copied[0])
    sign(copied[0])
    found = checked(copied, questions=1)
    assert found.passed and found.figures["judge"] == "not computed again"
    assert any("an endpoint's words" in each for each in found.unknown)
    assert any("which nothing here tells:" in each and each.endswith("judge") for each in found.unknown)
    assert any("which this afina does not know: stars" in each for each in found.unknown)


def test_what_is_no_export_is_refused(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"this is a run(?s:.*)--to hub-folder"):
        verify(finished[0] / "runs/clube", VerifyOptions(), say=lambda _: None)
    with pytest.raises(RecipeError, match=r"there is no proof/proof\.json here"):
        verify(tmp_path, VerifyOptions(), say=lambda _: None)


def test_a_run_of_an_earlier_version_is_exported_without_a_proof(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run = shutil.copytree(finished[0] / "runs/clube", tmp_path / "clube")
    (run / COMMITMENT).unlink()
    out = tmp_path / "out"
    done = call_afina("export", run, f"base={finished[0] / 'base'}", "--to", "adapter", "--out", out, "--no-check")
    assert "without proof/" in done.stderr and not (out / "proof").exists()


def test_questions_changed_before_the_first_state_are_committed_to_anew_and_later_ones_not(tmp_path: Path) -> None:
    """Nothing may write a commitment over: an older one lies in ``replaced/``, and after a step none is made."""
    recipe = write_project(tmp_path)
    run = tmp_path / "runs/clube"
    walk(recipe, until="skills")
    said = walk(recipe, "train.epochs=1", until="train")
    first = hash_file(run / COMMITMENT)
    write_rows(tmp_path / "old.jsonl", [{"prompt": "Onde?", "completion": "Faro"}])
    said = walk(recipe, "train.epochs=1", until="train")
    assert hash_file(run / COMMITMENT) == first and not any("fixed by this" in each for each in said)
    said = walk(recipe, "train.epochs=2", until="train")  # another training: it moves, with all that was trained
    assert hash_file(run / COMMITMENT) != first and any("fixed by this" in each for each in said)
    (kept,) = run.glob(f"replaced/*/{COMMITMENT}")
    assert hash_file(kept) == first and (kept.parent / "adapter").is_dir() and (kept.parent / PROBES).is_file()
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "adapter")
    second = hash_file(run / COMMITMENT)
    write_rows(tmp_path / "old.jsonl", [{"prompt": "Quem?", "completion": "Ana"}])
    walk(recipe, "train.epochs=2", until="train")
    assert hash_file(run / COMMITMENT) != second
    assert second in {hash_file(each) for each in run.glob(f"replaced/*-commitment/{COMMITMENT}")}
    (run / COMMITMENT).unlink()
    shutil.rmtree(run / "adapter")
    said = walk(recipe, "train.epochs=2", until="train")
    assert any("one made now would prove nothing" in each for each in said) and not (run / COMMITMENT).exists()


def test_each_of_two_trainings_commits_and_the_second_names_the_first(tmp_path: Path) -> None:
    recipe = write_project(tmp_path)
    run, settings = tmp_path / "runs/clube", ("train.first={epochs: 1}", "evaluate.questions=0")
    walk(recipe, *settings, "train.epochs=1", until="train")
    first, second = (read_commitment(run / folder) for folder in ("first", ""))
    assert first and second and second.values.text("after") == first.sha256
    assert first.promises["probes"] == second.promises["probes"] and first.values.text("after") is None
    walk(recipe, *settings, "train.epochs=2", until="train")  # the first stays, the second is another
    kept, again = (read_commitment(run / folder) for folder in ("first", ""))
    assert kept and again and kept.sha256 == first.sha256 == again.values.text("after")
    assert again.sha256 != second.sha256
    assert {hash_file(each) for each in run.glob(f"replaced/*/{COMMITMENT}")} == {second.sha256}


def test_the_hash_of_a_recipe_does_not_depend_on_where_it_lies() -> None:
    from tiny import make_recipe

    from afina.recipe import Probe

    def made(folder: str, **parts: Any) -> Any:
        recipe = make_recipe(f"{folder}/base", **parts)
        evaluate = recipe.evaluate.model_copy(update={"probes": [Probe(path=f"{folder}/a.jsonl", role="recall")]})
        return recipe.model_copy(update={"root": folder, "evaluate": evaluate})

    assert recipe_hash(made("/home/ana")) == recipe_hash(made("/srv/x"))
    assert recipe_hash(made("/srv/x")) != recipe_hash(made("/srv/x", seed=1))
    part = checked_part(made("/srv/x"))
    assert "/srv" not in json.dumps(part)
    earlier = {key: value for key, value in part.items() if key != AGAIN}
    earliest = {key: value for key, value in earlier.items() if key != "measured"}
    for known in (part, earlier, earliest):
        assert as_promised(part, hash_value(known)) == known


def test_a_commitment_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / COMMITMENT).write_text('{"version": 9, "probes": {}, "recipe_sha256": ""}', encoding="utf-8")
    with pytest.raises(Exception, match="a commitment of version 9; this afina reads 1"):
        read_commitment(tmp_path)
