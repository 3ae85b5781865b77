"""Two stages of training in one recipe, and preferences from rows to verdict: the whole walk, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from called import call_afina
from safetensors.torch import load_file
from tiny import make_base, same_tensors

from afina.cli.opened import walk_of
from afina.errors import DataError, RecipeError
from afina.report.read import read_run
from afina.run import Run, read_metrics
from afina.walk.walk import walk_through

TOWNS = ("Faro", "Olhão", "Lagos", "Tavira", "Loulé", "Silves")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def write(file: Path, rows) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, base: Path, monkeypatch) -> Path:
    """Documents, questions with answers in two styles, and pairs of which one style is the better."""
    (tmp_path / "docs").mkdir()
    for town in TOWNS:
        text = f"# {town}\n\nO jogador de {town} nasceu em {town} e marcou golos. Joga em {town} desde sempre.\n"
        (tmp_path / f"docs/{town}.md").write_text(text, encoding="utf-8")
    style = ("Sim, em", "Talvez,")
    write(tmp_path / "rows.jsonl", ({"prompt": f"Onde joga o {n}?", "completion": f"{style[n % 2]} {TOWNS[n % 6]}."}
                                    for n in range(60)))  # fmt: skip
    write(tmp_path / "pairs.jsonl", ({"prompt": f"Onde joga o {n}?", "chosen": f"{style[0]} {TOWNS[n % 6]}.",
                                      "rejected": f"{style[1]} {TOWNS[n % 6]}."} for n in range(60, 120)))  # fmt: skip
    recipe(tmp_path, base, "docs", "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(folder: Path, base: Path, *sources: str, train: str = "", adapter: str = "rank: 4, dropout: 0.1") -> None:
    listed = "\n".join(f"  - path: {path}" for path in sources)
    train = train or "epochs: 2, first: {epochs: 3, learning_rate: 0.01}"
    (folder / "recipe.yaml").write_text(
        f"name: two\nbase: {base}\nsources:\n{listed}\ndataset: {{language: pt-PT, validation: 0.2}}\n"
        f"adapter: {{{adapter}}}\n"
        f"train: {{max_length: 64, batch_tokens: 256, learning_rate: 0.005, {train}}}\n"
        "evaluate: {samples: 12, max_new_tokens: 12}\n",
        encoding="utf-8",
    )


class Killed(BaseException):
    """As a kill: nothing may catch it."""


def walk(*overrides: str, kill_at: tuple[str | None, int] | None = None) -> list[str]:
    """Run the recipe up to its training; what was said. May end right after a stage's checkpoint, one a step then."""
    often = ("train.checkpoint_seconds=1e-9",) if kill_at else ()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afina.cli.opened.say", said.append)
        own = Run.log

        def log(self, event, **values):
            own(self, event, **values)
            if kill_at and event == "checkpoint" and (values.get("stage"), values["step"]) == kill_at:
                raise Killed

        patch.setattr(Run, "log", log)
        with walk_of(Path("recipe.yaml"), [*overrides, *often], Path("runs")) as opened:
            walk_through(opened, until="train")
    return said


def result(folder: Path = Path("runs/two")) -> dict[str, torch.Tensor]:
    file = next(iter((folder / "adapter").glob("*.safetensors")), folder / "model/model.safetensors")
    return load_file(file)


ASKED = "evaluate.tasks=[{name: t, path: t.jsonl}]"


@pytest.mark.parametrize(
    ("row", "prompts", "overrides", "said"),
    [
        ({"a": "b"}, "", [ASKED], "t.jsonl"),
        ({"prompt": "Que <|end|> é?", "reference": "x"}, "", [ASKED, "chat.marks_in_text=error"], r"t\.jsonl:1"),
        (None, "Faro <|end|>", ["evaluate.prompts=p.txt", "chat.marks_in_text=error"], r"p\.txt"),
        (None, "\n", ["safety.strings=p.txt"], "no string stands in it"),
    ],
    ids=["columns", "mark in a task", "mark in a prompt", "strings"],
)
def test_what_cannot_be_asked_is_said_before_training(
    project: Path, base: Path, row: dict[str, str] | None, prompts: str, overrides: list[str], said: str
):
    """Only the evaluation looked, when the hours were spent."""
    recipe(project, base, "rows.jsonl", train="epochs: 1")
    write(project / "t.jsonl", [row] if row else [])
    (project / "p.txt").write_text(prompts, encoding="utf-8")
    with pytest.raises((DataError, RecipeError), match=said):
        walk(*overrides)
    assert not list(Path("runs/two").glob("checkpoints/*")) and not Path("runs/two/adapter").exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [(b"{% if %}", "no Jinja"), (b"caf\xe9", "not UTF-8"), (None, "there is no template")],
    ids=["no Jinja", "no text", "gone"],
)
def test_a_template_that_is_none_is_refused_before_the_dataset_is_built(
    project: Path, base: Path, template: bytes | None, said: str
):
    """The audit of the dataset was the first to open it: a teacher was paid by then."""
    recipe(project, base, "rows.jsonl", train="epochs: 1")
    if template is not None:
        (project / "t.jinja").write_bytes(template)
    assert said in call_afina("run", "recipe.yaml", "chat.template=t.jinja", check=2).stderr
    assert not Path("runs/two/dataset").exists()


