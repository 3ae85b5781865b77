"""Cleaning and personal data: each rule with the line it takes and those it leaves; sums that always hold."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afina.dataset.audit.audit import audit_files
from afina.dataset.audit.one_example import excerpt
from afina.dataset.build.build import build_dataset
from afina.recipe import Clean, Dataset, Recipe, Source, Train
from afina.text.clean import clean_document, is_wrapped, mend
from afina.text.document import Document, visible
from afina.text.example import read_examples
from afina.text.personal_data import find_personal_data, is_cnpj, is_cpf, is_random, mask

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")

PRESET = Clean(preset="monograph")
PROSE = "Capitu era Capitu, isto é, uma criatura mui particular, mais mulher do que eu era homem."
OTHER = "Não consultes dicionários: casmurro não está aqui no sentido que eles dão, mas no que o vulgo lhe pôs."
THIRD = "A vida é uma ópera, dizia-me um velho tenor italiano que aqui viveu e morreu, e eu acredito nele."


def cleaned(text: str, rules: Clean = PRESET) -> tuple[str, dict[str, list[tuple[int, str]]]]:
    document, (done,) = clean_document(Document("a.txt", "0" * 64, text=text), rules)
    return document.text, done.cut


# --- cleaning


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Página seguinte", "short_line"),
        (
            "| 12 | 14 | 9 | 33 | 48 | 51 | 12 | 7 | 8 | 90 | 1 | 3 | 4 | 77 | 65 | 81 | 23 | 10 | 99 | 43 |",
            "few_letters",
        ),
        ("DIREITOS RESERVADOS. PROIBIDA A REPRODUÇÃO DESTE TEXTO, NO TODO OU EM PARTE, SEM AUTORIZAÇÃO.", "upper_case"),
        ("Veja https://pt.wikipedia.org/wiki/Dom_Casmurro e https://pt.wikipedia.org/wiki/Quincas_Borba", "address"),
        (PROSE, "repeated_line"),
    ],
)
def test_each_rule_takes_its_line_and_leaves_the_others(line: str, reason: str):
    text, cut = cleaned(f"{PROSE}\n{line}\n{OTHER}\n{THIRD}")
    assert text == f"{PROSE}\n\n{OTHER}\n{THIRD}"
    assert cut == {reason: [(2, line)]}


def test_an_address_inside_a_sentence_goes_alone():
    text, cut = cleaned(f"{PROSE}\n{OTHER} Escreva para ana@mar.pt hoje.\n{THIRD}")
    assert text.split("\n")[1] == f"{OTHER} Escreva para  hoje." and cut == {"address": [(2, "ana@mar.pt")]}


def test_what_is_left_of_a_short_document_goes_whole():
    text, cut = cleaned(f"{PROSE}\nMenu")
    assert text == "" and cut == {"short_line": [(2, "Menu")], "short_document": [(1, PROSE)]}


def test_in_a_wrapped_book_paragraphs_are_judged_not_lines():
    words = (" ".join([PROSE, OTHER, THIRD]) * 4).split()
    lines = [" ".join(words[start : start + 9]) for start in range(0, len(words), 9)]
    book = [*lines, "", "Sim.", "", "CAPÍTULO II", *[line + " e" for line in lines]]
    assert is_wrapped(book) and not is_wrapped([PROSE, OTHER] * 20) and not is_wrapped(["Menu", "Início"] * 20)
    text, cut = cleaned("\n".join(book))
    assert {reason: [line for _, line in pieces] for reason, pieces in cut.items() if reason != "repeated_line"} == {
        "upper_case": ["CAPÍTULO II"],
        "short_line": ["Sim."],
    }
    assert text.split("\n")[: len(lines)] == [
        line if line not in lines[:place] else "" for place, line in enumerate(lines)
    ]


def test_mending_and_what_it_leaves_alone():
    assert mend("A histÃ³ria nÃ£o acaba.\nItâ€™s here.").text == "A história não acaba.\nIt’s here."
    assert mend("campeo\xadnatos\u200b, cafe\u0301").text == "campeonatos, café"
    for good in ("A AÇÃO, a IRMÃ e o PÃO: «MANHû. São três.", "— Não… “sim”, disse â toa.", "👨‍👩‍👧 ﬁm", "x\ty\n"):
        assert mend(good).text == good
    done = mend("bom dia, nÃ£o sei")
    assert (done.cut, done.added.total(), done.dropped) == ({"wrong_encoding": [(1, "nÃ£o")]}, 3, 4)


def test_markdown_and_messages_are_mended_only_and_code_is_left():
    page = Document("a.md", "0" * 64, kind="markdown", text="# NÃ£o\n\nSim.")
    assert clean_document(page, PRESET)[0].text == "# Não\n\nSim."
    code = Document("a.py", "0" * 64, kind="code", text='"NÃ£o"')
    assert clean_document(code, PRESET) == (code, [])
    row: Any = ({"role": "user", "content": "Q\u200bual?"}, {"role": "assistant", "content": "NÃ£o"})
    chat = clean_document(Document("r.jsonl", "0" * 64, kind="messages", messages=row), PRESET)[0]
    assert [message["content"] for message in chat.messages] == ["Qual?", "Não"]


ODD = st.lists(
    st.one_of(
        st.sampled_from(
            [PROSE, OTHER, "Menu", "CAPÍTULO", "nÃ£o â€œsimâ€\x9d", "www.a.pt x", "e\u0301\xad\x0b\x1c", "", " "]
        ),
        st.text(st.characters(codec="utf-8"), max_size=30),
    )
).map("\n".join)


@given(ODD, st.integers(1, 120), st.floats(0, 1))
@example("\x85\u2028Ã©\r", 1, 0.5)
def test_no_character_is_lost_and_no_line_moves(text: str, shortest: int, letters: float):
    rules = Clean(preset="monograph", min_line_chars=shortest, min_letters=letters, min_document_chars=10)
    document, (done,) = clean_document(Document("a.txt", "0" * 64, text=text), rules)
    assert visible(text) + done.added.total() == visible(document.text) + done.dropped
    assert document.text == "" or document.text.count("\n") == text.count("\n")


def build(
    folder: Path, *, method: str = "sft", source: str = "a.txt", **dataset: Any
) -> tuple[dict[str, Any], list[Any]]:
    recipe = Recipe(
        name="x",
        root=str(folder),
        base=None if method == "scratch" else "b",
        sources=[Source(path=source)],
        dataset=Dataset(validation=0.0, **dataset),
        train=Train(method=method),  # type: ignore[arg-type]
    )
    return build_dataset(recipe, folder / "out"), list(read_examples(folder / "out/train.jsonl"))


def dropped_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/dropped.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["sft", "scratch"])
def test_what_a_build_cuts_is_counted_and_can_be_read_back(tmp_path: Path, method: str):
    (tmp_path / "a.txt").write_text(f"CAPÍTULO I\n{PROSE}\nMenu\n\n\nMapa\n{OTHER} nÃ£o\n{THIRD}\n", encoding="utf-8")
    summary, (kept,) = build(tmp_path, method=method, clean=PRESET)
    assert kept.text == f"{PROSE}\n\n{OTHER} não\n{THIRD}"
    assert kept.line == (2 if method == "sft" else 1)
    assert summary["cut"] == {"wrong_encoding": 1, "upper_case": 1, "short_line": 2} and summary["dropped"] == {}
    assert summary["balanced"] and summary["characters"]["added"] == {"wrong_encoding": 3}
    assert {row["reason"]: row["cut"] for row in dropped_rows(tmp_path)} == {
        "wrong_encoding": [[7, "nÃ£o"]],
        "upper_case": [[1, "CAPÍTULO I"]],
        "short_line": [[3, "Menu"], [6, "Mapa"]],
    }


def test_a_document_of_which_cleaning_leaves_nothing_is_counted(tmp_path: Path):
    """Every example of a build is a document that came in, or one that is counted among those left out."""
    rows = [f"{PROSE}\n{OTHER}\n{THIRD}", "Menu\nMapa", "CAPÍTULO I"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in rows), encoding="utf-8")
    summary, kept = build(tmp_path, method="scratch", source="a.jsonl", clean=PRESET)
    assert len(kept) == 1 and summary["documents"] == 3 and summary["dropped"] == {"cleaned_away": 2}
    assert summary["balanced"] and summary["cut"] == {"short_line": 2, "upper_case": 1}
    assert [row["where"] for row in dropped_rows(tmp_path) if row["reason"] == "cleaned_away"] == [
        "a.jsonl:2",
        "a.jsonl:3",
    ]


@needs_shared
def test_machado_is_mostly_kept():
    kept = lost = 0
    for file in sorted((SHARED / "ptbr/machado/romance").glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        document, (done,) = clean_document(Document(file.name, "", text=text), PRESET)
        kept, lost = kept + visible(document.text), lost + done.dropped
    assert kept > 1_000_000 and lost < 0.05 * kept


# --- personal data

SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5",
    "sk-proj-Ab3dEf6hIj9kLm2nOp5q",
    "xoxb-123456789012-abcdefGHIJKL",
    "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("CPF 529.982.247-25 ou 52998224725.", ["CPF", "CPF"]),
        ("CNPJ 11.222.333/0001-81; 12.ABC.345/01DE-35", ["CNPJ", "CNPJ"]),
        ("NIF: 501964843, PT501964843", ["NIF", "NIF"]),
        ("Em 2024 havia 501964843 coisas.", []),
        ("IBAN PT50 0002 0123 1234 5678 9015 4", ["IBAN"]),
        ("IBAN PT50 0002 0123 1234 5678 9015 5", []),
        ("cartão 4111 1111 1111 1111, 378282246310005", ["CARD", "CARD"]),
        ("cartão 4111 1111 1111 1112", []),
        ("(11) 98765-4321, +55 11 3456-7890, +351 912 345 678, 912 345 678, 289 123 456", ["PHONE"] * 5),
        ("de 1994-1998, ISBN 978-85-359-0277-7, p. 1234567, 1.234.567.890", []),
        ("ana.maria@mar.pt, joe@example.com", ["E-MAIL"]),
        ('password = "correct-horse-battery"', []),
        ('API_KEY = "x9Fq2LmZ7pTb4WcDk8"', ["SECRET"]),
        *((f"a {secret} b", ["SECRET"]) for secret in SECRETS),
    ],
)
def test_what_is_found(text: str, kinds: list[str]):
    assert [found.kind for found in find_personal_data(text)] == kinds


def test_random_numbers_are_no_cpf_but_one_in_a_hundred():
    numbers = [f"{random.Random(n).randrange(10**11):011}" for n in range(5000)]
    assert sum(map(is_cpf, numbers)) < 100
    assert sum(is_cnpj(f"{random.Random(n).randrange(10**14):014}") for n in range(5000)) < 100


@given(st.integers(0, 10**9 - 1))
def test_two_check_digits_make_a_cpf_and_no_other_two_do(base: int):
    right = [end for end in range(100) if is_cpf(f"{base:09}{end:02}")]
    assert len(right) == (0 if len(set(f"{base:09}")) == 1 and len(right) == 0 else 1)


@given(st.lists(st.sampled_from(["529.982.247-25", "ana@mar.pt", " e ", "x", "\n", "(11) 98765-4321", "912345678"])))
@settings(max_examples=50)
def test_a_mask_counts_every_character_and_leaves_nothing(parts: list[str]):
    text = " ".join(parts)
    done = mask(text)
    assert visible(text) + visible(done.written) == visible(done.text) + visible(done.taken)
    assert find_personal_data(done.text) == [] and (done.text == text) == (not done.kinds)


def rows_file(folder: Path) -> None:
    rows = [
        {"prompt": "Qual é o CPF da Ana?", "completion": "É 529.982.247-25."},
        {"prompt": "Quem é o Rui?", "completion": "Um jogador."},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def test_masked_in_messages(tmp_path: Path):
    rows_file(tmp_path)
    summary, examples = build(tmp_path, source="a.jsonl", personal_data="mask")
    assert [each.answer for each in examples] == ["É [CPF].", "Um jogador."]
    assert summary["personal_data"] == {"CPF": 1} and summary["balanced"]
    assert summary["characters"]["added"] == {"personal_data_masked": 5}
    assert "529" not in (tmp_path / "out/dropped.jsonl").read_text(encoding="utf-8")


def test_masked_in_a_heading_and_its_section(tmp_path: Path):
    (tmp_path / "a.md").write_text("# Ana, ana@mar.pt\n\nUm.\n\n## B\n\nDois.\n", encoding="utf-8")
    summary, examples = build(tmp_path, source="a.md", personal_data="mask", section_chars=25)
    assert all("mar.pt" not in each.text + each.heading for each in examples) and summary["balanced"]
    assert all(each.text.startswith(("# ", each.heading)) for each in examples)


def test_an_example_left_out_is_written_down_masked(tmp_path: Path):
    rows_file(tmp_path)
    summary, examples = build(tmp_path, source="a.jsonl", personal_data="drop")
    assert [each.line for each in examples] == [2] and summary["dropped"] == {"personal_data": 1}
    (row,) = dropped_rows(tmp_path)
    assert row["where"] == "a.jsonl:1" and row["messages"][1]["content"] == "É [CPF]." and summary["balanced"]


def test_an_audit_counts_kinds_and_shows_none(tmp_path: Path):
    rows_file(tmp_path)
    audit = audit_files([tmp_path / "a.jsonl"])
    (finding,) = [item for item in audit.findings if item.name == "personal_data"]
    assert (finding.severity, finding.count, finding.of) == ("warning", 1, 2) and finding.what.endswith(": 1 x CPF")
    assert "[CPF]" in finding.examples[0]["text"] and "529" not in json.dumps(audit.as_json())


@pytest.mark.parametrize("secret", ["529.982.247-25", *SECRETS])
def test_no_excerpt_shows_part_of_a_secret(secret: str):
    text = "x " * 60 + secret + " y" * 60
    for at in range(len(text)):
        assert all(piece not in excerpt(text, at) for piece in (secret[:8], secret[-8:], secret[4:12]))


def test_entropy():
    assert not is_random("aaaaaaaaaaaaaaaa1") and is_random("Zx81qPw0Lm47VbNt")
