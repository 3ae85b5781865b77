"""The benchmarks of serving: their client says who refused it and why, and their smallest forms run."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benched import opened, started
from tiny import NAMES, TOWNS, make_base


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    return opened("serve_load", monkeypatch)


def asked(bench: Any, answer: bytes, **options: Any) -> tuple[Any, str]:
    """What the benchmark's client makes of this answer, and the head that it sent."""

    async def talk() -> tuple[Any, str]:
        heads: list[str] = []

        async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answered, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            server = bench.Server("afina", SimpleNamespace(), port, "m")
            got = await server.ask("Onde?", 4, **options)
        return got, heads[0].replace(str(port), "PORT")

    return asyncio.run(talk())


def head(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\n\r\n".encode()


def test_a_streamed_answer_is_read_and_the_server_asked_by_its_own_address(bench: Any):
    events = [{"choices": [{"delta": {"content": "Faro"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    events.append({"choices": [], "usage": {"completion_tokens": 2}})
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    got, sent = asked(bench, head("200 OK") + lines.encode())
    assert (got.text, got.tokens, got.whole) == ("Faro", 2, True) and got.first > 0
    assert "\r\nHost: 127.0.0.1:PORT\r\n" in sent


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no name of this machine", "code": null}}', "no name of this machine"),
        (b'2c\r\n{"error": {"message": "no name of this machine"}}\r\n0\r\n\r\n', "no name of this machine"),
        (b'{"detail": "elsewhere"}', '{"detail": "elsewhere"}'),
        (b"{half of an answer}", "{half of an answer}"),
        (b"", ""),
    ],
)
def test_a_refusal_ends_the_benchmark_with_its_status_and_reason(bench: Any, body: bytes, said: str):
    """`Host: x` was refused, and the benchmark said that an empty answer is not whole."""
    with pytest.raises(bench.Refused) as refused:
        asked(bench, head("421 Misdirected Request") + body)
    assert str(refused.value) == f"afina refused: HTTP/1.1 421 Misdirected Request: {said}"
    assert isinstance(refused.value, SystemExit)


def test_who_hangs_up_reads_no_refusal(bench: Any):
    got, _ = asked(bench, head("421 Misdirected Request"), hang_up=2)
    assert got.text == "" and not got.whole


# ---- the smallest forms


@pytest.mark.long
def test_load_leaks_and_end_of_our_own_server(bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    started(bench, monkeypatch, "--tiny")
    said = capsys.readouterr().out
    assert re.search(r"^\| afina \| [\d.]+ \| [\d.]+ \| [\d.]+ \| 1\.00x \|$", said, re.MULTILINE), said
    assert "| largest of 2 | " in said and "transformers serve is left out" in said
    assert re.search(r"^40 requests in \d+ s, \d+ hung up, 0 of the others not whole$", said, re.MULTILINE), said
    assert "places taken at the end: 0; " in said
    assert "kill -TERM: 8 of 8 answers under way finished whole; a new one was refused" in said
    assert "ended with exit code 0 after" in said


@pytest.mark.long
def test_the_settings_for_aider_lead_to_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    started(opened("aider_edit", monkeypatch), monkeypatch, "--aider", "")
    said = capsys.readouterr().out
    assert re.search(r"asked by the settings, openai/tiny gives its one answer, \d+ tokens", said)
    assert "left out: aider is not installed here" in said


@pytest.mark.long
def test_the_engine_answers_as_the_rows_do_one_by_one(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    base = make_base(tmp_path / "base", **bench.TINY)
    rows = [{"instruction": f"Onde nasceu {a} {b}?", "input": "", "output": b} for a in NAMES[:2] for b in TOWNS]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("--base", base, "--data", tmp_path, "--rows", 12, "--new", 8)
    started(opened("generate_cpu", monkeypatch), monkeypatch, *words)
    said = capsys.readouterr().out
    prompts = dict(re.findall(r"^(afina|one by one|batches) +\d+ +[\d.]+x +(\d+) ", said, re.MULTILINE))
    assert prompts == {"afina": "12", "one by one": "3", "batches": "12"}, said
    assert "answers the same as one by one: 3 of 3" in said