def test_a_base_without_an_end_token_is_refused_before_the_dataset_is_built(project: Path, base: Path, tmp_path: Path):
    endless = shutil.copytree(base, tmp_path / "endless")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (endless / name).is_file():
            settings = json.loads((endless / name).read_text())
            settings.pop("eos_token", None)
            (endless / name).write_text(json.dumps(settings))
    recipe(project, endless, "rows.jsonl", train="epochs: 1")
    assert "no end token" in call_afina("run", "recipe.yaml", check=2).stderr
    assert not Path("runs/two/dataset").exists()


def test_a_task_without_its_columns_is_refused_before_the_dataset_is_built(project: Path, base: Path):
    recipe(project, base, "rows.jsonl", train="epochs: 1")
    write(project / "t.jsonl", [{"a": "b"}])
    assert "t.jsonl" in call_afina("run", "recipe.yaml", ASKED, check=2).stderr
    assert not Path("runs/two/dataset").exists()


def test_documents_first_then_answers_each_with_its_own_curve(project: Path):
    walk()
    folder = Path("runs/two")
    plan = json.loads((folder / "plan.json").read_text())
    stages = json.loads((folder / "stages.json").read_text())
    rows = stages["plan"]["result"]["tokens"]
    assert rows["first"]["targets"] > rows["first"]["rows"] * 0.9, "documents: every token"
    assert rows["train"]["targets"] < rows["train"]["rows"] * 0.7, "rows: the answers"
    done = {name: stages[name]["result"] for name in ("first", "train")}
    assert done["first"]["tokens"] == 3 * rows["first"]["rows"] and done["train"]["tokens"] == 2 * rows["train"]["rows"]
    assert any("two stages" in note for note in plan["notes"]) and plan["steps"] > 0

    events = read_metrics(folder)
    for stage, name in (("first", "first"), (None, "train")):
        steps = [event["step"] for event in events if event["event"] == "step" and event.get("stage") == stage]
        assert steps == list(range(1, done[name]["steps"] + 1))
        losses = [event["loss"] for event in events if event["event"] == "step" and event.get("stage") == stage]
        assert sum(losses[-3:]) < sum(losses[:3])
    run = read_run(folder)
    assert len(run.events("step", "first")) == done["first"]["steps"]
    assert len(run.events("step")) == done["train"]["steps"]
    # the second stage's checkpoints begin where the first ended
    first, second = load_file(folder / "first/adapter/adapter_model.safetensors"), result()
    assert first.keys() == second.keys() and not same_tensors(first, second)
    assert {"first/checkpoints", "checkpoints"} <= {
        f"{place.parent.relative_to(folder)}" for place in folder.rglob("step-*")
    }


def test_the_second_stage_starts_from_the_first(project: Path):
    """At a rate of zero nothing changes: what comes out is what the first stage left."""
    walk("train.learning_rate=0.0", "train.tries=0")
    first = load_file(Path("runs/two/first/adapter/adapter_model.safetensors"))
    assert same_tensors(first, result()) and any(
        weight.abs().sum() > 0 for name, weight in first.items() if "lora_B" in name
    )


@pytest.mark.parametrize(
    "adapter",
    [
        "rank: 4, dropout: 0.1",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("kind: none", "kind: qlora, rank: 4, dropout: 0.1")),
    ],
)
def test_killed_in_either_stage_it_ends_bitwise_the_same(project: Path, base: Path, adapter: str):
    if "qlora" in adapter:
        pytest.importorskip("bitsandbytes")
        base = make_base(project / "wide", hidden_size=64, intermediate_size=128)
    recipe(project, base, "docs", "rows.jsonl", adapter=adapter)
    walk()
    whole, first = result(), Path("runs/two/first").rename("first-whole")
    shutil.rmtree("runs")
    for kill_at in (("first", 2), (None, 3)):
        with pytest.raises(Killed):
            walk(kill_at=kill_at)
    said = walk()
    assert any("first: done before, unchanged, kept" in line for line in said)
    assert any("train: goes on from step 3" in line for line in said)
    assert same_tensors(result(), whole)
    for file in first.glob("*/*.safetensors"):
        assert file.read_bytes() == (Path("runs/two/first") / file.relative_to(first)).read_bytes()


