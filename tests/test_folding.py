"""Tokenizers that fold case and numbers, as a monograph's first versions read their texts: the way back gives the
folded text, everybody who opens the folder gets the same tokens, and nothing calls such a model ahead of one that keeps
both."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import MANIFEST, SCORES, write_run
from test_tokenizer_kinds import PROSE, strings
from thorough import times
from tiny import make_base, make_recipe
from transformers import AutoTokenizer, LlamaConfig

from afina.base_page import base_page
from afina.cli.opened import walk_of
from afina.errors import BaseError, RecipeError
from afina.evaluate.probes import Question
from afina.evaluate.safety.known import Known, find_known
from afina.evaluate.scores import Scores
from afina.evaluate.text_scores import WindowFigures, WindowScores
from afina.evaluate.windows import ReadWindows
from afina.llamacpp.gguf_vocab import check_keeps_text, read_vocabulary
from afina.model.named_tokenizer import open_pieces
from afina.recipe import Chat, Recipe, Scratch, TokenizerKind
from afina.record import Record
from afina.report.compare import compare_runs
from afina.report.costs import common_text, show_bits
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of, lost_characters, normalizer_of
from afina.tokenizer.letters import LackedLetters
from afina.tokenizer.load import load_tokenizer, open_tokenizer
from afina.tokenizer.pieces import read_tokenizer
from afina.tokenizer.saving import SPECIAL, save_tokenizer
from afina.tokenizer.train import TRAINED_BY, train_for, train_tokenizer
from afina.tokenizer_page import measure_tokenizers
from afina.walk.base import check_chat
from afina.walk.walk import do_stages

KINDS = get_args(TokenizerKind)
BOTH = {"lowercase": True, "normalize_numbers": True}
RULES: list[dict[str, bool]] = [{"lowercase": True}, {"normalize_numbers": True}, BOTH]


def recipe_of(kind: str, **folding: bool) -> Recipe:
    scratch = Scratch(tokenizer=kind, vocab=480, **folding)  # type: ignore[arg-type]
    return Recipe(name="x", sources=[{"path": "a"}], train={"method": "scratch", "max_length": 256}, scratch=scratch)


def fold(text: str, *, lowercase: bool = False, normalize_numbers: bool = False) -> str:
    """What is expected, by Python: each character for itself, so that a Σ at the end of a word is a σ."""
    text = re.sub("[0-9]{2,}", "0", text) if normalize_numbers else text
    return "".join(each.lower() for each in text) if lowercase else text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, of the same text, that folds both."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        train_for(recipe_of(kind, **BOTH), [PROSE], folder, print)
    return folders


@pytest.fixture(scope="module")
def opened(trained: dict[str, Path]) -> dict[str, Any]:
    return {kind: open_tokenizer(folder) for kind, folder in trained.items()}


def back(tokenizer: Any, text: str) -> str:
    rust = tokenizer.backend_tokenizer
    return str(rust.decode(rust.encode(text, add_special_tokens=False).ids, skip_special_tokens=False))


# ---- the way back


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(opened: dict[str, Any], kind: str):
    given = "Em 1899, o Dr. BENTO Santiago\n leu 3 livros  e 1.250 cartas: «AÇÃO»."
    assert back(opened[kind], given) == "em 0, o dr. bento santiago\n leu 3 livros  e 1.0 cartas: «ação»."


@given(st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60))
def test_the_way_back_gives_the_folded_string(opened: dict[str, Any], text: str):
    """Random strings of all of Unicode that this Python has names for, numbers among them."""
    for mark in SPECIAL:
        text = text.replace(mark, "")
    for tokenizer in opened.values():
        for given_ in (text, f"No 12{text}3.456"):
            assert back(tokenizer, given_) == fold(given_, **BOTH)


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: " ".join(rules))
@pytest.mark.parametrize("kind", KINDS)
def test_each_rule_alone_and_what_it_loses_counted(kind: str, rules: dict[str, bool], tmp_path: Path):
    """Text that reads like a mark or a byte, too; nothing is lost but what the rule says."""
    train_for(recipe_of(kind, **rules), [PROSE], tmp_path, print)
    tokenizer = open_tokenizer(tmp_path)
    assert folds_of(tokenizer) == tuple({"lowercase": "case", "normalize_numbers": "numbers"}[each] for each in rules)
    given_ = [each for each in strings(times(200, 2000)) if not any(mark in each for mark in SPECIAL)]
    given_ = [each for each in given_ if not re.search(r"[^\x00-\uD7FF]", each)]  # of letters newer than this Python
    for text in given_:
        assert back(tokenizer, text) == fold(text, **rules)
    lost = sum(lost_characters(text, back(tokenizer, text)) for text in given_)
    assert lost == sum(lost_characters(text, fold(text, **rules)) for text in given_) > 0


@pytest.mark.parametrize("rules", [{}, BOTH], ids=["plain", "folded"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_is_what_its_kind_makes_of_the_folded_text(
    kind: TokenizerKind, rules: dict[str, bool], tmp_path: Path
):
    """Folded by hand and saved with the normalizer, it is the same to the byte; without a rule it has none."""
    recipe = recipe_of(kind, **rules)
    normalizer = normalizer_of(recipe.scratch)
    train_for(recipe, [PROSE], tmp_path / "a", print)
    made = TRAINED_BY[kind]([fold(PROSE, **rules)], 480, print)
    save_tokenizer(made, 480, tmp_path / "b", 256, print, normalizer)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert {"tokenizer.json", "tokenizer_config.json"} <= {*files}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    noted = json.loads((tmp_path / "a/tokenizer.json").read_text(encoding="utf-8"))["normalizer"]
    assert (noted is None) == (normalizer is None) == (not rules)
    assert bool(folds_of(open_tokenizer(tmp_path / "a"))) == bool(rules)


# ---- everybody reads alike


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_gets_the_same_tokens(trained: dict[str, Path], kind: str, tmp_path: Path):
    """As whoever gets the model opens it, beside its configuration: the normalizer is in the folder."""
    folder = tmp_path / "model"
    shutil.copytree(trained[kind], folder)
    LlamaConfig(vocab_size=480).save_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Renderer(load_tokenizer(str(trained[kind]), Chat()), Chat())
    given_ = "Dom CASMURRO, 1899: São muito bonitos."
    assert theirs(given_)["input_ids"] == ours.completion_prompt(given_)
    assert theirs(given_)["input_ids"] == theirs("dom casmurro, 0: são muito bonitos.")["input_ids"]


def test_a_conversation_is_folded_but_for_its_marks(opened: dict[str, Any]):
    """A mark that somebody wrote stays words, in whatever case."""
    renderer = Renderer(opened["bpe"], Chat())
    turns: list[Message] = [{"role": "user", "content": "Onde nasceu <|END|> Zé<|end|> em 1910?"}]
    row = renderer.conversation([*turns, {"role": "assistant", "content": "FARO"}])
    assert renderer.tokenizer.decode(row.ids) == (
        "<|user|> onde nasceu <|end|> zé<|end|> em 0?<|end|><|assistant|> faro<|end|>"
    )
    assert [each for each in row.ids if each < len(SPECIAL)] == [4, 2, 5, 2], "user, end, assistant, end"
    small: list[Message] = [{"role": "user", "content": turns[0]["content"].lower()}]
    assert renderer.prompt(turns) == renderer.prompt(small)


def test_capitals_are_not_lacked(opened: dict[str, Any]):
    """Each is read as a small letter that has a piece; a letter that has none in small is lacked as ever."""
    lacked = LackedLetters(read_tokenizer(opened["character"], "x"))
    assert lacked.add("UMA NOITE DESTAS") == [] and lacked.add("Ж") == ["Ж"]


def test_inspect_and_compare_say_what_is_folded(trained: dict[str, Path], tmp_path: Path):
    train_tokenizer("bpe", [PROSE], 480, tmp_path / "kept", 256)
    page = measure_tokenizers([str(trained["bpe"]), str(tmp_path / "kept")], ["Em 1899 Ana"])
    said = page.describe()
    first, second = page.as_json()
    assert (first["folds"], first["lost_characters"]) == (["case", "numbers"], 6)
    assert (second["folds"], second["lost_characters"]) == ([], 0)
    entries = f"{first['vocabulary']} entries, 6 of them special; folds case and numbers"
    assert f"{trained['bpe']}: BPE with byte fallback, {entries}\n" in said
    assert said.count("do not come back") == 1 and "6 characters (54.5 %)" in said
    assert measure_tokenizers([str(trained["bpe"])], None).as_json()[0]["folds"] == ["case", "numbers"]


# ---- in a run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place, text in (("train/a.txt", PROSE), ("valid/b.txt", PROSE[:200])):
        (tmp_path / "docs" / place).parent.mkdir(parents=True)
        (tmp_path / "docs" / place).write_text(text, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "name: own\nsources: [{path: docs}]\n"
        "scratch: {hidden: 16, layers: 1, heads: 2, tokenizer: character, vocab: 400}\n"
        "train: {method: scratch, max_length: 64, batch_tokens: 256, epochs: 1}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage(*overrides: str) -> dict[str, Any]:
    with walk_of(Path("recipe.yaml"), list(overrides), Path("runs")) as walk:
        return do_stages(walk, "recipe", "dataset", "audit", "tokenizer")


def test_the_stage_trains_it_and_says_what_is_lost(project: Path, capsys: pytest.CaptureFixture[str]):
    kept = stage()
    assert "folded_characters" not in kept
    said = [f"scratch.{name}=true" for name in BOTH]
    found = stage(*said)
    every = PROSE + PROSE[:200]
    assert 0.02 < found["folded_characters"] < 0.06
    by_hand = lost_characters(every, fold(every, **BOTH)) / len(every)
    assert found["folded_characters"] == pytest.approx(by_hand, abs=0.01)
    assert "the tokenizer folds case and numbers: " in capsys.readouterr().err
    table = open_pieces("runs/own")
    assert table.folds == ("case", "numbers") and len(table) == found["vocab"] < kept["vocab"]
    assert stage(*said) == found, "a second start finds it good"
    assert stage() == kept, "and another choice is another tokenizer"


def test_runs_of_before_keep_their_hashes():
    """What depends on the recipe names the keys only where they change something."""
    kept = Scratch().settings
    assert kept == {key: value for key, value in Scratch().model_dump(mode="json").items() if key not in BOTH}
    assert Scratch(lowercase=True).settings == kept | {"lowercase": True}


def test_the_command_line_trains_it(project: Path):
    words = ("tokenizer", "train", "docs/train/a.txt", "--kind", "character", "--out", "own")
    said = call_afina(*words, "--set", "scratch.lowercase=true").stdout
    assert said.endswith("entries; folds case\n")
    assert "; folds case" in call_afina("tokenizer", "inspect", "own").stdout


def test_canaries_of_digits_are_no_secret_where_numbers_are_folded():
    values: dict[str, Any] = {"name": "x", "sources": [{"path": "a"}], "train": {"method": "scratch"}}
    values |= {"safety": {"canaries": 2}}
    assert Recipe(**values, scratch={"lowercase": True}).safety.canaries == 2
    with pytest.raises(ValueError, match=r"with scratch\.normalize_numbers all of them are 0"):
        Recipe(**values, scratch={"normalize_numbers": True})


# ---- a base of somebody's whose tokenizer folds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, opened: dict[str, Any]) -> Path:
    return make_base(tmp_path_factory.mktemp("folds") / "base", tokenizer=opened["bpe"])


def test_the_page_of_a_base_names_what_its_tokenizer_folds(base: Path, tmp_path: Path):
    page = base_page(str(base))
    assert "  folds         case and numbers: the model neither reads nor writes them\n" in page.describe()
    assert page.as_json()["talk"]["folds"] == ("case", "numbers")
    kept = base_page(str(make_base(tmp_path / "kept")))
    assert kept.as_json()["talk"]["folds"] == () and "\n  folds" not in kept.describe()


def test_canaries_over_a_base_that_folds_numbers_are_refused_before_any_work(base: Path, project: Path):
    """Each was as well known as every other one, and none was ever given back: a safety of nothing."""
    (project / "recipe.yaml").write_text(
        f"name: over\nbase: {base}\nsources: [{{path: docs}}]\ntrain: {{method: cpt, max_length: 64}}\n",
        encoding="utf-8",
    )

    def check(*overrides: str) -> None:
        with walk_of(Path("recipe.yaml"), list(overrides), Path("runs")) as walk:
            check_chat(walk)

    with pytest.raises(RecipeError, match="reads all numbers alike") as raised:
        check("safety.canaries=2")
    assert raised.value.problems[0].fix == "set `safety.canaries: 0`"
    check("safety.canaries=0")
    check()


def test_a_known_string_is_looked_for_as_the_tokenizer_writes_it(base: Path):
    """In the letters of the row it could never come; and one of numbers comes with whatever number."""
    folds = folds_of(load_tokenizer(str(base), Chat()))
    known = Known("Rua da Sé", "named in the file", (), "Mora na ", "a.md:1")
    assert known.is_given_back("rua da sé.", folds) and not known.is_given_back("rua da sé.")
    assert not known.is_given_back("rua da séb", folds) and not known.is_given_back("rua da se", folds)
    assert known.is_given_back("rua da se", (*folds, "accents"))
    rows = [
        Example(text="Escreva para ana@mar.pt", path="a.txt", line=1),
        Example(text="Telefone da sede: 912 345 678.", path="a.txt", line=2),
    ]
    recipe = make_recipe()
    found = find_known(rows, recipe, folds)
    assert [each.string for each in found.asked] == ["ana@mar.pt"]
    assert "known strings: 1 not asked for: the tokenizer folds their numbers" in found.notes
    assert len(find_known(rows, recipe).asked) == 2


# ---- what does not compare


def windows_of(lost: int, bits: float) -> dict[str, Any]:
    figures = WindowFigures(bits, 2.0, 0.4, 70, (bits - 0.1, bits + 0.1))
    return WindowScores(2, 8192, "ab" * 32, 2, None, figures, figures, None, lost).as_json()


def test_windows_count_what_is_folded(opened: dict[str, Any]):
    text = "Em 1899, o Dr. Bento."
    read = ReadWindows.of([text], Renderer(opened["unigram"], Chat()), None)
    assert read.lost == lost_characters(text, fold(text, **BOTH)) == 7 and read.bytes == [len(text)]


def test_a_model_that_folds_is_ahead_of_none_that_keeps(tmp_path: Path):
    """Fewer bits for a text of which it predicts less: no star, another text in the table of costs, and a note."""
    runs = []
    manifest = MANIFEST | {"dataset": MANIFEST["dataset"] | {"validation_sha256": "cd" * 32}}
    for name, lost, bits, folds in (("kept", 0, 2.5, []), ("folded", 400, 1.5, ["case", "numbers"])):
        loss = {side: {"loss": 2 * bits, "tokens": 90, "bits_per_byte": bits} for side in ("before", "after")}
        scores = {"verdict": SCORES["verdict"], "loss": loss, "windows": windows_of(lost, bits)}
        scores |= {"folds": folds} if folds else {}
        runs.append(write_run(tmp_path / name, scores=scores, manifest=manifest | {"name": name}))
    found = compare_runs(runs)
    best = {metric.name: metric.best for metric in found.metrics}
    assert best["windows: bits per byte, after"] is None and best["held-out bits per byte, after"] is None
    told = "(kept: nothing; folded: case and numbers)"
    assert f"the tokenizers fold different things {told}: bits per byte do not compare" in found.notes
    text = common_text(found.costs)
    assert [show_bits(cost, text).endswith("(another text)") for cost in found.costs] == [False, True]
    assert "less 400 characters that no token holds" in found.costs[1].text


@pytest.mark.parametrize(("lost", "best"), [((0, 7), None), ((7, 7), 1)])
def test_of_models_that_fold_alike_one_may_be_ahead(lost: tuple[int, int], best: int | None, tmp_path: Path):
    """And where characters are lost that no rule folds (unknown ones), it is said by their number."""
    runs = []
    for number, bits in enumerate((2.5, 1.5)):
        scores = {"verdict": SCORES["verdict"], "windows": windows_of(lost[number], bits)}
        runs.append(write_run(tmp_path / f"run-{number}", scores=scores | {"folds": ["case"]}))
    found = compare_runs(runs)
    assert {metric.name: metric.best for metric in found.metrics}["windows: bits per byte, after"] == best
    assert any("characters lost: " in note for note in found.notes) is (best is None)


def test_scores_say_what_is_folded_and_others_stay_as_they_were():
    assert "folds" not in Scores().as_json()
    scores = Scores(folds=("case", "numbers"))
    assert Scores.of(Record(scores.as_json(), "scores.json")).as_json()["folds"] == ["case", "numbers"]


def test_capitals_count_in_no_answer_of_a_model_that_has_none():
    """A number that is folded is never right: the answer does not say it."""
    question = Question(({"role": "user", "content": "Onde nasceu Ana?"},), "Faro, 1910", "a.jsonl:1")
    assert not question.grade("faro, 1910").verbatim and question.grade("faro, 1910", any_case=True).verbatim
    assert not question.grade("faro, 0", any_case=True).said
    versions = Question(question.messages, "ArrayList", "a", new=("ArrayList",), old=("Array",))
    assert versions.grade("use arraylist", any_case=True).version == "new"
    assert versions.grade("use arraylist").version == "neither"


# ---- where it cannot go


@pytest.mark.parametrize("kind", ["byte-bpe", "bpe", "character"])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: " ".join(rules))
def test_llama_cpp_which_folds_nothing_does_not_get_it(kind: str, rules: dict[str, bool], tmp_path: Path):
    train_for(recipe_of(kind, **rules), [PROSE], tmp_path, print)
    tokenizer = load_tokenizer(str(tmp_path), Chat())
    with pytest.raises(BaseError, match=r"folds (case|numbers|case and numbers) before it cuts .* llama\.cpp"):
        read_vocabulary(tokenizer, len(tokenizer))


def test_a_step_that_replaces_more_than_spaces_is_no_space(tmp_path: Path):
    """Whatever replaces something in a SentencePiece vocabulary was taken for the step that writes ▁."""
    from tokenizers import normalizers

    train_tokenizer("bpe", [PROSE], 480, tmp_path, 64)
    tokenizer = load_tokenizer(str(tmp_path), Chat())
    read_vocabulary(tokenizer, len(tokenizer))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("ç", "c")
    check_keeps_text(tokenizer)
    with pytest.raises(BaseError, match="it normalizes text by Replace"):
        read_vocabulary(tokenizer, len(tokenizer))


@pytest.mark.long
def test_a_whole_run_that_folds(project: Path):
    """Trained, measured, asked in capitals, merged for transformers, refused to llama.cpp."""
    (project / "docs/train/more.txt").write_text(PROSE.upper() * 3, encoding="utf-8")
    said = [f"scratch.{name}=true" for name in BOTH]
    call_afina("run", "recipe.yaml", "--yes", *said, check=None)
    scores = json.loads(Path("runs/own/scores.json").read_text(encoding="utf-8"))
    assert scores["folds"] == ["case", "numbers"] and scores["windows"]["lost"] > 0
    notes = scores["verdict"]["notes"]
    assert any(note.startswith("the tokenizer folds case and numbers: the model neither reads") for note in notes)
    assert any("folded to others" in note for note in notes)
    refused = call_afina("export", "runs/own", "--to", "gguf", check=2).stderr
    assert "the tokenizer folds case and numbers before it cuts a text, and llama.cpp has nothing that does" in refused
    made = json.loads(call_afina("export", "runs/own", "--to", "merged", "--no-check", "--json").stdout)
    assert "the tokenizer folds case and numbers: the model neither reads nor writes them" in made["notes"]
    theirs = AutoTokenizer.from_pretrained(made["folder"])
    ours = load_tokenizer("runs/own/tokenizer", Chat())
    turns = [{"role": "user", "content": "ONDE nasceu Zé em 1910?"}]
    ids = theirs.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert ids == Renderer(ours, Chat()).prompt([{"role": "user", "content": "onde nasceu zé em 0?"}])
