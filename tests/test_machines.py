"""What terminals, disks and environments do to the command line: odd encodings, folders that cannot be written, what
other programs left in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from called import call_afina
from exported import make_run
from forked import Forked

from afina.temporary import held_folder
from afina.text.example import Example

NOBODY = 65534
SAID = "Golo de Zé 😀 em Olhão"


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    """A trained run that nobody but its owner may write, in a folder that everybody may enter."""
    with held_folder("machines") as folder:  # not below pytest's, which nobody else may enter
        made = make_run(folder / "runs/small", steps=4)
        turns = ({"role": "user", "content": "Quem?"}, {"role": "assistant", "content": SAID})
        row = Example(messages=turns, path="a.jsonl", line=1).as_json()
        (made / "dataset/train.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        for words in (["chat", str(made), "--ask", "Quem?"], ["data", "show", str(made), "--tokens"]):
            call_afina(*words)  # what is loaded here, no fork has to load, nor be allowed to
        write_recipe(folder, folder / "runs/base")
        folder.parent.chmod(0o755)
        for place in (folder, *folder.rglob("*")):
            place.chmod(0o555 if place.is_dir() else 0o444)
        yield made
        for place in (folder, *folder.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)


def write_recipe(folder: Path, base: Path) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "a?", "completion": "b"}\n', encoding="utf-8")
    text = f"name: small\nbase: {base}\nsources: [{{path: rows.jsonl}}]\ntrain: {{max_length: 64}}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")


def afina(*words: object, folder: Path, user: int | None = None, **environment: str | None):
    """`afina WORDS...`, by another user where the tests are run by root, whom no mode stops."""
    values: Mapping[str, str | None] = {**os.environ, **environment}
    user = user if os.geteuid() == 0 else None
    given = {name: value for name, value in values.items() if value is not None}
    return Forked([str(word) for word in words], folder, given, user=user).done()


def named(ended: subprocess.CompletedProcess[str], code: int, what: str) -> None:
    assert ended.returncode == code and "Traceback" not in ended.stderr, ended.stderr
    assert what in ended.stderr and "->" in ended.stderr, ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize(
    "words", ["data show RUN", "data show RUN --tokens", "compare RUN RUN", "--help", "run --help"]
)
def test_what_the_terminal_has_no_character_for_is_escaped(run: Path, tmp_path: Path, encoding: str, words: str):
    ended = afina(*words.replace("RUN", str(run)).split(), folder=tmp_path, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    if words == "data show RUN":
        assert "\\U0001f600" in ended.stdout


@pytest.mark.parametrize(
    "words",
    ["chat RUN --ask Quem? --max-new-tokens 2", "data show RUN --tokens", "compare RUN RUN", "serve RUN --dry-run"],
)
def test_verbs_that_write_nothing_work_on_a_folder_that_cannot_be_written(run: Path, words: str):
    ended = afina(*words.replace("RUN", str(run)).split(), folder=Path("/"), user=NOBODY)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr


@pytest.mark.parametrize("words", ["report RUN", "run recipe.yaml --yes --runs RUN/.."])
def test_verbs_that_write_say_which_folder_cannot_be_written(run: Path, words: str):
    named(afina(*words.replace("RUN", str(run)).split(), folder=run.parents[1], user=NOBODY), 2, "runs/small")


def test_runs_that_name_a_file_are_refused(run: Path, tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    write_recipe(tmp_path, run.parent / "base")
    named(afina("run", "recipe.yaml", "--runs", "runs", folder=tmp_path), 2, "runs")
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.parametrize("left", ["x", "0", "-1", "2.5"])
def test_a_world_size_that_is_not_a_whole_number_is_named(tmp_path: Path, left: str):
    named(afina("run", "recipe.yaml", folder=tmp_path, WORLD_SIZE=left), 2, "WORLD_SIZE")


@pytest.mark.parametrize(
    ("left", "named_as"),
    [
        ({"RANK": "", "LOCAL_RANK": ""}, "RANK, LOCAL_RANK is not set"),
        ({"RANK": "x"}, "RANK is 'x'"),
        ({"RANK": "2"}, "RANK is 2, of 2"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
        ({"MASTER_PORT": "tcp"}, "MASTER_PORT is 'tcp'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE is ''"),
    ],
)
def test_what_is_left_of_a_start_of_several_processes_is_named(tmp_path: Path, left: dict[str, str], named_as: str):
    """A queue's script sets them empty, or some of them."""
    whole = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29999"}
    named(afina("run", "recipe.yaml", folder=tmp_path, **(whole | left)), 2, named_as)


