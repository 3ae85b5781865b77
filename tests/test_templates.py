"""The chat templates of twelve families: what is learned of eight shapes of conversation, and what is refused."""

from __future__ import annotations

import json
from collections import namedtuple
from datetime import datetime
from pathlib import Path

import pytest
from template_table import (
    CALL,
    FAMILIES,
    SHAPES,
    TIDE,
    cell,
    learned_text,
    renderer_of,
    table,
    tools_of,
)
from tiny import make_tokenizer
from tokenizers import processors
from transformers.utils import chat_template_utils

from afina.errors import DataError
from afina.export.template import baked_tokenizer
from afina.recipe import Chat
from afina.serve.thoughts import Thought, ThoughtReader
from afina.serve.tools import Call, CallReader, WrittenCallReader
from afina.text.document import Message
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.own_system import own_system_of
from afina.tokenizer.template import NotRendered

DOCS = Path(__file__).parent.parent / "docs/templates.md"


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    place = tmp_path_factory.mktemp("templates")
    return {name: renderer_of(family, place / name) for name, family in FAMILIES.items()}


def with_chat(renderer: Renderer, **chat: object) -> Renderer:
    return Renderer(renderer.tokenizer, renderer.chat.model_copy(update=chat))


def spans(row: Encoded) -> list[int]:
    """Where learned parts begin."""
    return [at for at in range(1, len(row.ids)) if row.mask[at] and not row.mask[at - 1]]


def said(role: str, content: str, **more: object) -> Message:
    return {"role": role, "content": content, **more}  # type: ignore[typeddict-item]


def test_the_table_in_the_documentation_is_fresh(tmp_path: Path):
    assert DOCS.read_text(encoding="utf-8") == table(tmp_path), "`make docs` writes it again"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_finds_the_templates_own_system_text_without_its_tokenizer(
    renderers: dict[str, Renderer], name: str, tmp_path: Path
):
    """By the template's file alone, in both places where such a file is kept."""
    renderer = renderers[name]
    own = renderer.template.abilities.own_system
    assert bool(own) == (name in ("qwen2.5", "smollm2"))
    renderer.tokenizer.save_pretrained(tmp_path)
    assert own_system_of(tmp_path, Chat(), tmp_path) == own
    assert own_system_of(tmp_path, Chat(template="chat_template.jinja"), tmp_path) == own
    assert not own_system_of(tmp_path, Chat(system="Sê breve."), tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": renderer.tokenizer.chat_template})
    )
    assert own_system_of(tmp_path, Chat(), tmp_path) == own


OF_A_DAY = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}"
    "{{- '<|system|> Today Date: ' + date_string + '<|end|>' }}"
)
"""As Llama 3.2's template begins."""


