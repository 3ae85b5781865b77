"""Advice about recipes, data, bases and templates, followed: the next message is another one, or there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from advised import PAIRS, Project, lines, same, ways_in
from test_advice import registered, site_of
from tiny import ROWS, make_base

from afina.errors import AfinaError, Problem

FLAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
"""A template without an end token."""
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = [{"prompt": f"O que é {n}?", "completion": f"<|end|> e {n}"} for n in range(20)]
WITH_SYSTEM = [
    {"messages": [{"role": "system", "content": "Breve."}, {"role": "user", "content": f"{n}?"},
                  {"role": "assistant", "content": f"É {n}."}]}
    for n in range(20)
]  # fmt: skip
JUDGED = [{"prompt": f"{n}?", "chosen": f"É {n}.", "rejected": "Não sei."} for n in range(20)]
RATED = [{"prompt": f"{n}?", "completion": f"É {n}.", "label": bool(n % 2)} for n in range(20)]
LONG = [*PAIRS, {"prompt": "Conta.", "completion": "um dois três " * 4}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's files: one special token, no template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2") / "base"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator([f"{question} {answer}" for question, answer in ROWS], trainer)
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **end)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, vocab_size=len(tokenizer))
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


ONLY = "only"
"""First of the steps: the advice is these alone, what it names belongs to one of them."""
CASES: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    # name: what is said, files, settings that cause it, steps that the advice names in words
    "a template that ends no answer": (
        "writes no end token", {"t.jinja": FLAT}, ["chat.template=t.jinja"], []),
    "a template that takes no system text": (
        "no place for a system text", {"rows.jsonl": lines(WITH_SYSTEM), "t.jinja": NO_SYSTEM},
        ["chat.template=t.jinja"], []),
    "marks in the text, refused": (
        "marks of the base inside the text", {"rows.jsonl": lines(MARKED)}, ["chat.marks_in_text=error"], []),
    "marks in the text, accepted and refused": (
        "is a mark of the base", {"rows.jsonl": lines(MARKED)},
        ["chat.marks_in_text=error", "dataset.accept=[chat_markers,special_token_in_text]"], []),
    "marks in most texts": (
        "special_token_in_text", {"rows.jsonl": lines(MARKED)}, ["dataset.accept=[chat_markers]"],
        ["dataset.accept=[chat_markers,special_token_in_text]"]),
    "a template that is not there": (
        "there is no template", {}, ["chat.template=gone.jinja"], ["chat.template=chatml"]),
    "no prompt": ("no prompt in", {"rows.jsonl": lines([*PAIRS, {"prompt": "", "completion": "Faro"}])}, [], []),
    "no answer": ("no answer in", {"rows.jsonl": lines([*PAIRS, {"prompt": "Onde?", "completion": ""}])}, [], []),
    "a duplicate": (
        "stand there again", {"rows.jsonl": lines([*PAIRS, PAIRS[0]])}, ["dataset.on_duplicate=error"], []),
    "answers that contradict each other": (
        "contradictory_answers", {"rows.jsonl": lines([*PAIRS, *({**row, "completion": "Não."} for row in PAIRS)])},
        [], []),
    "near duplicates": (
        "almost the same", {"a.md": "# A\n\n" + "um dois três quatro cinco seis sete oito " * 9,
                            "b.md": "# B\n\n" + "um dois três quatro cinco seis sete oito " * 9 + "nove."},
        ["dataset.near_duplicates.on=error"], []),
    "preferences for a method of answers": (
        "better and a worse answer", {"rows.jsonl": lines(JUDGED)}, [],
        ["train.method=dpo", "train.method=orpo",
         "sources.0.columns.prompt=prompt sources.0.columns.completion=chosen"]),
    "rated answers for a method of answers": (
        "whether their answer is a good one", {"rows.jsonl": lines(RATED)}, [],
        ["train.method=kto", "sources.0.columns.prompt=prompt sources.0.columns.completion=completion"]),
    "answers for a method of preferences": ("without `chosen`", {}, ["train.method=dpo"], []),
    "answers for a method of rated ones": ("without a `label`", {}, ["train.method=kto"], []),
    "a first stage without rows": (
        "has nothing to learn", {"rows.jsonl": lines(JUDGED)},
        ["train.method=dpo", "train.first={method: sft}"], ["train.first=null"]),
    "a share of replay, and no source of it": (
        "no source is marked", {"old.jsonl": lines(WITH_SYSTEM)},
        ["dataset.replay_share=0.2", "sources=[{path: rows.jsonl}, {path: old.jsonl}]"], []),
    "a share of replay, and nothing else": (
        "the only source is to be learned", {"old.jsonl": lines(WITH_SYSTEM)},
        ["dataset.replay_share=0.2", "sources=[{path: rows.jsonl, replay: true}]"],
        [ONLY, """sources=[{"path":"rows.jsonl"},{"path":"old.jsonl","replay":true}]""", "dataset.replay_share=null"]),
    "a share of replay, and nothing else in two": (
        "every source is marked", {"old.jsonl": lines(WITH_SYSTEM)},
        ["dataset.replay_share=0.2", "sources=[{path: rows.jsonl, replay: true}, {path: old.jsonl, replay: true}]"],
        ["sources.0.replay=false"]),
    "a source of replay that is held out whole": (
        "no example of a replay source", {"old.jsonl": lines(WITH_SYSTEM)},
        ["dataset.replay_share=0.2",
         "sources=[{path: rows.jsonl}, {path: old.jsonl, replay: true, validation: 1.0}]"],
        ["sources.1.validation=0.1"]),
    "all held out": ("all of them held out", {}, ["dataset.validation=1.0"], ["dataset.validation=0.1"]),
    "all of a source held out": (
        "all of them held out", {}, ["sources.0.validation=1.0"], ["sources.0.validation=0.1"]),
    "a conversation that is too long": (
        "longer than train.max_length (32 tokens)", {"rows.jsonl": lines(LONG)}, ["train.max_length=32"], []),
    "longer than the base sees": ("the base sees 64", {}, ["train.max_length=100"], []),
    "a finding that does not exist": (
        "no finding is called", {}, ["dataset.accept=[exact_duplicates]"], ["dataset.accept=[exact_duplicate]"]),
    "questions by an engine that makes none": (
        "cannot make questions", {"a.md": "# Ana\n\n**Nascimento:** Faro\n"},
        ["dataset.engine=datatrove", "dataset.questions.make=[facts]"], []),
    "targets that the base has not": (
        "has no linear layer", {}, ["adapter.targets=[q_prj]"], ["adapter.targets=[q_proj]"]),
    "an output that is the embedding": (
        "is one matrix with the embedding", {}, ["adapter.targets=[q_proj, lm_head]"],
        [ONLY, "adapter.targets=[q_proj]", "adapter.targets=[q_proj] adapter.modules_to_save=[lm_head]"]),
}  # fmt: skip


BAD_FILES: dict[str, bytes] = {
    "bad.pdf": b"%PDF-1.4 broken", "bad.docx": b"PK\x03\x04 broken", "bad.epub": b"PK\x03\x04 broken",
    "bad.txt": b"a\x00b", "bad.jsonl": b"{\"prompt\": \"a\"", "bad.json": b"{\"a\": 1}", "bad.csv": b"a,a\n1,2\n",
    "bad.html": b"<div>" * 5000, "bad.md": b"caf\xe9", "bad.parquet": b"PAR1", "bad.doc": b"\xd0\xcf\x11\xe0",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_can_be_left_out(name: str, base: Path, tmp_path: Path):
    """`exclude`, and each setting that the message names."""
    project = Project(tmp_path, base, (), {name: BAD_FILES[name]})
    problems = project.problems()
    if not problems:
        assert name in ("bad.doc",), "counted, and named by the audit"
        return
    problem = problems[0]
    assert name in problem.where and project.problems(f"sources.0.exclude=['{name}']") == []
    for way in ways_in(problem.fix):
        assert not any(same(problem, each) for each in project.problems(way)), way


def test_layers_are_named_as_the_base_names_them(gpt2: Path):
    """`embed_tokens` is told to nobody whose base calls it `wte`."""
    import torch

    from afina.model.load_torch import attach_adapter, load_base
    from afina.recipe import Adapter, Recipe, Source

    recipe = Recipe(name="x", base=str(gpt2), sources=[Source(path=".")])

    def attach(**settings: Any) -> None:
        attach_adapter(load_base(gpt2, recipe, torch.device("cpu")), Adapter(**settings), 0)

    with pytest.raises(AfinaError, match="no layer embed_tokens") as raised:
        attach(rank=2, modules_to_save=["embed_tokens"])
    assert "wte" in raised.value.problems[0].fix and "embed_tokens" not in raised.value.problems[0].fix
    attach(rank=2, modules_to_save=["wte"])
    with pytest.raises(AfinaError, match="fewer than the rank") as raised:
        attach(rank=64, variant="pissa")
    attach(rank=int(ways_in(raised.value.problems[0].fix)[0].partition("=")[2]), variant="pissa")


def found(problems: list[Problem], said: str) -> Problem:
    return next(each for each in problems if said in each.what)


@pytest.mark.parametrize("name", CASES)
def test_what_is_advised_makes_the_message_go_away(name: str, base: Path, tmp_path: Path):
    said, files, settings, steps = CASES[name]
    project = Project(tmp_path, base, tuple(settings), files)
    problem = found(project.problems(), said)
    ways = steps[1:] if steps[:1] == [ONLY] else [*ways_in(problem.fix), *steps]
    assert ways, f"nothing to do is told: {problem}"
    assert any("followed" in registered(each) for each in site_of(problem.fix)), f"not in the register: {problem}"
    for way in ways:
        left = project.problems(way)
        assert not any(same(problem, each) for each in left), f"{way}: still\n{problem}"
        assert not left or way not in steps, f"{way}: now {left}"


@pytest.mark.parametrize("which", ["base", "gpt2"])
def test_chatml_is_advised_only_where_it_helps(which: str, base: Path, gpt2: Path, tmp_path: Path):
    """A base whose tokenizer lacks ``<|im_end|>``, GPT-2 first: ChatML ends each answer with the base's own token."""
    from afina.recipe import Chat
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.load import load_tokenizer

    place = {"base": base, "gpt2": gpt2}[which]
    assert Project(tmp_path, place).problems("chat.template=chatml") == []
    tokenizer = load_tokenizer(str(place), Chat(template="chatml"))
    row = Renderer(tokenizer, Chat(template="chatml")).conversation(
        [{"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Faro"}]
    )
    assert row.ids[-1] == tokenizer.eos_token_id and row.mask[-1], "the model learns to stop"