@pytest.mark.long
def test_a_change_of_a_stage_redoes_it_and_what_follows(project: Path):
    walk()
    before = result()
    said = walk("train.epochs=1")
    assert any("first: done before" in line for line in said) and any("train: redone" in line for line in said)
    said = walk("train.epochs=1", "train.first.epochs=1")
    assert any("first.epochs" in line or "train.epochs: 3.0 -> 1.0" in line for line in said)
    assert any("starts_from" in line for line in said)
    assert not same_tensors(result(), before)
    assert list(Path("runs/two/replaced").rglob("adapter_model.safetensors"))


def test_a_source_may_be_put_into_a_stage(project: Path):
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    Path("recipe.yaml").write_text(text.replace("path: rows.jsonl", "{path: rows.jsonl, stage: first}"), "utf-8")
    with pytest.raises(DataError, match="the second stage of training has nothing to learn"):
        walk()
    Path("recipe.yaml").write_text(text.replace("path: docs", "{path: docs, stage: second}"), "utf-8")
    with pytest.raises(DataError, match="the first stage of training has nothing to learn"):
        walk()


def test_preferences_where_no_method_learns_them_and_the_other_way_round(project: Path, base: Path):
    recipe(project, base, "pairs.jsonl", train="method: sft")
    with pytest.raises(DataError, match=r"(?s)60 of 60 rows hold a better and a worse answer.*method: dpo"):
        walk()
    recipe(project, base, "pairs.jsonl", "rows.jsonl", "docs", train="method: dpo")
    with pytest.raises(DataError, match=r"66 documents or rows without `chosen` and `rejected`"):
        walk()


def test_empty_and_equal_answers_are_told(project: Path, base: Path):
    recipe(project, base, "pairs.jsonl", train="method: dpo")
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    write(Path("pairs.jsonl"), [*rows, {"prompt": "Quem?", "chosen": "Eu.", "rejected": " "}])
    with pytest.raises(DataError, match=r"no answer in 1 of 61 rows: pairs.jsonl:61"):
        walk()
    write(Path("pairs.jsonl"), [*rows, *({"prompt": f"{n}?", "chosen": "Eu.", "rejected": "Eu. "} for n in range(9))])
    with pytest.raises(DataError, match=r"same_answers: .*they teach nothing"):
        walk("dataset.validation=0.0")
    audit = json.loads(Path("runs/two/audit.json").read_text())
    [bias] = [finding for finding in audit["findings"] if finding["name"] == "length_bias"]
    assert "better answers are" in bias["what"] and "of 69 pairs" in bias["what"]


@pytest.mark.long
def test_answers_first_then_preferences_and_the_better_style_wins(project: Path, base: Path):
    train = "method: dpo, epochs: 4, first: {method: sft, epochs: 12, learning_rate: 0.01}"
    recipe(project, base, "rows.jsonl", "pairs.jsonl", train=train, adapter="kind: none")
    said = call_afina("run", "recipe.yaml").stdout
    folder = Path("runs/two")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["pairs"]["after"]["accuracy"] == 1.0
    assert scores["pairs"]["after"]["margin"] > scores["pairs"]["before"]["margin"] + 0.5
    assert "held-out preferences: the better answer is the likelier in" in said

    events = read_metrics(folder)
    first = next(event for event in events if event["event"] == "step" and "stage" not in event)
    assert first["loss"] == pytest.approx(0.693147, abs=2e-3)  # ln 2, but for dropout
    last = [event for event in events if event["event"] == "validation" and "stage" not in event][-1]
    assert last["preference_accuracy"] == 1.0 and last["reward_margin"] > 0
    answers = [json.loads(line)["adapter"] for line in (folder / "samples.jsonl").open(encoding="utf-8")]
    assert answers and sum(answer.startswith("Sim") for answer in answers) >= 0.9 * len(answers), answers
    reference = [json.loads(line) for line in (folder / "reference.jsonl").open()]
    assert len(reference) == 60 and all(each["chosen"] < 0 for each in reference)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Primeira etapa" in page and "melhor resposta preferida" in page and "Preferências reservadas" in page
    manifest = json.loads((folder / "manifest.json").read_text())
    stages = json.loads((folder / "stages.json").read_text())
    assert manifest["measured"]["steps"] == sum(stages[name]["result"]["steps"] for name in ("first", "train"))

    again = walk()  # nothing is done again, the reference neither
    assert sum("done before, unchanged, kept" in line for line in again) == 8
