"""How answers are written: each flaw beside the nearest answer that has not, and a model that never learned to stop."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ROWS, make_base, make_recipe, make_rows

from afina.dataset.audit.audit import audit_files
from afina.evaluate.evaluate import HeldOut, evaluate
from afina.evaluate.guardrails import NAMES, GuardedAnswer, flaws, weigh
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.room import find_endless
from afina.model.generate.generate_torch import Answer
from afina.model.load_torch import load_base
from afina.recipe import Adapter, Chat, Guardrails, Limits
from afina.text.answer_flaws import loops, words_of
from afina.train.backend_torch import TorchBackend
from afina.train.loop import TrainingJob, train
from afina.train.measure import token_view
from afina.units import show_share

PT = "O clube foi fundado em Faro e não tem mais sócios do que os outros clubes da terra."
EN = "The club was founded in Faro and it has not more members than the others of the town."
LOOP = "O jogador marcou um golo. " * 6
CIRCLES = "Marcou ele e ela e eles todos " + " ".join(
    "e ele marcou golos" if n % 2 else "e ela marcou golos" for n in range(20)
)


def found(text: str, *, prompt: str = "Onde?", reference: str = "Faro", **values: bool) -> list[str]:
    return flaws(
        GuardedAnswer(text, prompt, reference, **values), {"<|end|>"}, words_of([prompt, reference, "Tavira de ela"])
    )


@pytest.mark.parametrize(
    ("flaw", "text", "nearest"),
    [
        ("loops", LOOP, "O jogador marcou um golo. " * 2),
        ("loops", "Faro" + "!" * 40, "Faro!!!"),
        ("loops", CIRCLES, PT),
        ("open_think", "<think>Ora, Faro... ou Lagos?", "<think>Ora, Faro.</think> Faro"),
        ("broken_words", "Fica em Ta vira", "Fica em Tavira"),
        ("broken_words", "Olh\ufffdo", "Olhão"),
        ("broken_words", "fundaÃ§Ã£o", "fundação"),
        ("chat_markers", "Faro<|end|>", "Faro"),
        ("chat_markers", "Faro\nUser: e Lagos?", "Faro, diz o User: e Lagos?"),
        ("chat_markers", "Faro [/INST]", "Faro [1]"),
        ("empty", " \n", "."),
        ("empty", "<think>Faro</think>", "<think>?</think>Faro"),
    ],
)
def test_a_flaw_and_its_nearest_neighbour(flaw: str, text: str, nearest: str):
    assert flaw in found(text)
    assert flaw not in found(nearest)


def test_the_beginning_of_the_question_is_an_echo():
    question = "Em que ano foi fundado o Sporting Clube Farense, de Faro?"
    assert found(f"{question} 1910", prompt=question) == ["prompt_echo"]
    assert found("o Sporting Clube Farense, de Faro, foi fundado em 1910", prompt=question) == []
    assert found(f"{question} 1910", prompt=question, reference=f"{question} 1910") == []


def test_the_language_is_the_reference_s_or_else_the_question_s():
    assert found(EN, prompt=PT) == ["wrong_language"] and found(EN, reference=PT) == ["wrong_language"]
    assert found(EN, prompt=PT, reference=EN) == [] and found(EN, prompt="Onde?", reference="Faro") == []


def test_what_the_reference_does_too_is_no_flaw():
    for text in (LOOP, "Fica em Ta vira", "escreve <|end|>"):
        assert found(text, reference=text) == []


def test_thinking_that_the_template_opened_has_to_end():
    assert found("Ora, Faro.", thinking=True) == ["open_think"]
    assert found("Ora.</think>Faro", thinking=True) == []


def test_only_who_had_room_to_end_never_stops():
    assert found("Faro e", endless=True) == ["never_stops"] and found("Faro e") == []
    assert found("", endless=True) == ["never_stops", "empty"]


@given(st.text(max_size=300), st.text(max_size=60))
def test_any_text_is_judged(text: str, prompt: str):
    assert set(found(text, prompt=prompt)) <= set(NAMES)


@given(st.text(alphabet="abc de.", min_size=6, max_size=40).filter(str.strip))
def test_what_is_said_five_times_is_a_loop(piece: str):
    assert loops(piece * 5)


def test_limits_are_missed_beyond_chance_only():
    assert weigh(looping(0), looping(3), Guardrails()) == ([], [])  # 2.6 % to 20 %
    said = "guardrail loops: 15 % of 40 answers (base: 0 %) say the same again and again, the recipe allows 5 %"
    assert weigh(looping(0), looping(6), Guardrails()) == ([said], [])
    assert weigh(looping(0), looping(40), Guardrails(loops=1.0)) == ([], [])
    assert set(Guardrails.model_fields) == set(NAMES)


def looping(count: int, of: int = 40) -> list[list[str]]:
    return [["loops"]] * count + [[]] * (of - count)


@pytest.mark.parametrize(
    ("before", "after", "missed"),
    [
        (18, 18, False),  # the base does so by itself
        (18, 22, False),  # 4 more of 40: p = 0.125
        (18, 24, True),  # 6 more: p = 0.031
        (2, 8, True),  # the base is not above the limit
        (18, 1, False),
    ],
)
def test_a_miss_is_what_training_caused(before: int, after: int, missed: bool):
    misses, notes = weigh(looping(before), looping(after), Guardrails())
    assert bool(misses) is missed
    assert bool(notes) is (not missed and after > 2)
    assert all(f"(base: {show_share(before / 40)})" in said for said in [*misses, *notes])


def test_random_weights_are_nobody_s_base():
    """They never stop either; what was trained from them has to."""
    every = [["never_stops"]] * 40
    assert weigh(every, every, Guardrails())[0] == []
    said = "guardrail never_stops: 100 % of 40 answers never stop, the recipe allows 5 % (so)"
    assert weigh(None, every, Guardrails(), "so") == ([said], [])


def test_what_turned_both_ways_is_no_growth():
    """Ten answers that loop anew and eight that do no longer: two more of forty, p = 0.8."""
    before, after = [["loops"]] * 20 + [[]] * 20, [[]] * 8 + [["loops"]] * 22 + [[]] * 10
    misses, (note,) = weigh(before, after, Guardrails())
    assert misses == [] and "55.0 % of 40 answers (base: 50 %)" in note and "as the base is, and no miss" in note


def test_an_answer_that_reached_the_limit_is_given_more_room():
    """Of five at the limit one goes in circles, one ends with more room, one runs on, one has too long a reference."""
    answers = [
        Answer("Faro", 3, True),
        Answer(LOOP, 40, False),
        Answer("Ora bem, o clube", 40, False),
        Answer("Mais um", 40, False),
        Answer("Um", 40, False),
    ]
    asked: list[tuple[list[int], int]] = []

    def again(numbers, limit):
        asked.append((list(numbers), limit))
        texts = [("Ora bem, o clube é de Faro.", 52, True), ("Mais e mais", 160, False), ("Um poema", 160, False)]
        return [Answer(*each) for each in texts]

    references = [("Faro", 2), ("Faro", 2), ("Faro", 2), ("Faro", 2), ("Um poema", 80)]
    endless, room = find_endless(answers, references, 40, again)
    assert endless == [False, True, False, True, False] and asked == [([2, 3, 4], 160)]
    assert room.describe() == "of 4 answers that reached 40 tokens, 1 ended within 160 and 1 went in circles"


def test_where_the_limit_is_ample_nobody_is_asked_again():
    def never(numbers, limit):
        raise AssertionError

    assert find_endless([Answer("a b", 600, False)], [("a", 1)], 600, never)[0] == [True]
    assert find_endless([Answer("a b", 20, False)], [("a", 8)], 20, lambda *_: [Answer("a b", 20, False)])[0] == [False]


@pytest.mark.training
def test_a_model_that_never_saw_an_end_token_never_stops(tmp_path):
    """The same rows with and without the end token after each answer, from random weights."""
    base = make_base(tmp_path / "base")
    limits = Limits(guardrails=Guardrails(loops=1.0))
    settings = {"epochs": 25, "learning_rate": 1e-2, "batch_tokens": 512}
    recipe = make_recipe(base, train=settings, evaluate={"limits": limits, "max_new_tokens": 48, "samples": 0})
    recipe = recipe.model_copy(update={"adapter": Adapter(kind="none")})
    rows, renderer = make_rows(base, recipe)
    rows = [row for row in rows if row.example.messages]
    assert all(row.mask[-1] and row.ids[-1] in renderer.stop_ids() for row in rows)
    cut = [replace(row, ids=row.ids[:-1], mask=row.mask[:-1]) for row in rows]
    cpu = torch.device("cpu")

    def trained(name, rows):
        model = load_base(base, recipe, cpu).requires_grad_(True)
        pad_id, job = renderer.tokenizer.pad_token_id, TrainingJob(tmp_path / name, "x")
        backend = TorchBackend(model, recipe.train, pad_id=pad_id, device=cpu, say=lambda text: None)
        train(backend, rows, [], recipe.train, job, log=lambda event, **values: None, say=lambda text: None)
        return model.eval()

    questions = tuple(Question(({"role": "user", "content": asked},), answer, "rows:1") for asked, answer in ROWS)

    ending, endless = trained("ending", rows), trained("endless", cut)
    verdict = evaluate(
        ((lambda: contextlib.nullcontext(ending)), (lambda: contextlib.nullcontext(endless))),
        renderer,
        recipe,
        HeldOut([], []),
        [ProbeSet("towns", "recall", questions)],
        tmp_path,
    )
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["guardrails"]
    assert found["before"]["never_stops"] <= 2 and found["after"]["never_stops"] == len(ROWS) and not verdict.passed
    assert any("guardrail never_stops: 100 % of 36 answers (base: " in miss for miss in verdict.misses)
    assert found["room"]["after"]["reached"] == len(ROWS)


def test_the_audit_says_so_before_training(tmp_path):
    """The template of the model above, as a user has it: nothing after the answer."""
    base = make_base(tmp_path / "base")
    template = tmp_path / "endless.jinja"
    template.write_text(
        "{% for message in messages %}{{ '\n' + message['role'] + ': ' + message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nassistant: ' }}{% endif %}",
        encoding="utf-8",
    )
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in ROWS), encoding="utf-8")
    for chat, stops in ((Chat(), True), (Chat(template=str(template)), False)):
        audit = audit_files([data], tokens=token_view(base, make_recipe(base, chat=chat)))
        names = {finding.name for finding in audit.fatal([])}
        assert ("stop_not_trained" in names) is not stops
