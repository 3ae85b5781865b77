"""Ollama's templates: rendered by a small reader of Go's language, and by Go itself where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from exported import make_run
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer
from tokenizers import AddedToken

from afina.errors import BaseError
from afina.export.export import ExportOptions, export
from afina.export.ollama import modelfile, read_turns
from afina.export.template import CONVERSATIONS
from afina.recipe import Chat
from afina.tokenizer.chat import Renderer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{% if system and WHERE %}{{ system + '\n\n' }}{% endif %}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FAMILIES = {
    "afina": (None, {}),
    "chatml": ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", {}),
    "llama 3": (LLAMA3, {}),
    "qwen": (QWEN, {}),
    "qwen 3 without thinking": (QWEN, {"enable_thinking": False}),
    "mistral 0.1": (MISTRAL.replace("WHERE", "loop.index0 == 1"), {}),
    "mistral 0.3": (MISTRAL.replace("WHERE", "loop.last"), {}),
    "gemma 1": (NO_SYSTEM, {}),
    "braces": ("{% for m in messages %}{{ '{{' + m['role'] + '}}' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{{a}}' }}{% endif %}", {}),
}  # fmt: skip


def renderer_of(family: str, folder: Path) -> Renderer:
    template, arguments = FAMILIES[family]
    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(each, special=True) for each in ("<|im_end|>", "<|eot_id|>")], special_tokens=True)
    if template is not None:
        tokenizer.chat_template = template
    return Renderer(tokenizer, Chat(template_args=arguments))


# ---- as much of Go's text/template as Ollama's templates here use

_ACTION = re.compile(r"\{\{ (.*?) \}\}(?!\})", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')


def go(template: str, messages: list[dict[str, str]]) -> str:
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    data: dict[str, Any] = {
        "System": system,
        "Messages": [{"Role": each["role"], "Content": each["content"]} for each in messages],
    }
    pieces = _ACTION.split(template)
    out, end = _block(pieces, 0, data, {"$": data})
    assert end == len(pieces)
    return out


def _block(pieces: list[str], at: int, dot: Any, names: dict[str, Any], run: bool = True) -> tuple[str, int]:
    """Odd pieces are actions. Returns at the `else` or `end` that closes the block."""
    out = ""
    while at < len(pieces):
        piece = pieces[at]
        if at % 2 == 0:
            out += piece if run else ""
        elif piece == "end" or piece.startswith("else"):
            return out, at
        elif piece.startswith("if "):
            text, at = _branches(pieces, at, dot, names, run)
            out += text
        elif piece.startswith("range "):
            _, end = _block(pieces, at + 1, dot, names, False)
            for number, each in enumerate(names["$"]["Messages"] if run else []):
                out += _block(pieces, at + 1, each, names | {"$i": number})[0]
            at = end
        elif ":=" in piece:
            name, _, expression = piece.partition(" := ")
            if run:
                names[name] = _value(expression, dot, names)
        elif run:
            out += str(_value(piece, dot, names))
        at += 1
    return out, at


def _branches(pieces: list[str], at: int, dot: Any, names: dict[str, Any], run: bool) -> tuple[str, int]:
    out, condition, done = "", pieces[at].removeprefix("if "), not run
    while True:
        taken = not done and bool(condition is None or _value(condition, dot, names))
        text, at = _block(pieces, at + 1, dot, dict(names), taken)
        out, done = out + text, done or taken
        if pieces[at] == "end":
            return out, at
        condition = pieces[at].removeprefix("else").strip().removeprefix("if ") or None  # type: ignore[assignment]


def _value(expression: str, dot: Any, names: dict[str, Any]) -> Any:
    words = _WORD.findall(expression)

    def term() -> Any:
        word = words.pop(0)
        if word == "(":
            inside = call()
            assert words.pop(0) == ")"
            return inside
        if word[0] == '"':
            return json.loads(word)
        if word.isdigit():
            return int(word)
        if word.startswith("$."):
            return names["$"][word[2:]]
        return names[word] if word[0] == "$" else dot[word[1:]]

    def call() -> Any:
        if words[0] not in ("eq", "ne", "and", "not", "len", "slice"):
            return term()
        name, given = words.pop(0), []
        while words and words[0] != ")":
            given.append(term())
        a, b = given[0], given[-1]
        return {"eq": a == b, "ne": a != b, "and": a and b, "not": not a}[name] if name not in ("len", "slice") else (
            len(a) if name == "len" else a[b:]
        )  # fmt: skip

    return call()


def test_the_reader_of_go_by_hand():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}[{{ .Content }}]{{ else }}{{ $i }}{{ end }}{{ end }}'
    assert go(text, messages) == "[a]1"
    assert go("{{ if .System }}s{{ else }}none{{ end }}", messages) == "none"
    assert go('{{ "{{" }}', messages) == "{{"


def template_of(text: str) -> str:
    found = re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_gos_template_writes_what_the_renderer_writes(family: str, tmp_path: Path):
    renderer = renderer_of(family, tmp_path)
    text, notes = modelfile(renderer, "m.gguf", positions=64, generation={}, begins_with_bos=False)
    compared = 0
    for messages in CONVERSATIONS:
        if family == "gemma 1" and messages[0]["role"] == "system":
            continue
        assert go(template_of(text), [dict(each) for each in messages]) == renderer.prompt_text(messages)
        compared += 1
    assert compared == (2 if family == "gemma 1" else 4)
    assert any("takes no system text" in note for note in notes) == (family == "gemma 1")


@given(
    turns=st.lists(st.text(min_size=1, max_size=30).map(lambda text: f"x{text}x"), min_size=1, max_size=7),
    system=st.none() | st.text(min_size=1, max_size=20).map(lambda text: f"x{text}x"),
    family=st.sampled_from([name for name in FAMILIES if name != "gemma 1"]),
)
def test_any_conversation(turns: list[str], system: str | None, family: str, tmp_path_factory: pytest.TempPathFactory):
    renderer, template = _known(family, tmp_path_factory)
    turns = turns if len(turns) % 2 else turns[:-1]
    messages: Any = [
        {"role": "user" if number % 2 == 0 else "assistant", "content": turn} for number, turn in enumerate(turns)
    ]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    assert go(template, messages) == renderer.prompt_text(messages)


_MADE: dict[str, tuple[Renderer, str]] = {}


def _known(family: str, factory: pytest.TempPathFactory) -> tuple[Renderer, str]:
    if family not in _MADE:
        renderer = renderer_of(family, factory.mktemp("t"))
        text, _ = modelfile(renderer, "m.gguf", positions=64, generation={}, begins_with_bos=False)
        _MADE[family] = renderer, template_of(text)
    return _MADE[family]


PROGRAM = """
package main

