"""Rendering: what is learned is exactly the answers and their end tokens; training and serving agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_recipe, make_tokenizer

from afina.errors import DataError
from afina.recipe import Chat
from afina.text.example import Example
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.encode import cut_blocks, encode_examples
from afina.tokenizer.load import CHATML

# Published chat templates, reduced to what text conversations use.
QWEN3 = (
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or message.role == 'system' %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{%- if loop.last %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' + message.content }}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA31 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + ' [/INST]' }}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
TEMPLATES = {
    "ours": (None, {}, "<|end|>"),
    "chatml": (CHATML, {}, "<|im_end|>"),
    "qwen3": (QWEN3, {"enable_thinking": False}, "<|im_end|>"),
    "qwen3 thinking": (QWEN3, {}, "<|im_end|>"),
    "llama 3.1": (LLAMA31, {}, "<|eot_id|>"),
    "mistral": (MISTRAL, {}, "<|end|>"),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


def renderer_for(folder, name: str, system: str | None = None) -> Renderer:
    template, arguments, _ = TEMPLATES[name]
    tokenizer = make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL}, replace_extra_special_tokens=False)
    if template:
        tokenizer.chat_template = template
    return Renderer(tokenizer, Chat(template_args=arguments, system=system))


def turns(*contents: str):
    roles = ("user", "assistant")
    return tuple({"role": roles[n % 2], "content": content} for n, content in enumerate(contents))


def learned_text(renderer: Renderer, encoded: Encoded) -> str:
    return renderer.tokenizer.decode([i for i, learned in zip(encoded.ids, encoded.mask, strict=True) if learned])


@pytest.mark.parametrize("name", TEMPLATES)
def test_learned_is_the_answer_and_its_end_token(folder, name):
    renderer = renderer_for(folder, name)
    encoded = renderer.conversation(turns("Onde nasceu Ana?", "Faro é bom."))
    learned = learned_text(renderer, encoded)
    end = TEMPLATES[name][2]
    assert learned.removesuffix(end).replace("<think>\n\n</think>\n\n", "").strip() == "Faro é bom."
    assert learned.endswith(end)
    assert encoded.ids[: encoded.mask.index(True)] == renderer.prompt(turns("Onde nasceu Ana?"))


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not name.startswith("qwen3")])
def test_every_answer_of_a_conversation_is_learned(folder, name):
    renderer = renderer_for(folder, name)
    encoded = renderer.conversation(turns("Onde?", "Faro.", "Quando?", "Em 1910."))
    end = TEMPLATES[name][2]
    answers = [part.strip() for part in learned_text(renderer, encoded).split(end)]
    assert answers == ["Faro.", "Em 1910.", ""]


def test_a_template_that_rewrites_earlier_turns_is_refused(folder):
    renderer = renderer_for(folder, "qwen3 thinking")
    with pytest.raises(DataError, match="rewrites an earlier answer"):
        renderer.conversation(turns("Onde?", "Faro.", "Quando?", "Em 1910."), "rows.jsonl:7")


def test_a_template_without_end_token_is_refused(folder):
    renderer = renderer_for(folder, "ours")
    renderer.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(DataError, match="never learn to stop"):
        renderer.conversation(turns("Onde?", "Faro."), "rows.jsonl:1")


def test_no_template_is_refused_with_the_choice(folder):
    renderer = renderer_for(folder, "ours")
    renderer.tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"chat\.template: chatml"):
        renderer.conversation(turns("Onde?", "Faro."))


words = st.text(alphabet="abcçãé ñ\n.,!?0<|>", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(TEMPLATES)), question=words, answer=words)
def test_training_is_serving_plus_the_answer(tmp_path_factory, name, question, answer):
    renderer = renderer_for(tmp_path_factory.getbasetemp() / "property", name)
    encoded = renderer.conversation(turns(question, answer.strip()))
    prompt = renderer.prompt(turns(question))
    assert encoded.ids[: len(prompt)] == prompt
    assert not any(encoded.mask[: len(prompt)])
    assert all(encoded.mask[len(prompt) :])
    rest = renderer.tokenizer.decode(encoded.ids[len(prompt) :])
    assert rest.endswith(answer.strip() + TEMPLATES[name][2]), rest


def test_a_text_is_learned_whole_with_its_end(folder):
    renderer = renderer_for(folder, "ours")
    encoded = renderer.text("Faro é bom.")
    assert encoded.ids[-1] == renderer.end_id
    assert encoded.mask == [False, *[True] * (len(encoded.ids) - 1)]
    assert renderer.tokenizer.decode(encoded.ids[1:-1]) == "Faro é bom."


def test_a_text_may_be_learned_without_an_end(folder):
    """As loaders of raw text train: what is asked of the model stays as it was, and a text of one token has nothing
    to learn, which is counted."""
    renderer, bare = (Renderer(renderer_for(folder, "ours").tokenizer, Chat(end_texts=end)) for end in (True, False))
    assert bare.text("Faro é bom.").ids == renderer.text("Faro é bom.").ids[:-1]
    assert bare.begun((), "Faro é") == renderer.begun((), "Faro é")
    assert bare.conversation(turns("Onde?", "Faro.")) == renderer.conversation(turns("Onde?", "Faro."))
    bare.begins_with_bos = False
    one = next(text for text in "abc}" if len(bare.text(text).ids) == 1)
    encoded = encode_examples(
        [Example(text=one, path="a.md", line=1), Example(text="Faro é bom.", path="a.md", line=2)], bare, make_recipe()
    )
    assert [row.ids for row in encoded.rows] == [bare.text("Faro é bom.").ids]
    assert encoded.dropped_examples == {"nothing_to_learn": ["a.md:1"]}
    assert encoded.tokens == sum(len(row) for row in encoded.rows) + sum(encoded.dropped.values())


@settings(max_examples=50, deadline=None)
@given(length=st.integers(2, 200), limit=st.integers(16, 64))
def test_blocks_learn_every_target_once(length, limit):
    encoded = Encoded(list(range(length)), [False, *[True] * (length - 1)])
    blocks = list(cut_blocks(encoded, limit))
    learned = [i for block in blocks for i, is_target in zip(block.ids, block.mask, strict=True) if is_target]
    assert learned == list(range(1, length))
    assert all(len(block.ids) <= limit for block in blocks)


def test_token_sum_and_too_long_conversations(folder):
    renderer = renderer_for(folder, "ours")
    long = Example(messages=turns("Onde?", "Faro " * 60), path="rows.jsonl", line=3)
    short = Example(messages=turns("Onde?", "Faro"), path="rows.jsonl", line=4)
    with pytest.raises(DataError, match=r"rows\.jsonl:3"):
        encode_examples([long, short], renderer, make_recipe())
    kept = encode_examples([long, short], renderer, make_recipe(dataset={"on_too_long": "drop"}))
    assert kept.tokens == sum(len(row) for row in kept.rows) - kept.repeated + sum(kept.dropped.values())
    assert kept.dropped_examples == {"too_long": ["rows.jsonl:3"]}
