"""llama.cpp's server as a process of ours: how it is found, started, asked and ended.

``llama-server`` where one is on the PATH, else the package xllamacpp, whose wheel holds the same server
(:mod:`afina.llamacpp.launcher`). Both take the same options, and answer the same routes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, RecipeError
from afina.machine import free_port
from afina.temporary import temporary_folder

PACKAGE = "xllamacpp"
INSTALL = "pip install 'afina[gguf]', or put llama.cpp's llama-server on the PATH"
START_SECONDS = 600.0
"""Until a large model is read from a slow disk."""
END_SECONDS = 20.0
WARNINGS = "2"
"""How much llama.cpp says: not a line for every answer."""


def find_llama_cpp() -> list[str] | None:
    """The words that start llama.cpp's server; None where there is none."""
    if own := shutil.which("llama-server"):
        return [own]
    return [sys.executable, "-m", "afina.llamacpp.launcher"] if find_spec(PACKAGE) else None


def name_of_llama_cpp() -> str:
    """With its version, as far as it is known without starting it."""
    if own := shutil.which("llama-server"):
        return f"llama.cpp ({own})"
    return f"llama.cpp (xllamacpp {version(PACKAGE)})"


def need_llama_cpp(where: str) -> list[str]:
    """:func:`find_llama_cpp`.

    Raises:
        RecipeError: there is none.
    """
    found = find_llama_cpp()
    if found is None:
        raise RecipeError("llama.cpp is not here", INSTALL, where)
    return found


@dataclass(frozen=True)
class LlamaCppOptions:
    """What is served, and how.

    Args:
        model: the base's file.
        loras: adapters' files; a request names them by their place in this list.
        context: tokens of one answer with its prompt.
        places: answers at a time, each with a context of its own.
        exact: keys and values in 32 bits and attention step by step, where the file itself is measured.
        states: give the last layer's states of a text instead of answers.
    """

    model: Path
    loras: Sequence[Path] = ()
    context: int = 2048
    places: int = 1
    exact: bool = False
    states: bool = False

    def words(self, port: int) -> list[str]:
        """The command line, without the program."""
        words = ["--model", str(self.model), "--host", "127.0.0.1", "--port", str(port)]
        words += ["--ctx-size", str(self.context * self.places), "--parallel", str(self.places)]
        words += ["--cache-ram", "0", "--no-ui", "--log-verbosity", WARNINGS]
        for file in self.loras:
            words += ["--lora", str(file)]
        threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        if threads.isdecimal() and int(threads) > 0:  # as OpenMP takes it; of anything else it makes nothing
            words += ["--threads", threads]
        if self.exact:
            words += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        if self.states:  # a text is read in one piece
            whole = str(max(self.context, 32))
            words += ["--embedding", "--pooling", "none", "--batch-size", whole, "--ubatch-size", whole]
        return words


class LlamaCppServer:
    """A server that runs, asked over HTTP with the key that only we know."""

    def __init__(self, port: int, key: str, process: subprocess.Popen[bytes], log: Path) -> None:
        import httpx

        self.url, self.process, self.log = f"http://127.0.0.1:{port}", process, log
        self.headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=self.url, headers=self.headers, trust_env=False)

    def ask(self, route: str, body: Mapping[str, Any], *, seconds: float = 600.0) -> Any:
        """POST, and its JSON.

        Raises:
            AfinaError: it refuses, or is not there any more.
        """
        import httpx

        try:
            answer = self._client.post(route, json=dict(body), timeout=seconds)
        except httpx.HTTPError as error:
            raise self.gone(str(error)) from error
        if answer.status_code != 200:
            raise AfinaError(f"llama.cpp refuses: {answer.text[:500]}", "see what it says", route)
        return answer.json()

    def answers(self) -> bool:
        """Whether it has read its model."""
        import httpx

        try:
            return self._client.get("/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connection; the process is its starter's."""
        self._client.close()

    def gone(self, said: str) -> AfinaError:
        """Why it does not answer."""
        if (code := self.process.poll()) is not None:
            said = f"it has ended with exit code {code}: {last_lines(self.log)}"
        return AfinaError(f"llama.cpp does not answer: {said}", "start again", self.url)


@contextlib.contextmanager
def running_llama_cpp(options: LlamaCppOptions, where: str = "--engine llamacpp") -> Iterator[LlamaCppServer]:
    """Start a server on a port of its own and wait until it answers; it is ended with the block.

    Raises:
        RecipeError: there is no llama.cpp.
        AfinaError: it ends before it answers, with what it said last.
    """
    program = need_llama_cpp(where)
    port = free_port()
    words = [*program, *options.words(port)]
    if program[0] == sys.executable:
        words += ["--parent", str(os.getpid())]
    key = secrets.token_hex(16)
    with temporary_folder("llamacpp") as place:
        log = place / "log"
        with log.open("wb") as out:
            # A group of its own: Ctrl-C is for us, who let answers under way end first.
            process = subprocess.Popen(
                words,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"LLAMA_API_KEY": key},
                start_new_session=True,
            )
        try:
            server = LlamaCppServer(port, key, process, log)
            _wait_for(server)
            with contextlib.closing(server):
                yield server
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(server: LlamaCppServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AfinaError(
                f"llama.cpp ended with exit code {server.process.returncode} before it answered: "
                f"{last_lines(server.log)}",
                "see what it says",
            )
        if server.answers():
            return
        time.sleep(0.1)
    raise AfinaError(f"llama.cpp did not answer in {START_SECONDS:.0f} s", "try a smaller model", str(server.log))


def last_lines(log: Path, lines: int = 4) -> str:
    """The end of what it said, for an error."""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    wrong = [line for line in said if "error" in line.lower() or "fail" in line.lower()]
    return " / ".join((wrong or said)[-lines:]) or "nothing said"
