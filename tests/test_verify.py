"""`afina verify`: what a run committed to before it trained, and whether an export is what was judged by it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from safetensors.torch import load_file, save_file
from tiny import NAMES, ROWS, TOWNS, make_base

from afina.cli.opened import walk_of
from afina.errors import RecipeError
from afina.evaluate.probes import ProbeSet, Question, question_id
from afina.model.generate.generate_torch import Answer
from afina.run import hash_file, hash_value, read_json, read_metrics
from afina.verify.commitment import COMMITMENT, PROBES, checked_part, read_commitment, recipe_hash
from afina.verify.proof import open_proof
from afina.verify.questions import read_committed
from afina.verify.verify import Verification, VerifyOptions, verify
from afina.walk.walk import walk_through

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
    known["files"] = {name: hash_file(export / "proof" / name) for name in known["files"]}
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
    (line,) = [each for each in said if "committed to" in each]
    assert sha256 in line and f"{asked_of(folder)} questions" in line
    values = read_json(run / COMMITMENT)
    assert values["probes"]["sha256"] == hash_file(run / PROBES)
    assert values["dataset"]["train"] == hash_file(run / "dataset/train.jsonl")
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
    assert "the commitment is the published one" in found.holds
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
    found = checked(copied, questions=1)
    assert found.passed and any("--commitment HASH" in each for each in found.unknown), "nothing else can tell"
    found = checked(copied, questions=1, commitment=published)
    assert "the commitment is not the published one" in found.problems[0]
    with pytest.raises(RecipeError, match="is no SHA-256"):
        checked(copied, commitment="5f2b")


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


def test_a_merged_export_is_verified_alone_and_a_gguf_is_not_asked(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, _ = finished
    call_afina("export", folder / "runs/clube", "--to", "merged", "--out", tmp_path / "merged", "--no-check")
    found = verify(tmp_path / "merged", VerifyOptions(), say=lambda _: None)
    assert found.passed and any("--base names it" in each for each in found.unknown), found.describe()
    known = read_json(tmp_path / "merged/proof/proof.json")
    (tmp_path / "merged/proof/proof.json").write_text(json.dumps(known | {"holds": "gguf"}), encoding="utf-8")
    found = verify(tmp_path / "merged", VerifyOptions(), say=lambda _: None)
    assert not found.passed and found.answers == "not asked" and not found.problems


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
    assert hash_file(run / COMMITMENT) == first and not any("committed to" in each for each in said)
    said = walk(recipe, "train.epochs=2", until="train")  # another training: it moves, with all that was trained
    assert hash_file(run / COMMITMENT) != first and any("committed to" in each for each in said)
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
    assert "/srv" not in json.dumps(checked_part(made("/srv/x")))


def test_a_commitment_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / COMMITMENT).write_text('{"version": 9, "probes": {}, "recipe_sha256": ""}', encoding="utf-8")
    with pytest.raises(Exception, match="a commitment of version 9; this afina reads 1"):
        read_commitment(tmp_path)