import ("encoding/json"; "io"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template, System string; Messages []Message }

func main() {
	raw, _ := io.ReadAll(os.Stdin)
	var cases []Case
	if err := json.Unmarshal(raw, &cases); err != nil { panic(err) }
	var out []string
	for _, c := range cases {
		t, err := template.New("").Parse(c.Template)
		if err != nil { panic(err) }
		var b writer
		if err := t.Execute(&b, map[string]any{"System": c.System, "Messages": c.Messages}); err != nil { panic(err) }
		out = append(out, string(b))
	}
	json.NewEncoder(os.Stdout).Encode(out)
}

type writer []byte
func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
"""


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed; its language is read by a small reader")
def test_go_itself_writes_the_same(tmp_path: Path):
    cases, right = [], []
    for family in FAMILIES:
        (tmp_path / family).mkdir()
        renderer = renderer_of(family, tmp_path / family)
        text, _ = modelfile(renderer, "m.gguf", positions=64, generation={}, begins_with_bos=False)
        for messages in CONVERSATIONS:
            if family == "gemma 1" and messages[0]["role"] == "system":
                continue
            system = messages[0]["content"] if messages[0]["role"] == "system" else ""
            turns = [{"Role": each["role"], "Content": each["content"]} for each in messages]
            cases.append({"Template": template_of(text), "System": system, "Messages": turns})
            right.append(renderer.prompt_text(messages))
    (tmp_path / "main.go").write_text(PROGRAM)
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == right


def test_the_begin_token_is_written_once(tmp_path: Path):
    renderer = renderer_of("llama 3", tmp_path)
    begin = renderer.tokenizer.bos_token
    with_it, _ = modelfile(renderer, "m.gguf", positions=None, generation={}, begins_with_bos=False)
    without, _ = modelfile(renderer, "m.gguf", positions=None, generation={}, begins_with_bos=True)
    for messages in CONVERSATIONS:
        first, second = (go(template_of(text), [dict(each) for each in messages]) for text in (with_it, without))
        assert first == begin + second


def test_stops_parameters_and_system(tmp_path: Path):
    renderer = renderer_of("llama 3", tmp_path)
    renderer = Renderer(renderer.tokenizer, Chat(system="Sê breve."))
    sampled = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    text, notes = modelfile(renderer, "m.gguf", positions=131072, generation=sampled, begins_with_bos=True)
    lines = text.splitlines()
    assert lines[0] == "FROM ./m.gguf"
    assert 'SYSTEM """Sê breve."""' in lines
    assert 'PARAMETER stop "<|end|>"' in lines and 'PARAMETER stop "<|eot_id|>"' in lines
    assert "PARAMETER temperature 0.6" in lines and "PARAMETER repeat_penalty 1.0" in lines
    assert "PARAMETER num_ctx 8192" in lines
    assert any("measured greedily" in note for note in notes)


def of_ollama(text: str) -> list[tuple[str, str]]:
    """Commands and values as Ollama reads a Modelfile: a value goes on to the line end at which its quotes are closed,
    nothing in it is escaped, and letters that are not printed are left out."""
    found, at = list[tuple[str, str]](), 0
    while at < len(text):
        head = re.compile(r"(PARAMETER \w+|[A-Z]+) ").match(text, at)
        assert head, text[at : at + 40]
        at, value, whole = head.end(), "", None
        while whole is None:
            letter, at = text[at], at + 1
            quote = next((each for each in ('"""', '"') if value.strip().startswith(each)), "")
            closed = not quote or (len(value.strip()) >= 2 * len(quote) and value.strip().endswith(quote))
            if letter in "\r\n" and closed:
                whole = value.strip().removeprefix(quote).removesuffix(quote)
            elif letter.isprintable() or letter in "\t\r\n":
                value += letter
        found.append((head[1], whole))
    return found


