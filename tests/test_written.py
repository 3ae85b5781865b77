"""How texts are written, of files and of runs: the monograph's published figures, and words that no corpus has."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import HOSTILE, SCORES, write_run
from tiny import make_base, make_recipe, make_tokenizer

from afina.errors import DataError, RecipeError
from afina.evaluate import continuations
from afina.evaluate.continuations import continue_prompts
from afina.evaluate.corpus_words import CorpusWords, read_corpus
from afina.evaluate.prompts import CONTINUATIONS_FILE, read_prompts
from afina.evaluate.sample_files import read_samples, without_echo
from afina.evaluate.sample_report import measure_samples
from afina.evaluate.scores import read_scores
from afina.evaluate.text_scores import ContinuationScores
from afina.evaluate.written import TextJudge, WrittenText, figures_of
from afina.model.load_torch import load_base
from afina.recipe import PROMPT_SEEDS, Chat, Guardrails
from afina.record import Record
from afina.report.compare import compare_runs
from afina.report.page import write_report
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.pieces import PieceTable, read_sentencepiece, read_tokenizer
from afina.tokenizer.ratios import count_pieces
from afina.walk.describe import describe_scores

SHARED = Path(__file__).parents[2] / "shared/data/ptbr"
MONOGRAPH = SHARED / "monograph"
published = pytest.mark.skipif(not MONOGRAPH.is_dir(), reason="the monograph's tokenizers and samples are not here")
V5B, V6 = "samples_v5b_long_final.json", "samples_v6_aligned.json"


@cache
def table_of(tokenizer: str) -> PieceTable:
    return read_sentencepiece(MONOGRAPH / f"tokenizers/spm_{tokenizer}.model")


def measured(samples: str, tokenizer: str, *, keep_prompts: bool = False):
    return measure_samples([MONOGRAPH / "samples" / samples], table_of(tokenizer), keep_prompts=keep_prompts)


@published
@pytest.mark.parametrize(
    ("samples", "tokenizer", "keep_prompts", "tokens", "short", "echoed"),
    [
        (V5B, "v5b_40k", True, 801, 0.0499, 5),
        (V5B, "v5b_12k", True, 1018, 0.173, 5),
        (V6, "v6_16k", True, 1149, 0.1549, 0),
        (V6, "v5b_40k", True, 871, 0.034, 0),
        (V5B, "v5b_40k", False, 597, 0.034, 5),
        (V5B, "v5b_12k", False, 728, 0.150, 5),
        (V6, "v6_16k", False, 1149, 0.1549, 0),
    ],
)
def test_the_monographs_guardrails(samples, tokenizer, keep_prompts, tokens, short, echoed):
    (found,) = measured(samples, tokenizer, keep_prompts=keep_prompts).sets
    assert found.figures.tokens == tokens and found.figures.short_ratio == pytest.approx(short, abs=5e-4)
    assert found.figures.fallback == 0 and found.echoed == echoed
    assert found.figures.above == (["short_ratio"] if short > 0.12 else [])


@published
@pytest.mark.parametrize(
    ("report", "samples", "tokenizer"), [("v6_aligned", V6, "v6_16k"), ("v5b_long_final", V5B, "v5b_40k")]
)
def test_every_sample_of_the_monographs_reports(report, samples, tokenizer):
    wanted = json.loads((MONOGRAPH / f"guardrails/guardrails_{report}.json").read_text(encoding="utf-8"))["per_sample"]
    found = measured(samples, tokenizer, keep_prompts=True).as_json()["sets"][0]["per_sample"]
    names = {"token_count": "tokens", "char_count": "characters", "fallback_tokens": "fallback"}
    names |= {"short_alpha_tokens": "short", "short_alpha_ratio": "short_ratio", "fallback_ratio": "fallback_ratio"}
    assert [[row[name] for name in names.values()] for row in found] == [
        [row[name] for name in names] for row in wanted
    ]


@published
def test_reports_of_two_tokenizers_are_not_put_side_by_side(tmp_path):
    reports = sorted((MONOGRAPH / "guardrails").glob("*.json"))
    assert measure_samples(reports[:1], None).sets[0].figures.short == 40
    with pytest.raises(RecipeError, match=r"different tokenizers .* would rank the vocabularies"):
        measure_samples(reports, None)
    one, two = (tmp_path / name for name in ("one.json", "two.json"))
    one.write_text(json.dumps(measured(V5B, "v5b_40k").as_json()), encoding="utf-8")
    two.write_text(json.dumps(measured(V6, "v5b_12k").as_json()), encoding="utf-8")
    with pytest.raises(RecipeError, match="different tokenizers"):
        measure_samples([one, two], None)
    two.write_text(json.dumps(measured(V6, "v5b_40k").as_json()), encoding="utf-8")
    found = measure_samples([one, two], None)
    assert [round(each.figures.short_ratio or 0, 3) for each in found.sets] == [0.034, 0.034], "one ruler for both"
    one.write_text(json.dumps(measured(V5B, "v5b_40k", keep_prompts=True).as_json()), encoding="utf-8")
    with pytest.raises(RecipeError, match="prompts left in"):
        measure_samples([one, two], None)


@published
def test_every_form_in_which_the_monograph_kept_its_samples():
    sets = [each for name in ("samples_v1_v4.json", "samples_v5_main.json", V5B, V6)
            for each in read_samples(MONOGRAPH / "samples" / name)]  # fmt: skip
    assert [each.name.split("_")[0] for each in sets] == ["v1", "v2", "v3", "v4", "v4", "v5", "samples", "v6"]
    assert all(len(each.texts) == 5 for each in sets)
    assert [sum(text.mended for text in each.texts) for each in sets] == [5, 5, 5, 5, 5, 0, 0, 0]
    assert "a matéria e as empresas" in sets[0].texts[0].output, "kept as UTF-8 read as Windows-1252"


@published
@pytest.mark.long
def test_which_of_two_texts_has_more_broken_words():
    """Words do not follow the vocabulary: v6 has more that Machado and Canarim have nowhere, not beyond chance."""
    corpus = read_corpus([SHARED / "machado", SHARED / "canarim/train.jsonl"])
    files = [MONOGRAPH / "samples" / name for name in (V5B, V6, "samples_v5_main.json")]
    found = measure_samples(files, table_of("v5b_40k"), corpus)
    v5b, v6, v5 = (each.figures.broken.share for each in found.sets)
    control = corpus.figures().control
    assert control == pytest.approx(0.02, abs=0.003)
    assert 0.015 < v5b < 0.03 < v6 < 0.06 < 0.5 < v5
    (_, _, more, low, high), (_, _, _, least, _) = found.differences
    assert more == v6 - v5b and low < 0 < high and least > 0.3, "five prompts tell shreds from words, and no more"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"prompt": "Onde?", "output": "Faro"}\n', ["Faro"]),
        ('{"prompt": "Onde?", "output": "Faro"}\n\n{"output": "a\\u2028b", "stopped": false}\n', ["Faro", "a\u2028b"]),
        ('[{"output": "Faro"}, {"output": ""}]', ["Faro", ""]),
        ('{"v1": [{"output": "Faro", "seed": 3}]}', ["Faro"]),
    ],
)
def test_forms_that_are_read(tmp_path, content, texts):
    (tmp_path / "x.txt").write_text(content, encoding="utf-8")
    (found,) = read_samples(tmp_path / "x.txt")
    assert [text.output for text in found.texts] == texts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("olá", "neither JSON"),
        ("3", "holds 3 and no texts"),
        ("{}", "an empty mapping"),
        ('{"v1": [{"text": "x"}]}', "v1, row 1: holds a mapping with the keys text"),
        ('{"loss": 3, "steps": []}', "a mapping with the keys loss, steps"),
        ('[{"output": "x"}, ["y"]]', "row 2: holds a list"),
        ('{"output": "x"}\n{"output": 3}\n', ":2: holds a mapping with the keys output"),
        ('{"output": "x"}\n{"output": ', ":2: is neither JSON"),
        ("[]", "is empty"),
        ('{"v1": [{"output": "x"}], "v2": []}', "v2: is empty"),
        ('[{"output": "x \\ud83d"}]', "row 1: `output` holds half of a character (a lone surrogate, '\\ud83d')"),
        ('{"output": "x"}\n{"output": "x", "prompt": "\\ude00"}\n', ":2: `prompt` holds half of a character"),
        ('{"\\ud83d": [{"output": "x"}]}', "a name holds half of a character"),
    ],
)
def test_a_form_that_is_not_known_says_what_it_holds(tmp_path, content, said):
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_samples(tmp_path / "x.json")
    assert said in str(caught.value)


def test_texts_without_a_tokenizer_need_one(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"output": "Faro"}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="give --tokenizer"):
        measure_samples([tmp_path / "x.jsonl"], None)
    with pytest.raises(RecipeError, match="no such file"):
        measure_samples([tmp_path / "y.jsonl"], None)
    with pytest.raises(RecipeError, match=CONTINUATIONS_FILE):
        measure_samples([tmp_path], None)


@given(prompt=st.text(min_size=1), rest=st.text())
def test_an_echo_is_taken_out_whatever_stands_in_it(prompt: str, rest: str):
    output, echoes = without_echo(f"\n{prompt} {rest}", prompt)
    assert (output, echoes) == (rest.lstrip(), True) if prompt.split() else not echoes


@pytest.fixture
def corpus() -> CorpusWords:
    made = CorpusWords("docs")
    made.list.learn("o clube de faro foi fundado em 1910 e joga na praia, a instituição oferece serviços")
    made.control.update({"o": 97, "neymar": 3})
    return made


def test_words_that_a_corpus_has_nowhere(corpus):
    judge = TextJudge(corpus)
    plain = judge.look_at(WrittenText("O clube de Faro joga em Lagos.", "um", stopped=True))
    shredded = judge.look_at(WrittenText("clubeson segurançaivo manterbas de obrigu concre, suturatados", "dois"))
    assert not plain.flaws and shredded.flaws == ["broken_words"]
    assert shredded.words.broken[-1] == "concre", "the last word may be cut: no limit told"
    figures = figures_of([plain, shredded])
    assert (figures.broken.count, figures.broken.of) == (6, 13)
    assert figures.broken_characters.count == len("lagosclubesonsegurançaivomanterbasobriguconcre")
    assert figures.broken.low < 6 / 13 < figures.broken.high and figures.flaws == {"broken_words": 1}


def test_one_name_said_often_is_one_word_and_no_flaw(corpus):
    said = "Neymar joga. " * 3 + "Neymar foi em 1910 a praia de Faro, e o clube de Faro foi a praia de Neymar."
    assert TextJudge(corpus).look_at(WrittenText(said, stopped=True)).flaws == []


def test_without_held_out_texts_nobody_is_judged_by_words():
    made = CorpusWords("docs")
    made.list.learn("o clube")
    assert made.figures().control is None and "nothing is held out" in made.figures().describe()
    assert TextJudge(made).look_at(WrittenText("zu xi yo wa zi xu ya we.")).flaws == []


def test_the_control_of_files_is_one_document_in_ten(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"comum nome{chr(97 + number)} " * 3, encoding="utf-8")
    found = read_corpus([tmp_path]).figures()
    assert (found.words, found.control_words, found.control_broken) == (19, 12, 6)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.txt").write_text("um texto", encoding="utf-8")
    assert read_corpus([tmp_path / "one"]).figures().control is None


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("O setor de\r\n\n Analistas do\u2028mercado \n".encode())
    assert read_prompts(file) == ["O setor de", "Analistas do\u2028mercado"]
    for content, said in ((b"\n \n", "no prompt"), (b"a\nb\na\n", "twice"), (b"\xff", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_prompts(file)


def test_what_a_model_continues_is_counted_as_it_was_produced(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(continuations, "CHARACTERS", 120)
    base = make_base(tmp_path / "base", max_position_embeddings=256)
    model, renderer = load_base(base, make_recipe(base), torch.device("cpu")).eval(), None
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    prompts = ["Onde nasceu Ana Faro?", "Rui de Tavira"]
    said: list[str] = []
    found = continue_prompts(model, renderer, prompts, corpus, Guardrails(), say=said.append)
    again = continue_prompts(model, renderer, prompts, corpus, Guardrails())
    assert found == again and len(found.rows) == len(prompts) * (1 + len(PROMPT_SEEDS))
    table = read_tokenizer(renderer.tokenizer, "own")
    for row in found.rows:
        counts = count_pieces(table.of(row["token_ids"]))
        assert (row["tokens"], row["fallback"], row["short"]) == (counts.pieces, counts.fallback, counts.short)
        assert renderer.tokenizer.decode(row["token_ids"]).strip() == row["output"] and row["tokenizer"] == table.sha256
    ids = torch.tensor([renderer.completion_prompt(prompts[0])])
    room = len(found.rows[0]["token_ids"])
    own = model.generate(ids, max_new_tokens=room, do_sample=False)[0, ids.shape[1] :].tolist()
    assert found.rows[0]["token_ids"] == own and found.rows[0]["seed"] is None
    chars_per_token = sum(map(len, prompts)) / sum(len(renderer.completion_prompt(each)) for each in prompts)
    assert 120 <= found.scores.greedy.tokens / 2 * chars_per_token < 130, "random weights never end"
    assert ContinuationScores.of(Record(found.scores.as_json(), "scores.json")) == found.scores
    assert found.misses and "broken_words" in found.misses[0], "random weights write no words"


def test_a_run_is_read_by_the_tokens_that_it_produced(tmp_path):
    rows = [
        {"prompt": "p", "seed": seed, "temperature": 0.8, "output": "texto", "stopped": False, "token_ids": [1, 2],
         "tokens": 2, "fallback": 1, "short": 0, "tokenizer": "ab" * 32, "flaws": [], "broken_words": []}
        for seed in (None, 101, 102)
    ]  # fmt: skip
    (tmp_path / CONTINUATIONS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sampled, greedy = measure_samples([tmp_path], None).sets
    assert (sampled.figures.tokens, sampled.figures.fallback, greedy.figures.texts) == (4, 2, 1)
    assert sampled.tokenizer == "ab" * 32 and sampled.figures.reached == 2


def test_what_is_said_of_prompts_is_what_became_of_them(tmp_path):
    """Tokens that a run has counted are those of all that it wrote: a prompt cannot be taken out of them afterwards."""
    row = {"prompt": "Ana", "output": "Ana de Faro", "stopped": True, "tokens": 4, "fallback": 0, "short": 0}
    rows = [row | {"seed": seed, "tokenizer": "ab" * 32} for seed in (None, 101)]
    (tmp_path / CONTINUATIONS_FILE).write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    table = read_tokenizer(make_tokenizer(tmp_path / "tokenizer"), "own")
    produced, cut, kept = (
        measure_samples([tmp_path], tokenizer, keep_prompts=keep)
        for tokenizer, keep in ((None, False), (table, False), (table, True))
    )
    for found, prompts, characters in ((produced, "left in", 11), (cut, "taken out", 7), (kept, "left in", 11)):
        assert [each["prompts"] for each in found.as_json()["sets"]] == [prompts] * 2
        assert [each.figures.characters for each in found.sets] == [characters] * 2
        assert f"1 of 1 texts begin with their own prompt ({prompts}" in found.describe()
    assert "--tokenizer cuts the texts anew" in produced.describe()
    assert "--tokenizer cuts the texts anew" not in kept.describe()
    (tmp_path / "report.json").write_text(json.dumps(produced.as_json()), encoding="utf-8")
    with pytest.raises(RecipeError, match="prompts left in"):
        measure_samples([tmp_path / "report.json"], None)


def test_words_that_were_looked_up_in_different_texts_are_not_put_side_by_side(tmp_path, corpus):
    table, other = read_tokenizer(make_tokenizer(tmp_path / "tokenizer"), "own"), CorpusWords("other")
    other.list.learn("o mar")
    (tmp_path / "x.jsonl").write_text('{"output": "o clube de faro"}\n', encoding="utf-8")

    def report(name: str, words: CorpusWords | None) -> Path:
        found = measure_samples([tmp_path / "x.jsonl"], table, words)
        (tmp_path / name).write_text(json.dumps(found.as_json()), encoding="utf-8")
        return tmp_path / name

    one, two, without = report("one.json", corpus), report("two.json", other), report("without.json", None)
    alone = measure_samples([one, without], None)
    assert alone.corpus == corpus.figures() and "compared with a list of" in alone.describe()
    assert len(measure_samples([one, one], None).differences) == 1, "reports have their intervals"
    for files, words in (([one, two], None), ([two], corpus)):
        with pytest.raises(RecipeError, match="looked up in different texts"):
            measure_samples([*files, tmp_path / "x.jsonl"] if words else files, table if words else None, words)


def shown(folder: Path, sha256: str, *, broken: int = 4, learned: int = 9, lost: int = 0, **better: float) -> Path:
    """A run's folder by hand, with windows and continuations.

    Args:
        broken: words of 50. learned: different words of its training texts. lost: characters that its tokenizer drops.
        better: figures of its windows.
    """
    window = {"loss": 2.5, "accuracy": 0.25, "tokens": 700, "bits_per_byte": 1.875, "low": 1.75, "high": 2.0} | better
    windows = {
        "windows": 2,
        "bytes": 2048,
        "sha256": sha256,
        "contexts": 4,
        "context": 256,
        "change": None,
        "lost": lost,
    }
    share = {"count": broken, "of": 50, "low": round(broken / 50 - 0.05, 2), "high": round(broken / 50 + 0.11, 2)}
    texts = {
        "texts": 2,
        "characters": 300,
        "tokens": 100,
        "fallback": 1,
        "short": 17,
        "reached": 1,
        "flaws": {"loops": 1},
    }
    texts |= {"broken": share, "broken_characters": share}
    corpus = {"name": "of the training texts", "words": learned, "seen": 90, "control_words": 40, "control_broken": 1}
    corpus |= {"control_characters": 200, "control_broken_characters": 8}
    written = {"prompts": 1, "seeds": [101], "temperature": 0.8, "tokenizer": "ab" * 32, "corpus": corpus}
    scores = SCORES | {
        "windows": windows | {"before": window | {"bits_per_byte": 8.125}, "after": window},
        "continuations": written | {"greedy": texts, "sampled": texts | {"flaws": {}}},
    }
    write_run(folder, scores=scores)
    row = {"prompt": "O setor", "seed": 101, "output": HOSTILE, "flaws": ["loops"], "broken_words": ["obrigu"]}
    (folder / CONTINUATIONS_FILE).write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def test_every_reader_shows_windows_and_continuations(tmp_path):
    one, two = shown(tmp_path / "one", "a" * 64), shown(tmp_path / "two", "b" * 64)
    page = write_report(one).read_text(encoding="utf-8")
    assert "1.750 to 2.000" in page and "read in 4 contexts of at most 256 tokens" in page and "0.1700" in page
    assert "seed 101 · loops · no words of the training texts: obrigu" in page
    assert HOSTILE not in page and "evil.example" in page, "what a model wrote is text"
    terminal = describe_scores(one)
    assert "8.125 -> 1.875 [1.750, 2.000] bits per byte" in terminal and "sampled: 8 % broken words" in terminal
    assert "of held-out real text, 2.5 % of the words" in terminal
    found = compare_runs([one, two])
    figures = {metric.name: metric for metric in found.metrics}
    assert figures["windows: bits per byte, after"].values == (1.875, 1.875)
    assert figures["written (sampled): broken words"].intervals[0] == (0.03, 0.19)
    assert figures["written (greedy), guardrail loops"].values == (0.5, 0.5)
    assert not figures["written (sampled): short pieces"].better, "it follows the vocabulary"
    assert any("different windows" in note for note in found.notes)
    assert not any("different windows" in note for note in compare_runs([one, one]).notes)


def test_of_figures_over_other_texts_or_in_other_tokens_none_is_better(tmp_path):
    """A vocabulary of characters has the lowest loss per token whatever it predicts."""
    low = {"bits_per_byte": 1.0, "low": 0.9, "high": 1.1, "loss": 1.0, "accuracy": 0.5}
    first = shown(tmp_path / "first", "a" * 64, broken=40)

    def best(name: str, sha256: str, **more) -> dict[str, int | None]:
        found = compare_runs([first, shown(tmp_path / name, sha256, **low | more)])
        assert any("different tokenizers" in note for note in found.notes) is (name == "characters")
        starred = {metric.name: metric.best for metric in found.metrics}
        windows = {
            key: starred[f"windows: {key}, after"] for key in ("bits per byte", "loss", "perplexity", "accuracy")
        }
        return windows | {"broken words": starred["written (sampled): broken words"]}

    all_of_it = dict.fromkeys(("bits per byte", "loss", "perplexity", "accuracy", "broken words"), 1)
    per_token = dict.fromkeys(("loss", "perplexity", "accuracy"))
    assert best("same", "a" * 64) == all_of_it
    assert best("characters", "a" * 64, tokens=2048) == all_of_it | per_token
    assert best("windows", "b" * 64) == per_token | {"bits per byte": None, "broken words": 1}
    assert best("folded", "a" * 64, lost=9) == per_token | {"bits per byte": None, "broken words": 1}
    assert best("words", "a" * 64, learned=8) == all_of_it | {"broken words": None}


@pytest.mark.long
def test_a_run_from_scratch_keeps_windows_and_continuations(tmp_path):
    """As a user has it, and `afina guardrails` over the run afterwards."""
    (tmp_path / "docs").mkdir()
    for name, times in (("train", 7), ("valid", 5)):
        text = "\n\n".join(f"O jogador {times * n} nasceu em Faro e marcou {n} golos na época." for n in range(60))
        (tmp_path / f"docs/{name}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("O jogador\nFaro é\n", encoding="utf-8")
    (tmp_path / "r.yaml").write_text(
        "name: s\nsources: [{path: docs}]\ndataset: {language: pt-PT}\n"
        "scratch: {vocab: 320, hidden: 16, layers: 1, heads: 2}\n"
        "train: {method: scratch, epochs: 2, max_length: 64, batch_tokens: 512, learning_rate: 0.01}\n"
        "evaluate:\n  prompts: prompts.txt\n  windows: {bytes: 512, count: 3}\n"
        "  limits: {guardrails: {broken_words: 1, loops: 1, never_stops: 1, empty: 1, chat_markers: 1}}\n",
        encoding="utf-8",
    )
    call_afina("run", "r.yaml", folder=tmp_path)
    scores = read_scores(tmp_path / "runs/s")
    assert scores is not None and scores.windows is not None and scores.continuations is not None
    assert (scores.windows.windows, scores.windows.context) == (3, 64)
    assert scores.windows.after.bits_per_byte < scores.windows.before.bits_per_byte
    assert scores.continuations.sampled.texts == 2 * len(PROMPT_SEEDS)
    assert scores.continuations.corpus.control == 0.0, "all documents are made of the same words"
    said = call_afina("guardrails", "runs/s", "--words", "runs/s", "--json", folder=tmp_path).stdout
    sampled, greedy = json.loads(said)["sets"]
    assert sampled["tokens"] == scores.continuations.sampled.tokens and sampled["tokenizer"] == greedy["tokenizer"]
    assert sampled["broken"]["count"] == scores.continuations.sampled.broken.count
    assert "bits per byte" in call_afina("compare", "runs/s", "runs/s", folder=tmp_path).stdout
    (tmp_path / "prompts.txt").write_text("\n", encoding="utf-8")
    assert "holds no prompt" in call_afina("eval", "runs/s", folder=tmp_path, check=3).stderr
