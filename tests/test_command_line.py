"""What ``--help`` shows at its end, and what the shell completes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from called import call_afina
from test_house import AFINA, parse_afina
from typer.main import get_command
from typer.testing import CliRunner

from afina.cli import app
from afina.cli.examples import EXAMPLES
from afina.cli.plan_options import check_options
from afina.cli.verb import TEXTS, shown_name
from afina.errors import RecipeError
from afina.recipe.keys import every_key

COMMANDS = [command for told in EXAMPLES.values() for _, command in told]


def every_verb() -> list[str]:
    """`run`, `data build`, ..."""
    verbs = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        verbs += [f"{name} {inner}" for inner in command.commands] if hasattr(command, "commands") else [name]
    return verbs


def test_every_verb_has_an_example_and_no_other_has() -> None:
    assert sorted(EXAMPLES) == sorted(every_verb())
    for verb, told in EXAMPLES.items():
        assert all(command.startswith(f"afina {verb}") for _, command in told)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_is_what_the_program_takes(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])[1:]
    called = parse_afina(words)
    if words[0] == "plan":
        check_options(called)
    keys = {key.path for key in every_key()}
    settings = [word.partition("=")[0] for word in words if re.fullmatch(r"[a-z_.]+=.*", word)]
    assert {name for name in settings if name not in ("other",)} <= keys
    assert "[" not in command, "rich would take it for a colour"


def test_the_help_of_a_verb_ends_with_its_examples() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    assert shown.rstrip().endswith("afina compare runs/my-docs runs/my-docs-2 --page compare.html")
    assert "Begin with" in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output


def test_no_verb_takes_an_empty_name() -> None:
    """`--runs "$RUNS"` where it is not set began a run in the folder that one stood in, `--out` wrote there."""
    asked = 0
    for verb in every_verb():
        command = get_command(app)
        for word in verb.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        for param in command.params:
            if param.metavar in TEXTS or getattr(param, "is_flag", False):
                continue
            words = ["x"] * arguments.index(param) if param in arguments else [max(param.opts, key=len)]
            with pytest.raises(RecipeError) as refused:
                command.make_context(verb, [*words, ""])
            (problem,) = refused.value.problems
            assert problem.where == shown_name(param) and problem.what == "its value is empty" and problem.fix
            asked += 1
    assert asked > 100
    assert "--runs: its value is empty" in call_afina("run", "recipe.yaml", "--runs", " ", check=2).stderr


# ---- the shell


def completed(line: str, shell: str, **variables: str) -> list[str]:
    """What a shell is given for a line whose last word is being written."""
    if shell == "bash":  # which takes `=` for the end of a word
        words = [word for word in re.split(r"\s+|(=)", line) if word is not None]
        words = [word for place, word in enumerate(words) if word or place == len(words) - 1]
        if words[-1] == "" and words[-2] == "=":
            words.pop()
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    asked |= {"_AFINA_COMPLETE": f"complete_{shell}", **variables}
    done = CliRunner().invoke(app, [], prog_name="afina", env=asked)
    assert done.exit_code == 0, done.output
    return [each for each in done.output.splitlines() if each]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recipes, one of them in a folder, and two folders of which one is a run."""
    for file in ("my-docs.yaml", "recipes/zig.yaml", "runs/my-docs/recipe.yaml", "runs/_answers/answers.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_recipes_runs_and_keys_are_completed(workplace: Path, shell: str) -> None:
    def offered(line: str) -> list[str]:
        """Without what each shell writes around a word."""
        lines = completed(line, shell)
        if shell == "zsh" and lines[0].startswith("_arguments"):
            lines = re.findall(r'^(?:_arguments .*\(\()?("(?:[^"]|"")*")', "\n".join(lines), re.MULTILINE)
        return [line.partition("\t")[0].strip('"') for line in lines]

    assert {"plan", "plot"} == set(offered("afina pl"))
    assert {"build", "audit", "show", "diff", "export"} == set(offered("afina data "))
    assert {"--anyway", "--json", "--runs"} < set(offered("afina run --"))
    assert offered("afina run ") == ["my-docs.yaml", "recipes/zig.yaml"]
    assert offered("afina plan s") == ["scratch", "scaling"]
    assert offered("afina chat ") == ["runs/my-docs"]
    assert offered("afina compare runs/") == ["runs/my-docs"]
    assert {"train.epochs=", "train.method="} < set(offered("afina run my-docs.yaml train."))
    assert offered("afina run my-docs.yaml train.epo") == ["train.epochs=", "train.epochs=3.0"]
    whole = "" if shell == "bash" else "train.method="
    assert f"{whole}sft" in offered("afina run my-docs.yaml train.method=")
    assert offered("afina run my-docs.yaml train.method=d") == [f"{whole}dpo"]
    assert offered("afina run my-docs.yaml seed=1 chat.end_texts=") == (
        ["true", "false"] if shell == "bash" else ["chat.end_texts=true", "chat.end_texts=false"]
    )


def test_nothing_is_offered_where_files_are_meant(workplace: Path) -> None:
    """Then the shell completes files by itself."""
    assert completed("afina data audit ", "bash") == []
    assert completed("afina run nowhere", "bash") == []
    assert completed("afina data audit ", "zsh") == ["_files"]


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/afina.sh"),
        ("zsh", ".zfunc/_afina"),
        ("fish", ".config/fish/completions/afina.fish"),
    ],
)
def test_the_script_of_a_shell_asks_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, file: str
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # then the shell is named
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = CliRunner().invoke(app, ["--show-completion", shell], prog_name="afina").output
    assert f"_AFINA_COMPLETE=complete_{shell}" in shown
    installed = CliRunner().invoke(app, ["--install-completion", shell], prog_name="afina").output
    assert f"{shell} completion installed" in installed
    assert (tmp_path / file).read_text().strip() == shown.strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself_completes(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script is sourced and its function called as bash does."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="afina").output
    asks = f'{script}\nCOMP_WORDS=(afina run my); COMP_CWORD=2; _afina_completion {AFINA}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", asks], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["my-docs.yaml"], done.stderr
