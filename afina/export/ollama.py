"""An Ollama Modelfile: the GGUF, its template in Go's language, its stop tokens and parameters.

Ollama does not use the Jinja template inside a GGUF. Its own is made here from what the run's template writes:
the pieces around each turn are read off a few renderings, and then several other conversations are put
together from the pieces and compared with the run's renderer, character for character. A template that is not made
of such pieces is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.errors import BaseError
from afina.export.template import CONVERSATIONS, try_render
from afina.recipe import Chat
from afina.text.document import Message
from afina.tokenizer.chat import Renderer
from afina.tokenizer.day import TRAINED_DAY, asks_the_day, on_one_day

CONTEXT = 8192
"""Tokens of context that a Modelfile asks for at most: Ollama takes 4096 by itself, and cuts what is longer."""
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repeat_penalty"}
"""Names in the base's generation config -> in a Modelfile."""


@dataclass(frozen=True)
class Turns:
    """A chat template as pieces of text around what is said."""

    begin: str
    """Before everything; a default system text among it."""
    user: tuple[str, str]
    """Before and after what the user says."""
    assistant: tuple[str, str]
    generation: str
    """Before an answer that is to be written; `assistant[0]`, or with a think block already closed."""
    system: tuple[str, str] | None
    """The beginning up to a given system text, and what follows it; None where the template takes none."""
    system_in: Literal["front", "first", "last"] = "front"
    """Where a system text goes: a turn of its own at the front, or inside the first or the last user turn."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation that ends with the user's turn.

        >>> chatml = Turns("", ("<u>", "</u>"), ("<a>", "</a>"), "<a>", ("<s>", "</s>"))
        >>> chatml.render([{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}])
        '<s>be</s><u>hi</u><a>'
        """
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = messages[1:] if system else messages
        out = self.begin
        if system and self.system and self.system_in == "front":
            out = self.system[0] + system + self.system[1]
        last = len(turns) - 1
        for number, turn in enumerate(turns):
            before, after = self.user if turn["role"] == "user" else self.assistant
            inside = system and self.system and number == {"first": 0, "last": last}.get(self.system_in)
            if inside and self.system:
                before += self.system[0] + system + self.system[1]
            out += before + turn["content"] + after
        return out + self.generation

    def go(self) -> str:
        """The same in Go's template language, as Ollama fills it in: ``.Messages``, each with ``.Role`` and
        ``.Content``, and ``.System``, the system texts among them."""
        out = ""
        if self.system and self.system_in == "front":
            given = f"{_text(self.system[0])}{{{{ .System }}}}{_text(self.system[1])}"
            out += "{{ if .System }}" + given + ("{{ else }}" + _text(self.begin) if self.begin else "") + "{{ end }}"
        else:
            out += _text(self.begin)
        inside = ""
        if self.system and self.system_in != "front":
            where = "$last" if self.system_in == "last" else "(eq $i 1)"
            inside = f"{{{{ if and {where} $.System }}}}{_text(self.system[0])}{{{{ $.System }}}}"
            inside += _text(self.system[1]) + "{{ end }}"
        out += "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        out += f'{{{{ if eq .Role "user" }}}}{_text(self.user[0])}{inside}{{{{ .Content }}}}{_text(self.user[1])}'
        out += f'{{{{ else if eq .Role "assistant" }}}}{_text(self.assistant[0])}{{{{ .Content }}}}'
        out += f"{{{{ if not $last }}}}{_text(self.assistant[1])}{{{{ end }}}}{{{{ end }}}}"
        if self.generation:
            out += f'{{{{ if and $last (ne .Role "assistant") }}}}{_text(self.generation)}{{{{ end }}}}'
        return out + "{{ end }}"


def _text(text: str) -> str:
    """Plain text inside a Go template.

    >>> _text("a"), _text("{{"), _text("Olá\N{NO-BREAK SPACE}!")
    ('a', '{{ "{{" }}', '{{ "Olá\\\\u00a0!" }}')
    """
    plain = not (_dropped(text) or "{{" in text or text.endswith("{") or '"""' in text)
    return text if plain else f"{{{{ {_quoted(text)} }}}}"


def _dropped(text: str) -> str:
    """The letters that Ollama leaves out where it reads a Modelfile: what Go's ``strconv.IsPrint`` says is not printed,
    but for tabs and line ends.

    Source: ollama/ollama, parser/parser.go (``ParseFile``), read 2026-11.
    """
    return "".join(each for each in text if not (each.isprintable() or each in "\t\n\r"))


_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    """A string of Go's language, of letters alone that Ollama keeps."""
    codes = (f"\\u{ord(each):04x}" if ord(each) < 1 << 16 else f"\\U{ord(each):08x}" for each in text)
    pairs = zip(text, codes, strict=True)
    return f'"{"".join(_ESCAPED.get(each) or (each if each.isprintable() else code) for each, code in pairs)}"'


def _check_system(system: str) -> None:
    """A Modelfile has no way to write some texts.

    Raises:
        BaseError: what Ollama would read is another text than the model was trained with.
    """
    if '"""' in system:
        raise BaseError('the system text holds """', "write it otherwise", "chat.system")
    if letters := _dropped(system):
        raise BaseError(
            f"the system text holds U+{ord(letters[0]):04X}, which Ollama leaves out of a Modelfile's SYSTEM: the model"
            " would be asked in other words",
            "use --to gguf with llama.cpp's own server, whose template writes it; or train without that letter",
            "chat.system",
        )


