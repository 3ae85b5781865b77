"""What a section supports: by hand in both languages, then for any text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from afina.dataset.questions.teacher_prompts import WrongContent, prompt_for, read_answer
from afina.dataset.questions.teacher_support import STOP_WORDS, names, stands_in, unsupported
from afina.recipe import Teacher

PAGE = """# Estádio de São Luís

O **Estádio de São Luís** foi inaugurado em 1923, em [Faro](faro.md), e leva 7 000 pessoas.

- Relva: natural
- Área: 105 × 68 m, segundo o arquiteto *Jorge Ferreira*
"""


@pytest.mark.parametrize(
    "quote",
    [
        "foi inaugurado em 1923, em [Faro](faro.md)",
        "FOI   inaugurado\nem 1923, em Faro",
        "O Estádio de São Luís foi inaugurado",
        unicodedata.normalize("NFD", "Estádio de São Luís"),
        "Relva: natural Área: 105 × 68 m",
    ],
)
def test_a_quote_stands_whatever_its_spacing_case_form_and_marks(quote):
    assert stands_in(quote, PAGE)


@pytest.mark.parametrize(
    "quote", ["", " ", "...", "foi inaugurado em 1924", "Estadio de Sao Luis", "leva 7 000 adeptos"]
)
def test_a_quote_that_does_not_stand(quote):
    assert not stands_in(quote, PAGE)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Foi inaugurado em 1923.", ""),
        ("Em 1923, na cidade de Faro.", ""),
        ("Leva 7000 pessoas.", ""),
        ("Leva 7.000 pessoas.", ""),
        ("Leva 700 pessoas.", "numbers that the section does not hold: 700"),
        ("Foi inaugurado em 23.", "numbers that the section does not hold: 23"),
        ("Foi inaugurado em Lisboa em 1923.", "names that the section does not hold: Lisboa"),
        ("Lisboa", "0 of 1 content words"),
        ("Jorge Costa inaugurou a relva natural do estádio.", "names that the section does not hold: Costa"),
        ("Relva natural verde escura bonita.", "2 of 5 content words"),
        ("Relva natural, 105 m, verde bonita.", ""),
        ("Sim.", "no content word"),
        ("", "no content word"),
    ],
)
def test_numbers_names_and_words_must_stand(answer, why):
    found = unsupported(answer, PAGE, 0.6)
    assert found.startswith(why) and bool(found) == bool(why)


def test_a_share_of_exactly_the_limit_is_enough():
    section = "one two three four five six seven"
    assert unsupported("two three four alpha beta", section, 0.6) == ""
    assert unsupported("two three four alpha beta", section, 0.61) != ""
    assert unsupported("alpha beta", section, 0.0) == ""


def test_numbers_inside_numbers_and_words_do_not_count():
    section = "Zig 0.14.0 has u8 and 15 targets; 1.5 GiB in 2014."
    for answer in ("15 targets", "0.14.0 targets", "Zig 0.14", "1.5 GiB"):
        assert unsupported(answer, section, 0.5) == ""
    for answer in ("5 targets", "14 targets", "u16 targets", "201 targets", "1.50 GiB", "0.1 targets"):
        assert unsupported(answer, section, 0.5).startswith("numbers"), answer


def test_an_invented_function_is_a_name():
    section = "Use `std.ArrayList` to append items to a list."
    assert unsupported("Append items with std.ArrayList.", section, 0.6) == ""
    assert unsupported("Append items to a list with HashMap.", section, 0.6).endswith("HashMap")
    assert unsupported("Append items to a list with push_back.", section, 0.6).endswith("push_back")


def test_the_first_word_of_a_sentence_counts_as_a_name_only_with_a_reason():
    assert names("Nasceu em Faro. Depois jogou.") == ["Faro"]
    assert names("Rui marcou.", ["Quem viu Rui?"]) == ["Rui"]
    assert names("Rui Costa marcou. O Rui jogou.") == ["Rui", "Costa", "Rui"]
    assert names("Do Benfica: Eusébio.") == ["Benfica"]
    assert names("") == names("nada, em 1910.") == []


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200), st.data())
def test_any_slice_of_a_section_stands_in_it(text, data):
    words = text.split()
    assume(words)
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    quote = "  ".join(words[start:end])
    assume(any(letter.isalnum() for letter in quote))
    # Unicode may join a mark to the letter before it, which is not in the slice.
    assume(unicodedata.normalize("NFKC", text).split() == [unicodedata.normalize("NFKC", word) for word in words])
    assert stands_in(quote, text)


WORD = st.text(alphabet="abcdefgçãéíóú", min_size=2, max_size=8).filter(lambda word: word not in STOP_WORDS)


@given(st.lists(WORD, min_size=1, max_size=12), st.lists(WORD, min_size=1, max_size=12), st.floats(0, 1))
def test_the_share_is_as_counted_by_hand(section, answer, support):
    held = sum(word in section for word in answer)
    assume(abs(held / len(answer) - support) > 1e-6)
    assert bool(unsupported(" ".join(answer), " ".join(section), support)) == (held / len(answer) < support)


@given(st.text(max_size=80), st.text(max_size=80), st.floats(0, 1))
def test_any_text_is_judged_without_a_failure(answer, section, support):
    assert isinstance(unsupported(answer, section, support, [section]), str)
    stands_in(answer, section)


@pytest.mark.parametrize("language", ["pt-PT", "pt-BR", "en"])
def test_a_prompt_asks_for_what_the_recipe_says(language):
    teacher = Teacher(url="http://127.0.0.1:1/v1", model="m", questions_per_section=7, paraphrases=4)
    system, user = prompt_for("{braces} %s stay", "A > B", language, teacher)
    assert (
        " 7 " in system["content"] and " 4 " in system["content"] and '{"questions": [{"question"' in system["content"]
    )
    assert "{braces} %s stay" in user["content"] and "A > B" in user["content"]


ROW = '{"question": "q", "answer": "a", "quote": "s", "paraphrases": ["p"]}'


@pytest.mark.parametrize(
    "content",
    [
        f'{{"questions": [{ROW}]}}',
        f"[{ROW}]",
        f'```json\n{{"questions": [{ROW}]}}\n```',
        f'```\n{{"questions": [{ROW}]}}```\n',
        f'<think>\nhm {{ }}\n</think>\n\n{{"questions": [{ROW}]}}',
    ],
)
def test_forms_of_an_answer_that_are_read(content):
    (item,) = read_answer(content)
    assert (item.question, item.answer, item.quote, item.paraphrases) == ("q", "a", "s", ("p",))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not JSON"),
        (f"Here you are: [{ROW}]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", "no list"),
        ('{"items": []}', "no list"),
        ('{"questions": ["q"]}', "question 1 is not an object"),
        (f'[{ROW}, {{"question": "q"}}]', "question 2 has no text `answer`"),
        (ROW.replace('"a"', "7").join("[]"), "no text `answer`"),
        (ROW.replace('["p"]', "[7]").join("[]"), "`paraphrases` of question 1"),
        (ROW.replace('"q"', r'"\ud800"').join("[]"), "half a character"),
    ],
)
def test_what_is_no_answer_says_why(content, why):
    with pytest.raises(WrongContent, match=why):
        read_answer(content)