def test_a_base_without_a_template_is_told_of_one_that_it_can_learn(gpt2: Path, tmp_path: Path):
    project = Project(tmp_path, gpt2)
    problem = found(project.problems(), "no chat template")
    assert ways_in(problem.fix) == ["chat.template=chatml"]
    assert project.problems("chat.template=chatml") == []


def test_who_has_set_chatml_is_never_told_to(base: Path, tmp_path: Path):
    """Whatever a conversation lacks."""
    from afina.recipe import Chat
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.load import load_tokenizer

    renderer = Renderer(load_tokenizer(str(base), Chat(template="chatml")), Chat(template="chatml"))
    with pytest.raises(AfinaError, match="role assistant") as raised:
        renderer.conversation([{"role": "user", "content": "Onde?"}])
    assert "chatml" not in str(raised.value)


def test_a_length_and_the_bases_own_do_not_send_each_other_round(base: Path, tmp_path: Path):
    """A conversation longer than the base sees: its length is refused by the base, which names the way out."""
    longer = [*PAIRS, {"prompt": "Conta.", "completion": "um dois três quatro " * 40}]
    project = Project(tmp_path, base, (), {"rows.jsonl": lines(longer)})
    first = found(project.problems(), "longer than")
    assert "dataset.on_too_long: drop" in first.fix and project.problems("dataset.on_too_long=drop") == []
    second = found(project.problems("train.max_length=1000"), "the base sees 64")
    assert project.problems(*ways_in(second.fix)[:1]) == []
