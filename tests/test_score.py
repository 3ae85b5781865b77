"""Stored outputs: what is found before they are scored, and the scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import DataError, RecipeError
from afina.score.columns import NamedColumns, choose_columns
from afina.score.leaks import find_leak
from afina.score.output_checks import in_loop
from afina.score.score import score_file
from afina.score.table import describe_score

SHARED = Path(__file__).parent.parent.parent / "shared/data/ptbr/canarim"
QUESTION = "Em que ano foi fundado o clube de futebol Sporting Clube Farense?"


def write(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


# ---- leaks: what is one


@pytest.mark.parametrize(
    "output",
    [
        "Sporting Clube Farense?assistant\n\nEm 1910.",  # Llama 3 without its special tokens, cut
        "system\n\nToday Date: 26 Jul 2024\n\nuser\n\n" + QUESTION + "assistant\n\nEm 1910.",
        "assistant\n\nEm 1910.",
        "user\n" + QUESTION + "\nassistant\nEm 1910.",  # ChatML without its special tokens
        "<|im_start|>user\n" + QUESTION + "<|im_end|>\n<|im_start|>assistant\nEm 1910.<|im_end|>",
        QUESTION + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nEm 1910.<|eot_id|>",
        "<start_of_turn>user\n" + QUESTION + "<end_of_turn>\n<start_of_turn>model\nEm 1910.",
        "[INST] " + QUESTION + " [/INST] Em 1910.</s>",
        "### Instruction:\n" + QUESTION + "\n\n### Response:\nEm 1910.",
        QUESTION + " Em 1910.",  # all of the prompt
        "clube de futebol Sporting Clube Farense?Em 1910.",  # its tail, glued to the answer
        "bol Sporting Clube Farense? Em 1910.",  # its tail, from the middle of a word
        "\N{REPLACEMENT CHARACTER}nse?assistant\n\nEm 1910.",  # cut inside a character
    ],
)
def test_leaks_are_found_and_the_answer_is_left(output: str) -> None:
    leak = find_leak(output, [QUESTION])
    assert leak is not None
    assert leak.answer == "Em 1910."


@pytest.mark.parametrize(
    "output", ["Em 1910.<|im_end|>", "Em 1910.</s>", "Em 1910.user\n\nE o Olhanense?assistant\n\n"]
)
def test_what_follows_the_answer_is_found(output: str) -> None:
    leak = find_leak(output, [QUESTION])
    assert leak is not None
    assert (leak.answer, leak.before) == ("Em 1910.", "")


def test_an_output_that_is_all_prompt_has_no_answer() -> None:
    leak = find_leak("system\n\nBe brief.\n\nuser\n\n" + QUESTION, [QUESTION])
    assert leak is not None
    assert leak.answer == ""


def test_leaks_without_a_column_of_prompts() -> None:
    leak = find_leak("Sporting Clube Farense?assistant\n\nEm 1910.")
    assert leak is not None
    assert leak.answer == "Em 1910."


TEXT = "O clube nasceu em Faro em 1910. Os fundadores eram estudantes do liceu. Joga no Estádio de São Luís"


@pytest.mark.parametrize(
    ("prompt", "output"),
    [
        (QUESTION, "O Sporting Clube Farense foi fundado em 1910."),
        (QUESTION, "Sporting Clube Farense"),
        (QUESTION, "O clube de futebol Sporting Clube Farense foi fundado em 1910."),
        (f"Resuma: {TEXT}", "Joga no Estádio de São Luís"),  # the last sentence, word for word
        (f"Resuma: {TEXT}", "Os fundadores eram estudantes do liceu. Joga no Estádio de São Luís"),
        (f"Onde joga? {TEXT}", "no Estádio de São Luís"),
        (f"Reescreva: {TEXT}", TEXT + "."),
        (f"Reescreva a frase: {TEXT}", TEXT),
        ("Ponha no plural: o menino foi à escola", "os meninos foram às escolas"),
        ("Corrija: as duas casas grande e velha", "as duas casas grandes e velhas"),
        ("Who helps a manager?", "An assistant"),
        ("Who helps a manager?", "assistant"),
        ("List four roles, one a line.", "manager\nassistant\nclerk\nuser\n"),
        ("List four roles, one a line.", "user\nsystem\nassistant\ntool"),
        ("Name the parts.", "The operating system\n\nThe user\n\nThe model\n\nThey work together."),
        ("How does ChatML open a turn?", "With `<|im_start|>`, the role and a line end:\n```\n<|im_start|>user\n```"),
        ("What does MVC stand for?", "View\nController\nmodel\n"),
        ("Is 2 < 3 | 4 > 3?", "Yes, 2 <| 3 is no operator but 2 < 3 is true."),
        ("", "Plain text."),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_an_output_that_repeats_its_prompt_is_no_leak(prompt: str, output: str, known: bool) -> None:
    assert find_leak(output, [prompt] if known else []) is None


@given(st.text("abcde éç.?\n", max_size=80), st.text("abcde éç.?\n", min_size=1, max_size=80))
def test_outputs_of_plain_words_without_a_header_lose_at_most_the_prompt(prompt: str, output: str) -> None:
    leak = find_leak(output, [prompt])
    if leak:
        assert "".join(prompt.split()).endswith("".join(leak.before.split()))
        assert "".join((leak.before + leak.answer).split()) == "".join(output.split())


@given(
    st.integers(0, 60),
    st.sampled_from(["assistant\n\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"]),
)
def test_any_tail_of_a_prompt_before_a_header_is_found(start: int, header: str) -> None:
    leak = find_leak(QUESTION[start:] + header + "Em 1910.", ["Responda à pergunta.", QUESTION])
    assert leak is not None
    assert leak.answer == "Em 1910."


# ---- other findings


def names(report) -> dict[str, int]:
    return {f"{each.name} {each.prediction}".strip(): each.counts.total() for each in report.findings}


def test_each_finding_is_counted(tmp_path: Path) -> None:
    long = "palavra " * 40
    rows = [
        {"prompt": "1?", "reference": "Faro", "output": ""},
        {"prompt": "2?", "reference": "", "output": "Lagos fica no Algarve."},
        {"prompt": "3?", "reference": "A", "output": "é o que é o que é o que é o que é o que é"},
        {"prompt": "4?", "reference": "Olh\ufffdo", "output": "Olhão"},
        {"prompt": " 1? ", "reference": "Faro", "output": "Faro"},
        {"prompt": "6?", "reference": "srsrsrsrsrsrsrsrsrsr", "output": None},
        *({"prompt": f"{n}?", "reference": "x", "output": "Não sei responder a essa pergunta."} for n in (7, 8, 9)),
        {"prompt": "10?", "reference": "x", "output": long.replace("palavra", "uma outra palavra nova e") + "de"},
    ]
    trained = write(tmp_path, [{"prompt": "1?", "completion": "Faro"}, {"prompt": "4? ", "completion": "y"}], "t.jsonl")
    report = score_file(write(tmp_path, rows), language="pt", trained_on=[trained])
    assert names(report) == {
        "empty_output output": 2,
        "empty_reference": 1,
        "void_reference": 1,
        "noisy_reference": 2,
        "loop_in_output output": 1,
        "repeated_row": 1,
        "trained_on": 3,
        "same_output output": 3,
        "maybe_cut_output output": 1,
    }
    text = describe_score(report)
    assert text.index("outputs are empty") < text.index("exact_match"), "findings stand above the scores"
    assert list(report.as_json()).index("findings") < list(report.as_json()).index("groups")


def test_outputs_that_say_how_they_ended(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"{n}?",
            "answer": "x",
            "a_output": "x",
            "b_output": "x",
            "a_stopped": n > 1,
            "b_finish_reason": end,
        }
        for n, end in enumerate(("length", "stop", "stop", "length"))
    ]
    assert names(score_file(write(tmp_path, rows), language="en")) == {
        "cut_output a_output": 2,
        "cut_output b_output": 2,
    }


def test_loops() -> None:
    assert not in_loop("Muito, muito, muito bom!")
    assert not in_loop("0000000000000000")
    assert in_loop("sim " * 8)


def test_clean_outputs_have_no_findings(tmp_path: Path) -> None:
    rows = [{"question": f"Onde fica {n}?", "answer": f"Em {n}.", "output": f"Em {n}."} for n in range(20)]
    report = score_file(write(tmp_path, rows), language="pt")
    assert report.findings == []
    assert "findings: none" in describe_score(report)
    scores = {score.name: score.values["output"].value for score in report.groups[""]}
    assert scores["exact_match"] == scores["f1"] == scores["rougeL"] == 1.0
    assert scores["chrf"] == pytest.approx(100.0)


# ---- columns and files


@pytest.mark.parametrize(
    ("found", "predictions", "reference", "prompt"),
    [
        (["question", "answer", "prediction"], ("prediction",), "answer", ("question",)),
        (["prompt", "completion", "generated_text"], ("generated_text",), "completion", ("prompt",)),
        (["instruction", "input", "output", "response"], ("response",), "output", ("instruction", "input")),
        (["prompt", "reference", "base", "adapter"], ("base", "adapter"), "reference", ("prompt",)),
        (["pergunta", "resposta", "llama_answer"], ("llama_answer",), "resposta", ("pergunta",)),
        (["messages", "target", "output"], ("output",), "target", ("messages",)),
        (["expected_output", "expected", "output"], ("output",), "expected", ()),
    ],
)
def test_usual_columns_are_recognised(found, predictions, reference, prompt) -> None:
    columns = choose_columns(found)
    assert (columns.predictions, columns.reference, columns.prompt) == (predictions, reference, prompt)


def test_every_missing_column_is_told_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        choose_columns(["a", "bass_output"], NamedColumns(["base_output"], "refrence", ["prompt"], "task"), "rows")
    told = str(error.value)
    assert len(error.value.problems) == 4
    assert "did you mean `bass_output`?" in told
    with pytest.raises(RecipeError) as error:
        choose_columns(["a", "b"])
    assert len(error.value.problems) == 2


def test_broken_rows_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"reference": "x", "output": "x"})
    file.write_text(good + '\n{"reference": "x"}\n{broken\n{"reference": ["x", {}], "output": 3}\n' + good + "\n")
    with pytest.raises(DataError) as error:
        score_file(file, language="en")
    places = {problem.where.rpartition(":")[2] for problem in error.value.problems}
    assert places >= {"3"}
    with pytest.raises(DataError) as error:
        score_file(
            write(tmp_path, [json.loads(good), {"reference": "x"}, {"reference": {}, "output": 3}]), language="en"
        )
    assert {problem.where.rpartition(":")[2] for problem in error.value.problems} == {"2", "3"}


def test_numbers_lists_and_squads_answers_are_references(tmp_path: Path) -> None:
    rows = [
        {"answers": {"text": ["Faro", "em Faro"], "answer_start": [0, 1]}, "prediction": "Em Faro"},
        {"answers": ["5", "cinco"], "prediction": 5},
        {"answers": 5, "prediction": "5"},
    ]
    report = score_file(write(tmp_path, rows), language="pt", metrics=["exact_match"])
    assert report.groups[""][0].values["prediction"].value == 1.0


def test_csv_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question;answer;output\n1?;B;(B) Lagos\n2?;A;A resposta é C.\n", encoding="utf-8")
    report = score_file(file, language="pt", choices=["A", "B", "C"], metrics=["accuracy"])
    assert report.groups[""][0].values["output"].value == 0.5
    with pytest.raises(RecipeError, match="accuracy needs the choices"):
        score_file(file, metrics=["accuracy"])
    with pytest.raises(RecipeError, match="did you mean `rougeL`"):
        score_file(file, metrics=["rouge_l"])


def test_training_data_needs_a_prompt_to_compare(tmp_path: Path) -> None:
    file = write(tmp_path, [{"reference": "x", "output": "x"}])
    with pytest.raises(RecipeError, match="--prompt"):
        score_file(file, trained_on=[file])


# ---- the monograph's predictions


needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
PREDICTIONS = SHARED / "predictions_seed123.jsonl"
LEAKED = {"qa": 148, "summarization": 149, "rewriting": 145}


def scored(*words: object) -> dict:
    return json.loads(call_afina("score", *words, "--json").stdout)


def value(found: dict, group: str, metric: str, model: str) -> float:
    scores = {each["name"]: each for each in found["groups"][group]["metrics"]}
    return scores[metric]["values"][f"{model}_output"]["value"]


@needs_shared
@pytest.mark.long
def test_the_monographs_predictions_as_they_are() -> None:
    found = scored(PREDICTIONS, "--by", "task", "--trained-on", SHARED / "train.jsonl")
    leaks = {each["prediction"]: each["groups"] for each in found["findings"] if each["name"] == "prompt_in_output"}
    assert leaks == {"base_output": LEAKED, "sft_output": LEAKED}
    overlap = [each["groups"] for each in found["findings"] if each["name"] == "trained_on"]
    assert overlap == [{"qa": 1, "summarization": 2, "rewriting": 1}]
    assert found["language"] == {"name": "pt", "recognised": True}
    stored: dict[tuple[str, str], list[float]] = {}
    for line in PREDICTIONS.open(encoding="utf-8"):
        row = json.loads(line)
        for model, metrics in row["metrics"].items():
            stored.setdefault((row["task"], model), []).append(metrics.get("rouge_l_f1", 0.0))
    for task in ("summarization", "rewriting"):
        for model in ("base", "sft"):
            published = sum(stored[task, model]) / len(stored[task, model])
            assert value(found, task, "rougeL", model) == pytest.approx(published, abs=0.01)


@needs_shared
@pytest.mark.long
@pytest.mark.parametrize("known", [True, False])
def test_the_monographs_predictions_without_their_leaks(tmp_path, known) -> None:
    file = PREDICTIONS
    if not known:  # the same without the columns of prompts
        rows = [json.loads(line) for line in PREDICTIONS.open(encoding="utf-8")]
        keys = ("task", "reference", "base_output", "sft_output")
        file = write(tmp_path, [{key: row[key] for key in keys} for row in rows])
    found = scored(file, "--by", "task", "--strip-leaks", "--language", "pt")
    expected = {
        ("qa", "exact_match"): (0.060, 0.210),
        ("qa", "f1"): (0.139, 0.335),
        ("summarization", "rougeL"): (0.179, 0.287),
        ("rewriting", "rougeL"): (0.222, 0.530),
    }
    for (task, metric), values in expected.items():
        for model, wanted in zip(("base", "sft"), values, strict=True):
            assert value(found, task, metric, model) == pytest.approx(wanted, abs=0.005), (task, metric, model)


@needs_shared
@pytest.mark.long
def test_the_page_about_scores_shows_these_figures() -> None:
    page = (Path(__file__).parent.parent / "docs/scores.md").read_text(encoding="utf-8")
    shown = {"QA": "qa", "summarization": "summarization", "rewriting": "rewriting"}
    metrics = {"exact match": "exact_match", "token F1": "f1", "ROUGE-L": "rougeL"}
    found = [scored(PREDICTIONS, "--by", "task", *more) for more in ([], ["--strip-leaks"])]
    rows = re.findall(r"^\| (\w+), ([\w -]+?) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for task, metric, cells in rows:
        for values, cell in zip(found, cells.split(" | ")[-2:], strict=True):
            scores = {each["name"]: each for each in values["groups"][shown[task]]["metrics"]}[metrics[metric]]
            sides = [f"{scores['values'][f'{model}_output']['value']:.3f}" for model in ("base", "sft")]
            gain = scores["differences"]["sft_output"]
            interval = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            assert cell in (" → ".join(sides), interval), (task, metric)
    counted = {(each["name"], each["prediction"]): each["groups"] for each in found[0]["findings"]}
    for name, title in (("maybe_cut_output", "probably cut"), ("loop_in_output", "end in a loop")):
        (line,) = re.findall(rf"^\|[^|]*{title}[^|]*\| (.*) \|$", page, re.MULTILINE)
        expected = [
            " / ".join(str(counted[name, f"{model}_output"].get(task, 0)) for model in ("base", "sft"))
            for task in shown.values()
        ]
        assert line.split(" | ") == expected