def test_what_ollama_reads_is_what_was_trained_with(tmp_path: Path):
    """Of a space that does not break the line, as French writes it, nothing was left, and backslashes were doubled."""
    end = '<|a"b\\|>'
    renderer = renderer_of("afina", tmp_path)
    renderer.tokenizer.add_tokens([AddedToken(end, special=True)], special_tokens=True)
    renderer.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>\u3000\u00a0{{ m['content'] }}" + end + "{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\u3000\u00a0{% endif %}"
    )
    system = 'Diz "olá", e\n\n\t"adeus"'
    renderer = Renderer(renderer.tokenizer, Chat(system=system))
    text, _ = modelfile(renderer, "m.gguf", positions=64, generation={}, begins_with_bos=False)
    read = of_ollama(text)
    assert ("SYSTEM", system) in read and ("PARAMETER stop", end) in read and read[0] == ("FROM", "./m.gguf")
    plain = Renderer(renderer.tokenizer, Chat())
    for messages in CONVERSATIONS:
        assert go(dict(read)["TEMPLATE"], [dict(each) for each in messages]) == plain.prompt_text(messages)
    with pytest.raises(BaseError, match=r"holds U\+00A0, which Ollama leaves out"):
        read_turns(Renderer(renderer.tokenizer, Chat(system="Bonjour\u00a0!")))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}<|end|>{% endfor %}",  # turns are numbered
        "{{ messages[-1]['content'] }}<|end|>",  # only the last turn
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}<|end|>{% endfor %}",
    ],
)
def test_a_template_that_is_not_made_of_pieces_is_refused(template: str, tmp_path: Path):
    renderer = renderer_of("afina", tmp_path)
    renderer.tokenizer.chat_template = template
    with pytest.raises(BaseError, match="not made of fixed pieces"):
        read_turns(renderer)


def test_a_run_for_ollama(tmp_path: Path):
    run = make_run(tmp_path / "corrida")
    found = export(run, ExportOptions("ollama", tmp_path / "o"), say=lambda _: None)
    assert set(found["files"]) == {"Modelfile", "README.md", "comparison.json", "corrida.gguf"}
    assert (tmp_path / "o/Modelfile").read_text(encoding="utf-8").startswith("FROM ./corrida.gguf\n")