def test_a_template_that_writes_the_day_asks_with_the_same_words_on_every_day(
    renderers: dict[str, Renderer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A model is trained on one day, and measured, served, exported and verified on others."""
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = OF_A_DAY + tokenizer.chat_template
    asked, answered = said("user", "Onde?"), said("assistant", "Faro")
    renderer, found = Renderer(tokenizer, Chat()), []
    for day in (datetime(2026, 2, 3), datetime(2027, 5, 6)):
        monkeypatch.setattr(chat_template_utils, "datetime", namedtuple("Clock", "now")(lambda day=day: day))
        baked = baked_tokenizer(renderer)
        ids = baked.apply_chat_template([asked], add_generation_prompt=True, return_dict=False)
        found.append((renderer.prompt([asked]), renderer.conversation([asked, answered]).ids, ids))
    assert found[0] == found[1]
    assert found[0][0] == found[0][2], "and so does what is exported"
    assert "26 Jul 2024" in tokenizer.decode(found[0][0])
    told = Renderer(tokenizer, Chat(template_args={"date_string": "1 Jan 2026"}))
    assert "1 Jan 2026" in told.prompt_text([asked]), "unless the recipe says which"


def test_a_text_to_be_continued_is_not_ended_by_the_tokenizer(tmp_path: Path):
    """Some put an end token behind every text (`add_eos_token`): a model would be asked to begin another one."""
    tokenizer = make_tokenizer(tmp_path)
    plain = Renderer(tokenizer, Chat()).completion_prompt("Faro é")
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    ids = [(begin, tokenizer.bos_token_id), (end, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=ids
    )
    assert tokenizer("Faro é")["input_ids"][-1] == tokenizer.eos_token_id
    assert Renderer(tokenizer, Chat()).completion_prompt("Faro é") == plain


@pytest.mark.parametrize("turns", [None, "each", "last"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_what_serving_renders_plus_the_answers(renderers: dict[str, Renderer], name: str, turns: str | None):
    renderer = with_chat(renderers[name], turns=turns)
    trained = 0
    for shape, messages in SHAPES.items():
        try:
            rows = renderer.rows(messages, tools=tools_of(shape)).rows
        except NotRendered:
            continue
        asked = [at for at, turn in enumerate(messages) if turn["role"] == "assistant"]
        starts = [row.ids[:at] for row in rows for at in spans(row)]
        prompts = [renderer.prompt(messages[:at], tools_of(shape)) for at in (asked[-1:] if turns == "last" else asked)]
        assert starts == prompts, shape
        assert all(row.mask[-1] and row.ids[-1] in renderer.stop_ids() for row in rows)
        trained += 1
    assert trained >= 3


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learned_is_all_of_the_answer_and_nothing_of_others(renderers: dict[str, Renderer], name: str):
    renderer = renderers[name]
    for shape, messages in SHAPES.items():
        try:
            rows = renderer.rows(messages, tools=tools_of(shape)).rows
        except NotRendered:
            continue
        text = "\n".join(learned_text(renderer, row) for row in rows)
        lost = [thought for row in rows for thought in row.lost]
        for turn in messages:
            if turn["role"] != "assistant":
                assert turn["content"] not in text
                continue
            assert turn["content"] in text
            assert (turn.get("reasoning_content", "") in text) != (turn.get("reasoning_content") in lost)
            assert all(call["function"]["name"] in text for call in turn.get("tool_calls", ()))
        assert "High water" not in text


def test_a_call_by_hand(renderers: dict[str, Renderer]):
    (row,) = renderers["qwen2.5"].rows(SHAPES["tools"], tools=[TIDE]).rows
    assert learned_text(renderers["qwen2.5"], row) == (
        '<tool_call>\n{"name": "tide", "arguments": {"port": "Faro"}}\n</tool_call><|im_end|> … Às três.<|im_end|>'
    )
    assert "alta às 15h02\n</tool_response>" in renderers["qwen2.5"].tokenizer.decode(row.ids)


def test_a_template_that_takes_earlier_thoughts_out_has_a_row_for_each_answer(renderers: dict[str, Renderer]):
    made = renderers["qwen3"].rows(SHAPES["thoughts"])
    assert made.why == "the chat template takes thoughts out of earlier turns"
    first, second = (learned_text(renderers["qwen3"], row) for row in made.rows)
    assert first == "<think>\nAna é do sul.\n</think>\n\nEm Faro.<|im_end|>"
    assert second == "<think>\nRui também.\n</think>\n\nEm Lagos.<|im_end|>"
    assert "Ana é do sul" not in renderers["qwen3"].tokenizer.decode(made.rows[1].ids)


def test_all_in_one_row_counts_the_thoughts_that_the_template_takes_out(renderers: dict[str, Renderer]):
    """``chat.turns: all`` on a template that is otherwise given a row for each answer."""
    (row,) = with_chat(renderers["qwen3"], turns="all").rows(SHAPES["thoughts"]).rows
    assert learned_text(renderers["qwen3"], row) == (
        "Em Faro.<|im_end|> … <think>\nRui também.\n</think>\n\nEm Lagos.<|im_end|>"
    )
    assert (row.thoughts, row.lost) == (2, ("Ana é do sul.",))


def test_an_answer_that_is_not_to_be_learned_is_context(renderers: dict[str, Renderer]):
    messages = [dict(turn) for turn in SHAPES["multi-turn"]]
    messages[1]["learned"] = False
    for name, renderer in renderers.items():
        (row,) = renderer.rows(messages).rows  # type: ignore[arg-type]
        assert "Faro" not in learned_text(renderer, row) and "Em Lagos." in learned_text(renderer, row), name
        assert "learned" not in renderer.tokenizer.decode(row.ids)
    messages[3]["learned"] = False
    with pytest.raises(NotRendered, match="none of its answers"):
        renderers["qwen3"].rows(messages)  # type: ignore[arg-type]


def test_every_end_that_training_teaches_stops_serving(renderers: dict[str, Renderer]):
    ends = {
        name: [renderer.tokenizer.convert_ids_to_tokens(each) for each in renderer.stop_ids()]
        for name, renderer in renderers.items()
    }
    assert ends["glm-4"] == ["<|endoftext|>", "<|user|>", "<|observation|>"]
    assert ends["gpt-oss"] == ["<|return|>", "<|call|>"]
    assert ends["phi-3"] == ["<|endoftext|>", "<|end|>"]
    assert ends["qwen3"] == ["<|im_end|>"]


def test_a_call_ended_by_a_token_of_its_own(renderers: dict[str, Renderer]):
    """Llama 3.1 with built-in tools ends a call with ``<|eom_id|>``."""
    renderer = with_chat(renderers["llama-3.1"], template_args={"builtin_tools": True})
    (row,) = renderer.rows(SHAPES["tools"], tools=[TIDE]).rows
    assert "}<|eom_id|> … Às três.<|eot_id|>" in learned_text(renderer, row)
    assert "<|eom_id|>" in renderer.tokenizer.convert_ids_to_tokens(renderer.stop_ids())


def test_arguments_as_each_template_wants_them(renderers: dict[str, Renderer]):
    """DeepSeek-V3 joins the arguments to a text."""
    assert renderers["deepseek-v3"].template.abilities.calls == "text"
    assert renderers["qwen2.5"].template.abilities.calls == "object"
    assert renderers["gemma-3"].template.abilities.calls is None
    (row,) = renderers["deepseek-v3"].rows(SHAPES["tools"]).rows
    learned = learned_text(renderers["deepseek-v3"], row)
    assert '```json\n{"port": "Faro"}\n```' in learned and "None" not in learned


def test_ids_that_a_template_does_not_take_become_others(renderers: dict[str, Renderer]):
    """An id is a name within its conversation."""
    turns = [dict(turn) for turn in SHAPES["tools"]]
    turns[1]["tool_calls"] = [CALL | {"id": "c1"}]
    turns[2]["tool_call_id"] = "c1"
    (row,) = renderers["mistral"].rows(turns, tools=[TIDE]).rows  # type: ignore[arg-type]
    assert renderers["mistral"].tokenizer.decode(row.ids).count("c00010000") == 2
    assert [name for name, each in renderers.items() if each.template.abilities.short_ids] == ["mistral"]


def test_calls_without_ids_get_some(renderers: dict[str, Renderer]):
    """Mistral refuses a call without an id; ShareGPT has none."""
    bare = [dict(turn) for turn in SHAPES["tools"]]
    bare[1]["tool_calls"] = [{key: value for key, value in CALL.items() if key != "id"}]
    del bare[2]["tool_call_id"]
    (row,) = renderers["mistral"].rows(bare, tools=[TIDE]).rows  # type: ignore[arg-type]
    text = renderers["mistral"].tokenizer.decode(row.ids)
    assert text.count("c00010000") == 2, text


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("gemma-2", "system", "no place for a system text"),
        ("gemma-2", "tools", "no place for functions"),
        ("gemma-3", "two users in a row", "must alternate"),
        ("qwen3", "starts with assistant", "starts with an answer"),
        ("smollm2", "starts with assistant", "starts with an answer"),
        ("qwen3", "empty", "no answer in it"),
    ],
)
def test_what_a_template_does_not_take_is_refused_in_words(
    renderers: dict[str, Renderer], name: str, shape: str, words: str
):
    assert words in cell(renderers[name], shape)[2]


def test_results_and_calls_have_a_place_or_are_refused(renderers: dict[str, Renderer]):
    with pytest.raises(DataError, match="no place for calls"):
        renderers["gemma-3"].rows(SHAPES["tools"])
    with pytest.raises(DataError, match="no place for results"):
        renderers["phi-3"].prompt([said("user", "a"), said("tool", "b")])


def test_a_folded_system_text_stands_in_the_first_question(renderers: dict[str, Renderer]):
    """In training as in serving; and where the template has a place for it, it is not folded."""
    renderer = with_chat(renderers["gemma-2"], system_turn="fold")
    (row,) = renderer.rows(SHAPES["system"]).rows
    text = renderer.tokenizer.decode(row.ids)
    assert text.startswith("<bos><start_of_turn>user\nSê breve.\n\nOnde nasceu Ana?<end_of_turn>")
    assert renderer.tokenizer.decode(renderer.prompt(SHAPES["system"][:2])) == text.partition("Em Faro")[0]
    recipes = with_chat(renderers["gemma-2"], system_turn="fold", system="Sê breve.")
    assert recipes.rows(SHAPES["single"]).rows[0].ids == row.ids
    with pytest.raises(NotRendered, match=r"chat\.system_turn: fold"):
        renderers["gemma-2"].prompt(SHAPES["system"][:2])
    kept = with_chat(renderers["qwen3"], system_turn="fold").rows(SHAPES["system"]).rows
    assert kept[0].ids == renderers["qwen3"].rows(SHAPES["system"]).rows[0].ids


def test_a_template_that_moves_the_system_text_is_learned_as_it_is_served(renderers: dict[str, Renderer]):
    """Mistral writes it into the last question, where that is what is asked."""
    renderer = renderers["mistral"]
    (row,) = renderer.rows(SHAPES["system"]).rows
    text = renderer.tokenizer.decode(row.ids)
    assert text == "<s>[INST] Sê breve.\n\nOnde nasceu Ana?[/INST] Em Faro.</s>"
    long = renderer.rows([said("system", "Sê breve."), *SHAPES["multi-turn"]])
    assert len(long.rows) == 2 and "rewrites" in long.why


def test_arguments_that_close_a_thought_do_not_hide_one(renderers: dict[str, Renderer]):
    """Qwen3 with `enable_thinking: false` asks behind a closed thought: a row with a thought would be another text."""
    renderer = with_chat(renderers["qwen3"], template_args={"enable_thinking": False})
    assert learned_text(renderer, renderer.rows(SHAPES["single"]).rows[0]) == "Em Faro.<|im_end|>"
    with pytest.raises(NotRendered):
        renderer.rows(SHAPES["thoughts"])


def read_back(renderer: Renderer, text: str, step: int) -> list[object]:
    """What a server makes of an answer that comes in pieces."""
    able = renderer.template.abilities
    reader: CallReader | WrittenCallReader = CallReader({"tide", "now"})
    if able.written:
        reader = WrittenCallReader({"tide", "now"}, able.written)
    pieces = [piece for at in range(0, len(text), step) for piece in reader.add(text[at : at + step])]
    found = [*pieces, *reader.finish()]
    return [(each.name, json.loads(each.arguments)) if isinstance(each, Call) else each for each in found]


@pytest.mark.parametrize("name", ["qwen2.5", "llama-3.1", "mistral", "glm-4", "deepseek-v3", "gpt-oss"])
@pytest.mark.parametrize("step", [1, 7, 999])
def test_a_call_as_it_is_trained_is_read_back(renderers: dict[str, Renderer], name: str, step: int):
    renderer = renderers[name]
    assert read_back(renderer, renderer.answer_text(SHAPES["tools"][:2]), step) == [("tide", {"port": "Faro"})]
    for text in ("Em Faro.", 'tide: {"port"', '{"name": "other", "parameters": {}}', ""):
        assert "".join(map(str, read_back(renderer, text, step))) == text
    both = [dict(turn) for turn in SHAPES["tools"][:2]]
    other = {"id": "call00002", "type": "function", "function": {"name": "now", "arguments": {}}}
    both[1]["tool_calls"] = [CALL, other]
    if name not in ("llama-3.1", "gpt-oss"):  # one at a time
        two = renderer.answer_text(both)  # type: ignore[arg-type]
        assert read_back(renderer, two, step) == [("tide", {"port": "Faro"}), ("now", {})], two


@pytest.mark.parametrize(("name", "shape"), [("qwen3", "thoughts"), ("qwen3", "single"), ("gpt-oss", "thoughts"),
                                             ("gpt-oss", "single")])  # fmt: skip
@pytest.mark.parametrize("step", [1, 7, 999])
def test_a_thought_as_it_is_trained_is_read_apart(renderers: dict[str, Renderer], name: str, shape: str, step: int):
    renderer, turns = renderers[name], SHAPES[shape][:2]
    (row,) = renderer.rows(turns).rows
    text = renderer.tokenizer.decode(row.ids[row.mask.index(True) : -1])
    able = renderer.template.abilities
    assert able.thought_marks
    reader = ThoughtReader(able.thought_marks, able.opens)
    pieces = [piece for at in range(0, len(text), step) for piece in reader.add(text[at : at + step])]
    pieces += reader.finish()
    thought = "".join(each for each in pieces if isinstance(each, Thought))
    assert thought == turns[-1].get("reasoning_content", "")
    assert "".join(each for each in pieces if not isinstance(each, Thought)) == "Em Faro."


def test_a_thought_that_the_prompt_opens_and_one_that_never_ends():
    opened = ThoughtReader(("<think>", "</think>"), opened=True)
    assert opened.add("\nSul.\n</think>\n\nFaro") == ["Sul.", "Faro"]
    endless = ThoughtReader(("<think>", "</think>"))
    pieces = [*endless.add("<think>Sul e "), *endless.add("sol </th"), *endless.finish()]
    assert "".join(pieces) == "Sul e sol </th" and all(isinstance(each, Thought) for each in pieces)
    plain = ThoughtReader(("<think>", "</think>"))
    assert [*plain.add("<"), *plain.add("b> Faro "), *plain.finish()] == ["<b> Faro "]
