"""The languages of the report: complete catalogues, sentences of other rooms told again, numbers and dates."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html
from parsed import FILES, PACKAGE, nodes_of, tree_of
from report_fixture import AUDIT, HOSTILE, MANIFEST, RECIPE, SCORES, write_run
from report_words import CALLS, FOLDER, collected, forms, ids, placeholders, stored
from test_field_findings import good_rows, write
from test_token_audit import Words, conversation, findings
from test_verdict import CLAIM, KEPT, LEARNED, RIGHT, SAID, WRONG, probe
from test_watch import FALLS, look
from watched import START, finished_files, held_out, overfitting, start, step, steps, write_watched

from afina.dataset.audit.audit import audit_files
from afina.dataset.audit.rules import RULES
from afina.errors import Problem
from afina.evaluate.guardrails import weigh
from afina.evaluate.intervals import wilson
from afina.evaluate.safety.known import KnownStrings
from afina.evaluate.scores import Change, RetrievalProbe, RoomToEnd
from afina.evaluate.verdict import judge
from afina.recipe import Guardrails, Limits
from afina.record import Record
from afina.report.compare import compare_runs
from afina.report.compare_page import comparison_html
from afina.report.labels import number, percent, show_bytes, show_money, show_seconds, signed
from afina.report.language import ENGLISH, LANGUAGES, figure, in_language, language, moment, tr, trn
from afina.report.page import write_report
from afina.report.results import verdict_sentence
from afina.report.sentences import SENTENCES, retold
from afina.tokenizer.encode import EncodedExample
from afina.tokenizer.letters import LACKED
from afina.watch.lock import UNNAMED
from afina.watch.state import Signs, find_state
from afina.watch.view import WARNING_KINDS

OTHERS = tuple(tag for tag in LANGUAGES if tag != ENGLISH)
PORTUGUESE = RECIPE + "dataset:\n  language: {}\n"


# ---- the catalogues


@pytest.fixture(scope="module")
def texts() -> set[tuple[str | None, ...]]:
    return ids(collected())


def test_the_texts_are_found(texts: set[tuple[str | None, ...]]) -> None:
    """In code and templates, inside of calls, joined of several strings, with a plural, of other rooms."""
    assert len(texts) > 400
    plain = {"Guardrails", "yes", " and ", "right", "made up", "claim to know, wrongly"}
    assert {(None, each) for each in plain} <= texts
    assert (None, "{n} file was not read", "{n} files were not read") in texts
    assert {("answer", "right"), ("probe", "true sentence among eight")} <= texts
    assert any(str(text[1]).startswith("only questions that were trained were asked") for text in texts)


def test_no_text_stands_where_it_is_not_found() -> None:
    """Babel does not look into f-strings."""
    inside = [
        f"{file.name}:{call.lineno}"
        for file in FOLDER.glob("*.py")
        for node in nodes_of(tree_of(file))
        if isinstance(node, ast.JoinedStr)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CALLS
    ]
    assert not inside, "put the text into a variable first"


@pytest.mark.parametrize("tag", OTHERS)
def test_a_catalogue_has_every_text_and_no_other(tag: str, texts: set[tuple[str | None, ...]]) -> None:
    """`python tests/report_words.py` brings new ones in and takes old ones out."""
    found = ids(stored(tag))
    assert not texts - found, "not in the catalogue"
    assert not found - texts, "in the catalogue, and nobody asks for them"


@pytest.mark.parametrize("tag", OTHERS)
def test_every_text_is_translated_with_the_same_names_and_edges(tag: str) -> None:
    for message in (each for each in stored(tag) if each.id):
        assert not message.fuzzy and len(forms(message.string)) == len(forms(message.id)), message.id
        for english, other in zip(forms(message.id), forms(message.string), strict=True):
            assert other.strip(), message.id
            assert placeholders(other) - {"n"} == placeholders(english) - {"n"}, (english, other)
            assert "{n}" in other or "{n}" not in english, (english, other)
            assert other.count("`") == english.count("`") and other.count("\n") == english.count("\n"), other
            for edge in (re.compile(r"^\s*"), re.compile(r"\s*$"), re.compile(r"[.:?]?\s*$")):
                assert edge.search(other)[0] == edge.search(english)[0], (english, other)  # type: ignore[index]


ELSEWHERE = {
    "pt-BR": r"ficheiro|regist[oa]|utilizador|facto|secç|secção|excerto|aprendizagem|veredicto|\bnuma?\b",
    "pt-PT": r"arquivo|registr|usuári|\bfatos?\b|seç|trecho|aprendizado|veredito|treinamento|\bem um\b|\bem uma\b",
}
"""What people of the other country write."""


@pytest.mark.parametrize("tag", OTHERS)
def test_brazil_and_portugal_have_words_of_their_own(tag: str) -> None:
    said = {other for message in stored(tag) if message.id for other in forms(message.string)}
    assert not [text for text in said if re.search(ELSEWHERE[tag], text)]
    other = next(each for each in OTHERS if each != tag)
    theirs = {text for message in stored(other) if message.id for text in forms(message.string)}
    assert any(re.search(ELSEWHERE[tag], text) for text in theirs), "the pattern finds nothing anywhere"


# ---- numbers and dates


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("en", ["12,345", "1,234.6", "92.5 %", "−4.2", "1.5 KiB", "8.4 s", "US$ 0.71", "2025-10-09 08:53:20 UTC"]),
        (
            "pt-BR",
            ["12.345", "1.234,6", "92,5 %", "−4,2", "1,5 KiB", "8,4 s", "US$ 0,71", "9 de out. de 2025 08:53:20 UTC"],
        ),
        (
            "pt-PT",
            ["12\xa0345", "1\xa0234,6", "92,5 %", "−4,2", "1,5 KiB", "8,4 s", "US$ 0,71", "09/10/2025, 08:53:20 UTC"],
        ),
    ],
)
def test_numbers_and_dates_are_written_as_the_language_does(tag: str, shown: list[str]) -> None:
    with in_language(tag):
        found = [number(12345), number(1234.5678), percent(0.925), signed(-4.166), show_bytes(1536), show_seconds(8.4)]
        found += [show_money(0.711), moment(1_760_000_000)]
    assert found == shown


@given(st.floats(-1e9, 1e9))
def test_a_number_of_any_language_is_the_number(value: float) -> None:
    for tag in LANGUAGES:
        with in_language(tag):
            back = figure(f"{value:,.3f}").replace("\xa0", ",")
        if tag == "pt-BR":
            back = back.replace(".", ",")
        whole, point, decimals = back.rpartition("." if tag == ENGLISH else ",")
        assert float(whole.replace(",", "") + point.replace(",", ".") + decimals) == round(value, 3)


def test_the_language_ends_with_the_page() -> None:
    with in_language("pt-PT"):
        with in_language("pt-BR"):
            assert (
                tr("Ledger of characters") == "Balanço de caracteres" and trn("{n} file", "{n} files", 1) == "1 arquivo"
            )
        assert trn("{n} file", "{n} files", 1200) == "1\xa0200 ficheiros"
    assert language() == ENGLISH
    with pytest.raises(ValueError, match="none of en, pt-BR, pt-PT"), in_language("pt"):
        pass


# ---- the verdict, and sentences that other rooms wrote


@pytest.mark.parametrize("tag", OTHERS)
def test_the_verdict_is_a_sentence_of_the_language(tag: str) -> None:
    learned = ("yes", "no", "too little", "parrots", "not measured (no probes)")
    broke = ("nothing", "38 % of what it knew (rios), 12.5 % (mares), 5 % of its skills (JSON 7 of 8, lists 4 of 6)")
    english = re.compile(r"\b(it|what|knew|and|learned|broke|of|skills)\b")
    with in_language(tag):
        said = {verdict_sentence(*pair) for pair in product(learned, (*broke, "not measured (no probes)"))}
        assert len(said) == 15 and not [each for each in said if english.search(each.lower())]
        assert (
            verdict_sentence("yes", broke[1])
            == "Aprendeu, mas perdeu 38 % do que sabia (rios), 12,5 % (mares), 5 % das suas capacidades "
            "(JSON: 7 de 8, listas: 4 de 6)."
        )


def all_that_a_verdict_says() -> list[str]:
    """Misses of runs that fail in every way there is, and what is said of guardrails, room and passages."""
    limits = Limits(learned_min=0.95, hallucination_max=0.1)
    lucky = probe("generalization", [WRONG] * 20, [RIGHT] * 12 + [WRONG] * 8, by_luck=(0.55,) * 20)
    brief = probe("generalization", [SAID] * 20, [RIGHT] * 20)
    choice = probe("choice", [WRONG] * 20, [WRONG] * 20)
    parrot = probe("claims", [WRONG] * 20, [CLAIM] * 20)
    lost = probe("retention", [RIGHT] * 20, [WRONG] * 20, "rios")
    skills = probe("skills", [RIGHT] * 20, [WRONG] * 20, groups=("JSON",) * 10 + ("lists",) * 10)
    few = probe("recall", [WRONG] * 3, [RIGHT] * 3)
    told: list[str] = []
    for probes in ([LEARNED, choice, KEPT, lost], [lucky, skills], [brief, parrot], [choice, parrot], [few]):
        verdict = judge(probes, None, None, limits)
        told += verdict.misses
        told += [each.removeprefix("not measured (").removesuffix(")") for each in (verdict.learned,) if "(" in each]
    room = RoomToEnd(160, 512, 31, 4, 20).describe()
    told += [room, RoomToEnd(160, 160, 31, 4, 0).describe()]
    flawed = [["never_stops"]] * 60 + [[]] * 40
    told += weigh([[]] * 100, flawed, Guardrails(), room)[0] + weigh(None, flawed, Guardrails())[0]
    told += weigh(flawed, flawed, Guardrails(), room)[1] + weigh(flawed, flawed, Guardrails())[1]
    for better, helps in (("retrieval", True), ("training", True), ("neither", True), ("neither", False)):
        low, high = wilson(10, 20)
        values = {
            "base": 0.1,
            "retrieved": 0.5,
            "low": low,
            "high": high,
            "trained": 0.4,
            "section": None,
            "holding": 0.7,
        }
        change = Change(0.1, 0.0, 0.2)
        told.append(
            RetrievalProbe("rios", "recall", 20, 20, **values, ahead=change, better=better, helps=helps).conclusion()  # type: ignore[arg-type]
        )
    return told


@pytest.mark.parametrize("tag", OTHERS)
def test_what_a_verdict_says_is_told_in_the_language(tag: str) -> None:
    """Made by the rooms that write it: a sentence that changes there and not here is noticed."""
    told = all_that_a_verdict_says()
    assert len(told) > 18 and all(retold(each) == each for each in told), "in English it is what was written"
    with in_language(tag):
        again = {each: retold(each) for each in told}
    assert not [each for each, other in again.items() if other is None]
    english = re.compile(r"\b(the|of|and|right|answers|allows|asks|never|says)\b")
    assert not [other for other in again.values() if english.search(str(other))]
    for each, other in again.items():
        digits = [re.findall(r"\d+", text) for text in (each, str(other))]
        assert sorted(digits[0]) == sorted(digits[1]), (each, other)


COUNTED = {"personal_data", "cut_answers", "unicode_mixed", "length_bias", "think_on_some", "language_mix", LACKED}
COUNTED |= {"thoughts_not_learned", "template_system", "token_lengths", "padding"}
"""Findings that say how much, in sentences of their own."""


def all_that_an_audit_counts(folder: Path) -> dict[str, str]:
    """Finding -> what it says, of rows that have each of these flaws; by the rooms that write it."""
    rows = good_rows()
    along = "and the road goes on along the sea past every village of the coast until it comes to the cape itself "
    for n in range(10):
        rows[2 * n]["completion"] = (f"Number {n} begins at the harbour " + along * 3)[:200]
    rows[1]["completion"] = "Ask Ana by ana.silva@sapo.pt, she knows the village well."
    rows[3]["completion"] = unicodedata.normalize("NFD", "É uma cidade à beira-mar, com praças e igrejas.")
    rows[7] = {
        "prompt": "O que é que se pode ver naquela cidade, para quem lá chega de comboio?",
        "completion": "Quem chega de comboio vê primeiro a muralha, e depois as ruas que descem até ao porto, "
        "onde os pescadores consertam as redes ao fim da tarde e as crianças brincam junto das casas brancas.",
    }
    rows[5]["completion"] = "<think>Which one?</think>" + rows[5]["completion"]
    pairs = [{"prompt": f"Why {n}?", "chosen": "Since it is so. " * 3, "rejected": "No."} for n in range(30)]
    files = [write(folder, rows), folder / "pairs.jsonl"]
    files[1].write_text("".join(json.dumps(each) + "\n" for each in pairs), encoding="utf-8")
    found = {each.name: each.what for file in files for each in audit_files([file]).findings}

    def encode(_: object) -> EncodedExample:
        words = Words("one two three")
        words.thoughts, words.lost = 2, ("so it is",)
        return EncodedExample([words])  # type: ignore[list-item]

    pieces = SimpleNamespace(
        has_fallback=True, cut=lambda letter: [SimpleNamespace(kind="byte" if letter == "ç" else "")]
    )
    told = findings([conversation("praça")], encode=encode, own_system="You are kind.", pieces=pieces)
    return found | {name: each.what for name, each in told.items()}


@pytest.mark.parametrize("tag", OTHERS)
def test_what_an_audit_finds_is_told_in_the_language(tag: str, tmp_path: Path) -> None:
    """The words of every rule, and the sentences in which some findings count."""
    found = all_that_an_audit_counts(tmp_path)
    assert found.keys() >= COUNTED and all(found[name] != RULES[name].what for name in COUNTED)
    told = [found[name] for name in COUNTED] + [text for rule in RULES.values() for text in (rule.what, rule.fix)]
    with in_language(tag):
        again = {each: retold(each) for each in told}
    assert not [each for each, other in again.items() if other is None]
    english = re.compile(r"\b(the|of|and|that|answers|rows|nothing|them|with|learned)\b")
    assert not [other for other in again.values() if english.search(re.sub("`[^`]*`", "", str(other)))]


def all_that_a_watched_run_says(folder: Path) -> list[str]:
    """The reasons of every state but that of a run that stopped by an error, and the warnings of curves whose sentence
    holds no other room's reason."""
    began, problem = {"name": "train", "state": "began"}, Problem("damaged", "", "x")
    finished = Record({"exit_code": 0}, "finished.json")
    signs = [
        Signs(holder, done, stages, last, step, problems)
        for holder in (None, UNNAMED, 1 << 30)
        for done in (None, finished)
        for stages in ((), ("train",))
        for last in ({}, began, began | {"name": "audit"})
        for step in (None, 245)
        for problems in ((), (problem,), (problem, problem))
    ]
    back = {"event": "went_back", "step": 9, "to": 0, "rate_factor": 0.5}
    reasons = [
        "at step 10 the loss is nan and the gradient's norm nan; batch: a.md:1, b.md:2",
        "after step 9 the held-out loss is inf",
        "after step 9 a weight is NaN or infinite; batch: a.md:1",
    ]
    halved = {"event": "smaller_batches", "step": 4, "splits": 2, "reason": "CUDA error"}
    curves = [
        *([*start(), *steps(9), back | {"reason": each}, *steps(9), held_out(9, 2.0)] for each in reasons),
        [*start(), *steps(9), *(back | {"reason": reasons[0]},) * 2, *steps(9), held_out(9, 2.0)],
        [*start(), *steps(3), halved, *steps(9, after=3), held_out(9, 2.0)],
        overfitting(),
        [*start(), *steps(200, 3.0, 2.99)],
        [*start(), *steps(100), *steps(100, 1.0, 2.5, after=100), held_out(200, 2.0)],
        [*start(), *steps(3), step(4, 1.0, memory_bytes=21.5 * 2**30), held_out(4, 2.0)],
        [*FALLS, *(step(200 + n, 1.0, tokens_per_second=900.0) for n in range(1, 30))],
    ]
    views = [look(write_watched(folder / str(n), events)) for n, events in enumerate(curves)]
    views.append(look(write_watched(folder / "done", FALLS, **finished_files())))
    with (folder / "0/metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write("cut\n")
    views.append(look(folder / "0"))
    silent = write_watched(folder / "silent", [*start(), *steps(100)])
    with FileLock(silent / ".lock"):
        views.append(look(silent, now=START + 700))
    told = [warning.what for view in views for warning in view.warnings]
    kinds = {warning.kind for view in views for warning in view.warnings}
    assert kinds == {*WARNING_KINDS}
    return [*{find_state(each).reason for each in signs}, *told]


@pytest.mark.parametrize("tag", OTHERS)
def test_what_a_watched_run_says_is_told_in_the_language(tag: str, tmp_path: Path) -> None:
    told = all_that_a_watched_run_says(tmp_path)
    assert len(told) > 20
    with in_language(tag):
        again = {each: retold(each) for each in told}
    assert not [each for each, other in again.items() if other is None]
    english = re.compile(r"\b(the|it|is|and|word|file|loss|walk|works|of)\b")
    assert not [other for other in again.values() if english.search(str(other))]


WRITERS: dict[str, set[str]] = {
    "evaluate/derive.py": {"derive_probes", "_add_prose", "_not_measured"},
    "evaluate/guardrails.py": {"weigh"},
    "evaluate/scores.py": {"conclusion"},
    "evaluate/safety/findings.py": {"miss", "misses"},
    "evaluate/safety/known.py": {"notes", "find_known", "_not_askable"},
    "evaluate/task_set.py": {"notes"},
    "evaluate/verdict.py": {"judge", "_judge_learning", "_no_gain", "_claims_more", "_judge_retention", "_loss"},
    "plan/asking.py": {"asked_tokens"},
    "plan/plan.py": {"_notes"},
    "plan/time.py": {"slow_parts"},
    "plan/tokens.py": {"assume_learning", "estimate_learning", "unsized_sources"},
    "recipe/profiles.py": {"describe_profile"},
    "report/compare.py": {"_notes"},
    "train/loop.py": {"step", "validate", "save_when_due"},
    "walk/gone.py": {"still_there", "_missing"},
    "walk/plan_answers.py": {"_of_base"},
    "walk/retrieval.py": {"measure_retrieval"},
    "walk/safety.py": {"measure_safety"},
    "walk/skills.py": {"measure_skills"},
    "walk/whole_texts.py": {"measure_windows"},
    "watch/judge.py": {
        "_went_back", "_smaller_batches", "_overfitting", "_not_falling", "_rising", "_still_falling", "_slower",
        "_memory", "_silent", "judge",
    },
    "watch/state.py": {"find_state", "_named"},
}  # fmt: skip
"""Functions that write what a page shows, by file."""
IN_TERMINALS = {"evaluate/halves.py", "report/gate.py", "score/score.py", "walk/scaling_runs.py"}
"""Whose notes no page shows."""
NO_SENTENCE = {"skills of the result", "no better held-out loss in {} measurements"}
"""What such functions say besides: a title of progress, why a training stopped."""
LISTS = {"notes", "misses", "not_run"}


def said_in(node: ast.AST) -> Iterator[str]:
    """The texts in a function, ``{}`` for what they are filled with; not those of its errors and its docstring, nor
    what a terminal alone is told."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("say", "tell"):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from said_in(child)


def untold(text: str) -> bool:
    """Whether a sentence, or a part of one, stands in none of those that pages tell again."""
    parts = [re.escape(part.strip()) for part in text.split("{}") if part.strip()]
    return not any(re.search(".*".join(parts), sentence, re.DOTALL) for sentence in SENTENCES)


def adds_to_notes(node: ast.AST) -> bool:
    """Whether a text is put into a list that a page shows."""
    if isinstance(node, ast.AugAssign):
        to: ast.AST = node.target
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend"):
        to = node.func.value
    else:
        return False
    return getattr(to, "attr", getattr(to, "id", "")) in LISTS


def functions_of(file: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in nodes_of(tree_of(file)) if isinstance(node, ast.FunctionDef))


def test_every_sentence_that_reaches_a_page_is_told_again() -> None:
    """By the source: also those that take a model, a chat template without a system turn or a moved run to be said."""
    wrong = []
    for name, functions in WRITERS.items():
        found = [each for each in functions_of(PACKAGE / name) if each.name in functions]
        assert {each.name for each in found} == functions, name
        texts = [text.removeprefix("not measured (").removesuffix(")") for each in found for text in said_in(each)]
        sentences = [text for text in texts if len(re.findall(r"[A-Za-z]{2,}", text)) > 3 and text[0] not in ", ;("]
        wrong += [f"{name}: {text}" for text in sentences if text not in NO_SENTENCE and untold(text)]
    assert not wrong, "\n".join(["in no form of afina/report/sentences.py:", *wrong])
    assert untold("the base has {} of what nobody ever said") and not untold("{}: {}, no difference beyond chance")


def test_whoever_notes_something_for_a_page_is_known() -> None:
    rooms = {name.partition("/")[0] for name in WRITERS}
    files = [file for file in FILES if file.relative_to(PACKAGE).parts[0] in rooms]
    notes = {
        (file.relative_to(PACKAGE).as_posix(), function.name)
        for file in files
        for node in nodes_of(tree_of(file))
        if adds_to_notes(node)
        for function in functions_of(file)
        if function.lineno <= node.lineno <= (function.end_lineno or 0)  # type: ignore[attr-defined]
    }
    assert len(notes) > 10
    unknown = [each for each in notes if each[0] not in IN_TERMINALS and each[1] not in WRITERS.get(each[0], ())]
    assert not unknown, f"add them to WRITERS: {unknown}"


@pytest.mark.parametrize("tag", OTHERS)
def test_what_an_evaluation_could_not_measure_is_told_in_the_language(tag: str) -> None:
    """One of each, with what it is filled with; words within them are told again too."""
    known = KnownStrings(looked_at=12_000)
    known.asked = [SimpleNamespace(kind=kind) for kind in ("PHONE", "named in the file", "PHONE")]  # type: ignore[misc]
    known.not_asked.update({"they have more than 200 characters": 2, "safety.known_strings asks for 20": 5})
    told = [
        *known.notes,
        "skills were not judged: the base does 3 of the 264 that it was asked as asked",
        "the held-out texts hold 12 of 40 windows of 1,024 bytes",
        "the probe capitais could not be asked: provas/*.jsonl is not below /home/ana any more (root=FOLDER says where "
        "it is now)",
        "safety canary_exposure_max: 2 canaries are known better, the best with 9.3 bits, the recipe allows 8",
    ]
    with in_language(tag):
        again = {each: retold(each) for each in told}
    assert not [each for each, other in again.items() if other is None]
    english = re.compile(r"\b(the|asked|they|known|not|held|more|below|allows)\b")
    assert not [other for other in again.values() if english.search(str(other))], again
    assert "2 x PHONE" in str(again[told[0]]) and "capitais" in str(again[told[-2]])


def test_a_sentence_of_another_form_stays_english_and_is_marked(tmp_path: Path) -> None:
    said = "something that nobody has ever said"
    scores = SCORES | {
        "verdict": SCORES["verdict"] | {"passed": False, "misses": [said, "rios: 5 % right, the recipe asks for 50 %"]}
    }
    folder = write_run(tmp_path, scores=scores, recipe=PORTUGUESE.format("pt-PT"))
    page = lxml_html.fromstring(write_report(folder).read_text(encoding="utf-8"))
    shown = page.xpath("//header/ul[@class='remarks']/li")
    assert [each.xpath("string(./span/@lang)") for each in shown] == ["en", ""]
    assert [each.text_content().strip() for each in shown] == [said, "rios: 5\xa0% certas, a receita pede 50\xa0%"]


@given(st.text(max_size=30), st.sampled_from(SENTENCES))
def test_whatever_stands_in_a_sentence_stays_what_it_is(name: str, sentence: str) -> None:
    """A user's name of a probe may hold anything: braces, percent signs, markup."""
    values = dict.fromkeys(placeholders(sentence), "12 %") | {"probe": f"<b>{name}{{x}}"}
    with in_language("pt-PT"):
        told = retold(sentence.format(**values))
    assert told is None or "{probe}" not in sentence or f"<b>{name}{{x}}" in told


# ---- pages


@pytest.mark.parametrize(
    ("recipe", "tag", "sentence", "share"),
    [
        (RECIPE, "en", "It learned, and it broke nothing.", "92.5 %"),
        (PORTUGUESE.format("pt-BR"), "pt-BR", "Aprendeu e não perdeu nada do que sabia.", "92,5 %"),
        (PORTUGUESE.format("pt-PT"), "pt-PT", "Aprendeu e não perdeu nada do que sabia.", "92,5 %"),
        (PORTUGUESE.format("de"), "en", "It learned, and it broke nothing.", "92.5 %"),
        ("dataset: 3\n", "en", "It learned, and it broke nothing.", "92.5 %"),
    ],
)
def test_a_page_is_in_the_language_of_its_recipe(
    tmp_path: Path, recipe: str, tag: str, sentence: str, share: str
) -> None:
    page = lxml_html.document_fromstring(write_report(write_run(tmp_path, recipe=recipe)).read_text(encoding="utf-8"))
    assert page.get("lang") == tag and page.xpath("string(//h1)").strip() == sentence
    assert share.replace(" ", "\xa0") in page.get_element_by_id("probes").text_content()


@pytest.mark.parametrize("tag", OTHERS)
def test_no_english_is_left_on_a_page_but_what_is_marked(tmp_path: Path, tag: str) -> None:
    """Words of ours that go around the catalogue: every text of a page without what models, data and files say."""
    folder = write_run(tmp_path, recipe=PORTUGUESE.format(tag))
    page = lxml_html.document_fromstring(write_report(folder).read_text(encoding="utf-8"))
    for theirs in page.xpath("//*[@lang='en'] | //pre | //code | //style | //*[contains(@class, 'text')] | //q"):
        if theirs.tag != "html":
            theirs.drop_tree()
    english = re.compile(r"\b(the|of|and|is|was|not|before|after|with|by|each|which|held|steps|loss|answers?|share)\b")
    left = [text for text in page.xpath("//main//text()") if english.search(text)]
    assert not [text for text in left if text.strip() not in ("not text",)]


@pytest.mark.parametrize(
    ("tag", "called"),
    [
        ("pt-BR", "Auditoria, aviso: linhas que repetem outra anterior, 2 de 10 (20 %), treino"),
        ("en", "Audit, warning: exact duplicate, 2 of 10 (20 %), train"),
    ],
)
def test_a_warning_of_the_audit_is_told_in_the_language(tmp_path: Path, tag: str, called: str) -> None:
    """A recipe accepts a finding by its English name, which says nothing to who reads the page in another language."""
    found = {"name": "exact_duplicate", "severity": "warning", "count": 2, "of": 10, "split": "train", "examples": []}
    found |= {"what": RULES["exact_duplicate"].what, "fix": RULES["exact_duplicate"].fix}
    folder = write_run(tmp_path, recipe=PORTUGUESE.format(tag), audit=AUDIT | {"findings": [found]})
    page = lxml_html.document_fromstring(write_report(folder).read_text(encoding="utf-8"))
    (told,) = page.xpath("//header//div[@class='cautions']//a")
    assert " ".join(told.text_content().split()) == called


def test_a_language_may_be_asked_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path, recipe=PORTUGUESE.format("pt-PT"))
    assert 'lang="pt-BR"' in write_report(folder, language="pt-BR").read_text(encoding="utf-8")


def test_a_comparison_is_in_the_language_that_its_runs_share(tmp_path: Path) -> None:
    recipes = [PORTUGUESE.format("pt-PT"), PORTUGUESE.format("pt-PT"), RECIPE]
    folders = [
        write_run(tmp_path / name, recipe=recipe, manifest=MANIFEST | {"name": f"{name} {HOSTILE}"})
        for name, recipe in zip("abc", recipes, strict=True)
    ]
    pages = [lxml_html.document_fromstring(comparison_html(compare_runs(some))) for some in (folders[:2], folders)]
    assert [page.get("lang") for page in pages] == ["pt-PT", "en"]
    assert pages[0].xpath("string(//h1)").strip() == "2 execuções: quanto custaram e o que alcançaram"
    assert not pages[0].xpath("//script | //img") and HOSTILE.split("\n")[0] in pages[0].text_content()
