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
from afina.evaluate.guardrails import NAMES, GuardedAnswer, flaws, misses
from afina.evaluate.probes import ProbeSet, Question
from afina.model.load_torch import load_base
from afina.recipe import Adapter, Chat, Guardrails, Limits
from afina.text.answer_flaws import loops, words_of
from afina.train.backend_torch import TorchBackend
from afina.train.loop import TrainingJob, train
from afina.train.measure import token_view

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
    assert misses({"loops": 3}, 40, Guardrails()) == []  # 2.6 % to 20 %
    assert misses({"loops": 6}, 40, Guardrails()) == [
        "guardrail loops: 15 % of 40 answers say the same again and again, the recipe allows 5 %"
    ]
    assert misses({"loops": 40}, 40, Guardrails(loops=1.0)) == []
    assert set(Guardrails.model_fields) == set(NAMES)


@pytest.mark.training
@pytest.mark.parametrize("ends", [True, False])
def test_a_model_that_never_saw_an_end_token_never_stops(tmp_path, ends: bool):
    """The same rows with and without the end token after each answer, from random weights."""
    base = make_base(tmp_path / "base")
    limits = Limits(guardrails=Guardrails(loops=1.0))
    settings = {"epochs": 25, "learning_rate": 1e-2, "batch_tokens": 512}
    recipe = make_recipe(base, train=settings, evaluate={"limits": limits, "max_new_tokens": 48, "samples": 0})
    recipe = recipe.model_copy(update={"adapter": Adapter(kind="none")})
    rows, renderer = make_rows(base, recipe)
    rows = [row for row in rows if row.example.messages]
    if not ends:
        assert all(row.mask[-1] and row.ids[-1] in renderer.stop_ids() for row in rows)
        rows = [replace(row, ids=row.ids[:-1], mask=row.mask[:-1]) for row in rows]
    cpu = torch.device("cpu")
    model = load_base(base, recipe, cpu).requires_grad_(True)
    pad_id, job = renderer.tokenizer.pad_token_id, TrainingJob(tmp_path / "checkpoints", "x")
    backend = TorchBackend(model, recipe.train, pad_id=pad_id, device=cpu, say=lambda text: None)
    train(backend, rows, [], recipe.train, job, log=lambda event, **values: None, say=lambda text: None)
    questions = tuple(Question(({"role": "user", "content": asked},), answer, "rows:1") for asked, answer in ROWS)
    verdict = evaluate(
        (
            lambda: contextlib.nullcontext(load_base(base, recipe, cpu).eval()),
            lambda: contextlib.nullcontext(model.eval()),
        ),
        renderer,
        recipe,
        HeldOut([], []),
        [ProbeSet("towns", "recall", questions)],
        tmp_path,
    )
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    never = scores["guardrails"]["after"]["never_stops"]
    if ends:
        assert never <= 2 and not any("never_stops" in miss for miss in verdict.misses)
    else:
        assert never == len(ROWS) and not verdict.passed
        assert any("guardrail never_stops: 100 % of 36 answers never stop" in miss for miss in verdict.misses)


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