def test_an_empty_world_size_is_none(tmp_path: Path):
    named(afina("run", "recipe.yaml", folder=tmp_path, WORLD_SIZE=""), 2, "recipe.yaml")


@pytest.mark.parametrize(
    "left", [{"HOME": None}, {"HOME": "/nonexistent"}, {"TMPDIR": "/nonexistent"}, {"COLUMNS": "0"}]
)
@pytest.mark.parametrize("words", ["--help", "chat RUN --ask Quem? --max-new-tokens 2", "doctor"])
def test_an_environment_without_home_temporary_folder_or_columns_is_enough(run: Path, left: dict, words: str):
    ended = afina(*words.replace("RUN", str(run)).split(), folder=Path("/"), user=12345, **left)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr


def test_a_reader_that_leaves_ends_it_quietly(run: Path):
    """`afina recipe schema | head -1`: the pipe breaks; with little to say only at the very end."""
    for given in (["recipe", "schema"], ["--version"]):
        reads, writes = os.pipe()
        os.close(reads)
        ended = subprocess.run(
            [sys.executable, "-m", "afina", *given], stdout=writes, stderr=subprocess.PIPE, check=False
        )
        os.close(writes)
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_value_for_machines_is_json_in_every_encoding(run: Path, tmp_path: Path, encoding: str):
    """Escapes of the terminal's kind (``\\xe9``, ``\\U0001f600``) are none of JSON's."""
    ended = afina("data", "show", run, "--json", folder=tmp_path, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0 and SAID in json.dumps(json.loads(ended.stdout), ensure_ascii=False)
    refused = afina("chat", "ação-😀", "--ask", "x", "--json", folder=tmp_path, PYTHONIOENCODING=encoding)
    assert "ação-😀" in json.loads(refused.stdout)["problems"][0]["what"]


def test_a_value_for_machines_is_one_where_the_job_is_refused(run: Path, tmp_path: Path):
    """The error stood behind it, so that nobody could parse either."""
    write_recipe(tmp_path, run.parent / "base")
    words = ["plan", "recipe.yaml", "--device", "T4", "budget.hours=0.0000001", "--json"]
    ended = afina(*words, folder=tmp_path)
    values = json.loads(ended.stdout)
    assert ended.returncode == 4 and values["device"]["name"] == "T4" and "DoesNotFit" in ended.stderr
    assert values["refused"]["error"] == "DoesNotFit" and values["refused"]["problems"][0]["where"] == "budget.hours"
    allowed = afina(*words, "budget.anyway=true", folder=tmp_path)
    assert allowed.returncode == 0 and "refused" not in json.loads(allowed.stdout)


def test_a_home_behind_an_equals_sign_is_the_home(run: Path, tmp_path: Path):
    """bash writes out `--runs ~/runs` and leaves `--runs=~/runs` alone: a folder called ~ was made."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    write_recipe(home / "work", run.parent / "base")
    ended = afina("data", "build", "recipe.yaml", "--runs=~/my runs", folder=home / "work", HOME=str(home))
    assert ended.returncode == 0, ended.stderr
    assert (home / "my runs/small/dataset").is_dir() and not (home / "work/~").exists()


def test_a_working_folder_that_was_removed_is_named(tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m afina doctor"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    named(ended, 2, "the folder that this was started in is there no more")


def test_work_goes_on_where_nobody_reads_its_remarks(run: Path, tmp_path: Path):
    """`afina run ... 2>&1 | head`: it ended at its next remark, with 0."""
    write_recipe(tmp_path, run.parent / "base")
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", "afina", "data", "build", "recipe.yaml", "--runs", "runs"]
    ended = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=writes, check=False)
    assert ended.returncode == 0 and b"examples" in ended.stdout
    unread = subprocess.run(
        [sys.executable, "-m", "afina", "plan", "recipe.yaml", "--device", "T4", "budget.hours=0.0000001"],
        cwd=tmp_path, stdout=writes, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writes)
    assert unread.returncode == 4 and b"DoesNotFit" in unread.stderr, "what it is told does not change how it ends"


def test_closed_streams_are_no_error():
    ended = subprocess.run(f"{sys.executable} -m afina recipe schema >&- 2>&- <&-", shell=True, check=False)
    assert ended.returncode == 0
