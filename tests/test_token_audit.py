"""An audit with a base's tokenizer: lengths, what each policy loses, padding, end tokens, too little data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from called import call_afina
from tiny import make_base, make_recipe, make_tokenizer

from afina.dataset.audit.audit import Audit, audit_files
from afina.dataset.audit.token_audit import TokenAudit, TokenView
from afina.recipe import Chat, Recipe
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import EncodedExample, encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.show import GREEN, GREY, PLAIN, show_tokens
from afina.train.batches import plan_epoch
from afina.train.measure import token_view


class Words:
    """A tokenizer that a reader can do by hand: one token a word, 0 begins, 1 ends."""

    def __init__(self, words: str, *, end: tuple[int, ...] = (1,), begin: tuple[int, ...] = (0,)) -> None:
        self.ids = [*begin, *(2 + n for n, _ in enumerate(words.split())), *end]
        self.mask = [False, *[True] * (len(self.ids) - 1)]
        self.thoughts, self.lost = 0, ()


def view(**options: object) -> TokenView:
    given: dict[str, object] = {
        "encode": lambda example: EncodedExample([Words(example.text or example.answer)]),
        "batches": lambda lengths: [list(range(len(lengths)))],
        "end_ids": [1],
        "marks_in": lambda example: ["<end>"] if "<end>" in (example.text or example.answer) else [],
        "bos_id": 0,
        "max_length": 6,
    }
    return TokenView(**(given | options))  # type: ignore[arg-type]


def conversation(answer: str, line: int = 1) -> Example:
    messages = ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer})
    return Example(messages=messages, path="rows.jsonl", line=line)  # type: ignore[arg-type]


def findings(examples: list[Example], **options: object):
    audit = TokenAudit(view(**options))
    for example in examples:
        audit.add(example)
    return {item.name: item for item in audit.findings()}


def test_lengths_and_what_each_policy_would_lose():
    """2 + words tokens each: 4, 8 (a conversation) and 12 (a text) under a limit of 6."""
    made = [conversation("a b"), conversation("a b c d e f", 2), Example(text="a b c d e f g h i j", path="a.md")]
    found = findings(made)
    over = found["over_length"]
    assert (over.severity, over.count, over.of) == ("fatal", 2, 3)
    assert "1 conversations and 1 texts are longer than train.max_length (6 tokens)" in over.what
    assert "Split (plain texts, always): loses 0 tokens. Drop: loses 20 (83.3 %)." in over.what
    assert "cuts would lose 8 (33.3 %)" in over.what
    assert over.examples[0]["where"] == "rows.jsonl:2"
    assert found["token_lengths"].what.startswith(
        "tokens per example: median 8, 95 % at most 12, longest 12; 24 in all"
    )
    assert findings(made, on_too_long="drop")["over_length"].severity == "warning"
    assert findings(made[2:])["over_length"].severity == "note"  # a text is split, nothing is lost


def test_padding_by_hand():
    """Rows of 3, 3 and 6 tokens in one batch: 18 computed, 6 of them padding."""
    found = findings([conversation("a"), conversation("b"), conversation("a b c d")])
    assert (found["padding"].count, found["padding"].of, found["padding"].severity) == (6, 18, "warning")
    sorted_ = findings([conversation("a"), conversation("b"), conversation("a b c d")], batches=lambda _: [[0, 1], [2]])
    assert (sorted_["padding"].count, sorted_["padding"].severity) == (0, "note")


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (Words("a b", end=()), "end_token_missing"),
        (Words("a b", end=(1, 1)), "end_token_doubled"),
        (Words("a b", begin=(0, 0)), "bos_doubled"),
        (Words("a b", begin=(9,)), "bos_missing"),
    ],
)
def test_ends_and_beginnings(made: Words, name: str):
    found = findings([conversation("a b")], encode=lambda _: EncodedExample([made]), begins_with_bos=True)
    assert found[name].count == 1 and found[name].examples[0]["where"] == "rows.jsonl:1"
    fine = findings([conversation("a b")], begins_with_bos=True)
    assert name not in fine


def test_special_tokens_in_the_text_are_named():
    assert findings([conversation("so <end> it goes")])["special_token_in_text"].count == 1


def test_too_little_for_what_is_trained():
    found = findings([conversation("a b c")], trained_parameters=4001, epochs=3.0)  # 4 learned tokens
    assert found["too_little_data"].what == (
        "4001 trained parameters for 4 learned tokens (1000 each); 3 optimizer steps in 3 epochs"
    )
    assert "too_little_data" not in findings([conversation("a b c")], trained_parameters=4000, epochs=10.0)


# ---- with a real tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def rows(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    file = folder / "rows.jsonl"
    lines = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in pairs]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def audited(file: Path, base: Path, recipe: Recipe | None = None) -> Audit:
    return audit_files([file], tokens=token_view(base, recipe or make_recipe(base)))


def test_texts_without_an_end_are_fatal(tmp_path: Path, base: Path):
    """What a loader of raw text trains: each line is learned, and nothing says where it ends."""
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps({"text": f"Faro marcou {n}."}) + "\n" for n in range(4)), encoding="utf-8")
    recipe = make_recipe(base, chat={"end_texts": False})
    (found,) = [each for each in audited(file, base, recipe).findings if each.name == "end_token_missing"]
    assert (found.severity, found.count, found.of) == ("fatal", 4, 4)
    assert "chat.end_texts" in found.fix
    assert "end_token_missing" not in {each.name for each in audited(file, base).findings}


def test_the_audit_counts_what_training_will_count(tmp_path: Path, base: Path):
    file = rows(tmp_path, [(f"Onde nasceu Ana {n}?", f"Faro de Ana {n}.") for n in range(30)])
    recipe = make_recipe(base)
    found = {item.name: item for item in audited(file, base, recipe).findings}
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    examples = [
        Example(messages=({"role": "user", "content": f"Onde nasceu Ana {n}?"},
                          {"role": "assistant", "content": f"Faro de Ana {n}."}))  # type: ignore[arg-type]
        for n in range(30)
    ]  # fmt: skip
    encoded = encode_examples(examples, renderer, recipe)
    assert f"{encoded.tokens} in all, {encoded.targets} of them learned" in found["token_lengths"].what
    lengths = [len(row) for row in encoded.rows]
    batches = plan_epoch(lengths, batch_tokens=128, seed=0, epoch=0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert (found["padding"].count, found["padding"].of) == (padded - sum(lengths), padded)
    assert not [name for name in found if "end_token" in name or "doubled" in name or "stop" in name]
    assert found["bos_missing"].severity == "note"  # our own template writes none; texts begin with one


def test_a_template_that_never_stops_is_fatal(tmp_path: Path, base: Path):
    template = tmp_path / "endless.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    file = rows(tmp_path, [("Onde?", "Faro."), ("Quando?", "Em 1910.")])
    audit = audited(file, base, make_recipe(base, chat=Chat(template=str(template))))
    (finding,) = audit.fatal()
    assert (finding.name, finding.count, finding.of) == ("stop_not_trained", 2, 2)
    assert "never learn to stop" in finding.what and finding.examples[0]["where"].endswith("rows.jsonl:1")
    assert "chat.template" in finding.fix


def test_no_template_is_fatal_too(tmp_path: Path):
    tokenizer = make_tokenizer(tmp_path / "base")
    tokenizer.chat_template = None
    (tmp_path / "base/chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(tmp_path / "base")
    audit = audited(rows(tmp_path, [("Onde?", "Faro.")]), tmp_path / "base")
    assert "not_rendered" in [item.name for item in audit.fatal()]


def test_an_end_token_inside_the_data_is_found(tmp_path: Path, base: Path):
    audit = audited(rows(tmp_path, [("Onde?", "Faro.<|end|>")]), base)
    found = {item.name for item in audit.findings}
    assert "special_token_in_text" in found and "end_token_doubled" not in found  # it is learned as words


def test_the_command_line(tmp_path: Path, base: Path):
    file = rows(tmp_path, [(f"Onde {n}?", "Faro " * (5 + n)) for n in range(30)])
    done = call_afina("data", "audit", file, "--base", base, "--set", "train.max_length=32", "--json", check=3)
    found = {item["name"]: item for item in json.loads(done.stdout)["findings"]}
    assert "longer than train.max_length (32 tokens)" in found["over_length"]["what"]
    assert found["over_length"]["examples"][0]["where"].startswith(str(file))


# ---- afina data show --tokens


def coloured(shown: str) -> tuple[str, str]:
    """What is green and what is grey, by the colours themselves."""
    green = grey = ""
    for part in shown.partition("\n")[2].split("|" + "\x1b"):
        piece = part if part.startswith("\x1b") else "\x1b" + part
        if piece.startswith(GREEN):
            green += piece.removeprefix(GREEN).removesuffix(PLAIN)
        else:
            assert piece.startswith(GREY)
            grey += piece.removeprefix(GREY).removesuffix(PLAIN)
    return green, grey


def test_show_marks_exactly_the_learned_tokens_of_a_conversation(base: Path):
    recipe = make_recipe(base)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    turns = [("user", "Onde nasceu Ana?"), ("assistant", "Faro de Ana"), ("user", "E Rui?"), ("assistant", "Lagos")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    example = Example(messages=messages, path="rows.jsonl", line=7)  # type: ignore[arg-type]
    shown = show_tokens(example, renderer, color=True)
    encoded = renderer.conversation(messages)  # type: ignore[arg-type]
    assert shown.startswith(f"rows.jsonl:7  ({len(encoded.ids)} tokens, {encoded.targets} learned)\n")
    assert (shown.count(GREEN), shown.count(GREY)) == (encoded.targets, len(encoded.ids) - encoded.targets)
    green, grey = coloured(shown)
    assert green == " Faro de Ana<|end|> Lagos<|end|>"
    assert "Onde nasceu Ana?" in grey and "E Rui?" in grey and "Lagos" not in grey
    plain = show_tokens(example, renderer, color=False)
    learned = [piece.partition("]")[0] for piece in plain.partition("\n")[2].split("[")[1:]]
    assert "".join(learned) == green and plain.count("[") == encoded.targets


def test_show_marks_all_of_a_text_but_what_it_starts_from(base: Path):
    recipe = make_recipe(base)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    green, grey = coloured(show_tokens(Example(text="Faro marcou.\nTavira"), renderer, color=True))
    encoded = renderer.text("Faro marcou.\nTavira")
    first = renderer.tokenizer.decode(encoded.ids[:1])
    assert grey == first.replace("\n", "\\n")
    assert grey + green == renderer.tokenizer.decode(encoded.ids).replace("\n", "\\n")
