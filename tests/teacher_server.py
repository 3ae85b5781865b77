"""A teacher for tests: an OpenAI-compatible server on the loopback that answers as a script says; pages for it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from afina.dataset.build.build import build_dataset
from afina.dataset.questions.teacher import Teaching
from afina.recipe import Budget, Recipe, Source

Script = Callable[[str, int], str]
"""Section and how often it was asked about (from 1) -> how to answer, see :meth:`FakeTeacher.answer`."""

SENTENCE = re.compile(r"[^\n]*?\w\w[^\n]*?(?:[.!?](?=\s|\Z)|$)", re.MULTILINE)


def always_good(section: str, times: int) -> str:
    return "good"


class FakeTeacher:
    """``with FakeTeacher(script) as server``: `server.url`, and what it was asked."""

    def __init__(
        self, script: Script = always_good, *, usage: bool = True, tokens: tuple[int, int] = (100, 50)
    ) -> None:
        self.script, self.usage, self.tokens = script, usage, tokens
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        """Section -> well-formed answers sent."""
        self.times: list[float] = []
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock, self.over = threading.Lock(), threading.Event()

    def __enter__(self) -> FakeTeacher:
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with teacher.lock:
                    teacher.at_once += 1
                    teacher.most_at_once = max(teacher.most_at_once, teacher.at_once)
                try:
                    teacher.handle(self)
                except OSError:  # the client has gone
                    self.close_connection = True
                finally:
                    with teacher.lock:
                        teacher.at_once -= 1

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        payload = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        section = payload["messages"][1]["content"].partition("<<<\n")[2].rpartition("\n>>>")[0]
        with self.lock:
            self.asked[section] += 1
            times = self.asked[section]
            self.times.append(time.monotonic())
            self.payloads.append(payload)
            self.headers.append(dict(request.headers))
        self.answer(request, self.script(section, times), section, payload)

    def answer(self, request: BaseHTTPRequestHandler, how: str, section: str, payload: dict[str, Any]) -> None:
        """`good`, `slow` (good, late), `fenced`, `unsupported`, `wrong`, `empty`, `cut`, `half`, `short_body`,
        `silent`, `trickle`, `drop`, `echo` (the key), `nothing_to_ask`, or a status with a header:
        `429 Retry-After=1`."""
        status, _, rest = how.partition(" ")
        if status.isdecimal():
            headers = dict([rest.split("=")]) if "=" in rest else {}
            key = request.headers.get("Authorization", "")
            body = json.dumps({"error": {"message": f"{rest} {key}"}}).encode()
            return self.send(request, int(status), body, headers)
        if how == "silent":
            self.over.wait()
            return None
        if how == "trickle":
            request.send_response(200)
            request.end_headers()
            while not self.over.wait(0.05):
                request.wfile.write(b" ")
            return None
        if how == "drop":
            request.close_connection = True
            return None
        content = json.dumps(self.questions(section, payload, how), ensure_ascii=False)
        if how == "slow":
            time.sleep(0.05 + 0.01 * (len(section) % 7))
        if how == "fenced":
            content = f"```json\n{content}\n```"
        if how in ("wrong", "cut"):
            content = "Certainly! " + content[:40]
        if how == "empty":
            content = " "
        if how == "echo":
            content = content.replace("What", request.headers["Authorization"].removeprefix("Bearer ") + " what")
        body_json: dict[str, Any] = {
            "choices": [{"message": {"content": content}, "finish_reason": "length" if how == "cut" else "stop"}]
        }
        if self.usage:
            body_json["usage"] = {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1]}
        body = json.dumps(body_json).encode()
        if how == "half":
            body = body[: len(body) // 2]
        if how not in ("half", "short_body", "wrong", "empty", "cut"):
            with self.lock:
                self.answered[section] += 1
        headers = {"Content-Length": str(len(body) + 9)} if how == "short_body" else {}
        return self.send(request, 200, body, headers)

    @staticmethod
    def questions(section: str, payload: dict[str, Any], how: str) -> dict[str, Any]:
        """As many as the prompt asks for, each about a sentence of the section."""
        counts = re.findall(r"\d+", payload["messages"][0]["content"])
        wanted, paraphrases = int(counts[0]), int(counts[1])
        if how == "nothing_to_ask":
            return {"questions": []}
        sentences = [found[0].strip() for found in SENTENCE.finditer(section)]
        rows = []
        for number in range(wanted):
            quote = sentences[number % len(sentences)]
            about = " ".join(re.findall(r"\w+", quote)[:4])
            answer = "Something wholly invented elsewhere." if how == "unsupported" else quote
            again = [f"Please tell number {number}.{each} of {about}" for each in range(paraphrases)]
            rows.append(
                {"question": f"What of {about} {number}?", "paraphrases": again, "answer": answer, "quote": quote}
            )
        return {"questions": rows}

    @staticmethod
    def send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


TOWNS = ["Faro", "Lagos", "Tavira", "Loule", "Silves", "Olhao", "Portimao", "Albufeira", "Aljezur", "Monchique"]


def write_pages(folder: Path, towns: list[str] = TOWNS) -> Path:
    """One page, one section per town."""
    parts = [
        f"# {town}\n\n{town} has {20 + n} gates. The mayor of {town} keeps {n + 3} clocks.\n"
        for n, town in enumerate(towns)
    ]
    (folder / "towns.md").write_text("\n".join(parts), encoding="utf-8")
    return folder


def recipe(folder: Path, url: str, **settings: Any) -> Recipe:
    dataset = {"section_chars": 120, "validation": settings.pop("validation", 0.2)}
    defaults = {"questions_per_section": 2, "paraphrases": 1, "concurrency": 4, "timeout_seconds": 5.0, "retries": 2}
    return Recipe(
        name="x",
        root=str(folder),
        base="base",
        sources=[Source(path="towns.md")],
        dataset=dataset | {"teacher": {"url": url, "model": "m", **(defaults | settings)}},  # type: ignore[arg-type]
        budget=Budget(currency="EUR"),
    )


def build(made: Recipe, folder: Path, name: str = "a", cache: str = "cache") -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    summary = build_dataset(made, folder / name, teaching=Teaching(folder / cache, said.append))
    asking, taught = summary["asking"], summary["teacher"]
    assert asking["asked"] == asking["cached"] + asking["answered"] + sum(asking["failed"].values())
    assert taught["answered"] == asking["cached"] + asking["answered"]
    put = taught["answered"] + len(taught["failed"]) + len(taught["not_asked"])
    assert taught["sections"] == put + taught["repeated"] + taught["too_short"]
    assert summary["balanced"]
    return summary, said


def town_of(section: str) -> str:
    return next(town for town in TOWNS if town in section)
