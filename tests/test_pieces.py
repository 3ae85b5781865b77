"""What single tokens stand for, and the monograph's two ratios over them: its published figures come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afina.errors import BaseError
from afina.tokenizer.pieces import PieceTable, TokenPiece, read_sentencepiece
from afina.tokenizer.ratios import PieceCounts, count_pieces

MONOGRAPH = Path(__file__).parents[2] / "shared/data/ptbr/monograph"
published = pytest.mark.skipif(not MONOGRAPH.is_dir(), reason="the monograph's tokenizers and samples are not here")


def outputs(name: str) -> list[str]:
    found = json.loads((MONOGRAPH / "samples" / name).read_text(encoding="utf-8"))
    rows = found if isinstance(found, list) else next(iter(found.values()))
    return [row["output"] for row in rows]


def counted(table: PieceTable, samples: str) -> PieceCounts:
    return sum((count_pieces(table.cut(text)) for text in outputs(samples)), PieceCounts())


@published
@pytest.mark.parametrize(
    ("samples", "tokenizer", "short"),
    [
        ("samples_v5b_long_final.json", "spm_v5b_40k.model", 0.0499),
        ("samples_v5b_long_final.json", "spm_v5b_12k.model", 0.173),
        ("samples_v6_aligned.json", "spm_v6_16k.model", 0.1549),
        ("samples_v6_aligned.json", "spm_v5b_40k.model", 0.034),
    ],
)
def test_the_monographs_short_piece_ratio(samples: str, tokenizer: str, short: float):
    found = counted(read_sentencepiece(MONOGRAPH / "tokenizers" / tokenizer), samples)
    assert found.fallback == 0
    assert found.short_ratio == pytest.approx(short, abs=0.0005)


@published
@pytest.mark.parametrize(
    ("report", "samples", "tokenizer"),
    [
        ("guardrails_v6_aligned.json", "samples_v6_aligned.json", "spm_v6_16k.model"),
        ("guardrails_v5b_long_final.json", "samples_v5b_long_final.json", "spm_v5b_40k.model"),
    ],
)
def test_each_sample_of_the_monographs_reports(report: str, samples: str, tokenizer: str):
    table = read_sentencepiece(MONOGRAPH / "tokenizers" / tokenizer)
    rows = json.loads((MONOGRAPH / "guardrails" / report).read_text(encoding="utf-8"))["per_sample"]
    found = [count_pieces(table.cut(text)) for text in outputs(samples)]
    assert [(each.pieces, each.short, each.fallback) for each in found] == [
        (row["token_count"], row["short_alpha_tokens"], row["fallback_tokens"]) for row in rows
    ]


@published
def test_a_character_that_a_vocabulary_lacks_is_bytes_or_unknown():
    with_bytes = read_sentencepiece(MONOGRAPH / "tokenizers/spm_v5b_40k.model")
    assert [(piece.data, piece.kind) for piece in with_bytes.cut("a 🙂")][-4:] == [
        (bytes([each]), "byte") for each in "🙂".encode()
    ]
    without = read_sentencepiece(MONOGRAPH / "tokenizers/spm_v6_16k.model")
    assert without.cut("a 🙂")[-1] == TokenPiece(b"", "unknown")
    assert count_pieces(without.cut("a 🙂")).fallback == 1


def test_a_file_that_is_no_sentencepiece_model_says_so(tmp_path):
    file = tmp_path / "x.model"
    file.write_bytes(b"\x00nothing")
    with pytest.raises(BaseError, match="is no SentencePiece model"):
        read_sentencepiece(file)