def read_turns(renderer: Renderer) -> Turns:
    """The pieces that a renderer's template is made of.

    Raises:
        BaseError: it is not made of such pieces, with the first conversation that shows it; or no Modelfile could hold
            the recipe's system text.
    """
    if not renderer.tokenizer.chat_template:
        raise BaseError("has no chat template", "use --to gguf: there is nothing for Ollama to fill in", "--to ollama")
    _check_system(renderer.chat.system or "")
    plain = Renderer(renderer.tokenizer, Chat(template_args=renderer.chat.template_args))  # SYSTEM gives the text
    turns = _pieces(plain)
    for messages in CONVERSATIONS:
        right = try_render(plain, messages)
        if right is None or (messages[0]["role"] == "system" and turns.system is None):
            continue  # the template refuses it, or leaves the system text out
        if (made := turns.render(messages)) != right:
            raise _not_pieces(f"for {messages!r} they give {made!r}, the template {right!r}")
    return turns


def _not_pieces(why: str) -> BaseError:
    return BaseError(
        f"the chat template is not made of fixed pieces around each turn: {why}",
        "use --to gguf with llama.cpp's own server, which runs the Jinja template",
        "--to ollama",
    )


def _pieces(renderer: Renderer) -> Turns:
    s, u, a, v = "QsystemQ", "QfirstQ", "QanswerQ", "QsecondQ"
    one: list[Message] = [{"role": "user", "content": u}]
    more: list[Message] = [*one, {"role": "assistant", "content": a}, {"role": "user", "content": v}]
    short, long = try_render(renderer, one), try_render(renderer, more)
    if short is None or long is None or any(word not in long for word in (u, a, v)):
        raise _not_pieces("it does not give a conversation of three turns back")
    template = on_one_day(renderer.tokenizer.get_chat_template())
    arguments = {"chat_template": template, **renderer.chat.template_args}
    closed = str(renderer.tokenizer.apply_chat_template(one, tokenize=False, **arguments))
    end = short[len(closed) :] if short.startswith(closed) else ""
    head, tail = short.split(u, 1)
    after_user = tail[: len(tail) - len(end)]
    between = long.split(u, 1)[1].split(a, 1)
    to_user = between[1].split(v, 1)[0]
    begin = _begin(renderer, head)
    before_user = _common_end(head[len(begin) :], to_user)
    if not between[0].startswith(after_user):
        raise _not_pieces(f"after the user it writes {after_user!r} or {between[0]!r}")
    turns = Turns(
        head[: len(head) - len(before_user)],
        (before_user, after_user),
        (between[0][len(after_user) :], to_user[: len(to_user) - len(before_user)]),
        end,
        None,
    )
    return _with_system(turns, renderer, s, one, more)


def _begin(renderer: Renderer, head: str) -> str:
    """The begin token at the front, which is no part of any turn."""
    begin = renderer.tokenizer.bos_token or ""
    return begin if begin and head.startswith(begin) else ""


def _with_system(turns: Turns, renderer: Renderer, s: str, one: Sequence[Message], more: Sequence[Message]) -> Turns:
    from dataclasses import replace

    given: Message = {"role": "system", "content": s}
    short, long = try_render(renderer, [given, *one]), try_render(renderer, [given, *more])
    if short is None or long is None or s not in short:
        return turns
    u, v = one[0]["content"], more[2]["content"]
    before, after = short.split(u, 1)[0].split(s, 1)
    if after.endswith(turns.user[0]) and turns.user[0]:
        return replace(turns, system=(before, after[: len(after) - len(turns.user[0])]))
    into_last = long.index(s) > long.index(u) and long.index(s) < long.index(v)
    inside = before[len(turns.begin) + len(turns.user[0]) :]
    return replace(turns, system=(inside, after), system_in="last" if into_last else "first")


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


def modelfile(
    renderer: Renderer,
    gguf: str,
    *,
    positions: int | None,
    generation: Mapping[str, Any],
    begins_with_bos: bool,
) -> tuple[str, list[str]]:
    """The Modelfile's text, and what the user has to know.

    Args:
        gguf: the file's name beside it.
        positions: what the model sees at most.
        generation: the base's generation config; what it samples by is kept.
        begins_with_bos: whether the GGUF tells Ollama to write the begin token itself.

    Raises:
        BaseError: from :func:`read_turns`.
    """
    from dataclasses import replace

    tokenizer, notes = renderer.tokenizer, []
    turns = read_turns(renderer)
    if asks_the_day(tokenizer.get_chat_template()):
        notes.append(f"the template writes the day on which it is asked; the Modelfile holds {TRAINED_DAY}")
    if turns.system is None:
        notes.append("the template takes no system text: Ollama's SYSTEM has no effect")
    if begins_with_bos and tokenizer.bos_token:  # Ollama writes it, as the GGUF says
        begin, system = turns.begin.removeprefix(tokenizer.bos_token), turns.system
        if system and turns.system_in == "front":
            system = (system[0].removeprefix(tokenizer.bos_token), system[1])
        turns = replace(turns, begin=begin, system=system)
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{turns.go()}"""']
    if renderer.chat.system:
        lines.append(f'SYSTEM """{renderer.chat.system}"""')
    parameters: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0}
    kept = {name: generation[key] for key, name in SAMPLING.items() if generation.get(key) is not None}
    if generation.get("do_sample") and kept:
        parameters |= kept
        notes.append(f"it samples as the base's generation config says ({kept}); the run was measured greedily")
    if positions:
        parameters["num_ctx"] = min(positions, CONTEXT)
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    # Between the quotes Ollama reads every letter as it stands, backslashes too.
    lines += [f'PARAMETER stop "{tokenizer.decode([number])}"' for number in renderer.stop_ids()]
    return "\n".join(lines) + "\n", notes
