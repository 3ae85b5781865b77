"""The command lines of vLLM and mlx-lm, read by their own parsers.

vLLM's are here as data (vllm_arguments.json) and are asked themselves where a Python that has vLLM is named in
AFINA_VLLM_PYTHON; mlx-lm is asked where it is installed, or named in AFINA_MLX_PYTHON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_serve import make_adapter
from tiny import make_base, make_recipe

from afina.errors import AfinaError, RecipeError
from afina.machine import free_port
from afina.plan.bases import find_shape
from afina.plan.device import find_device
from afina.plan.serving import Serving, largest_context
from afina.recipe import Adapter, Chat
from afina.run import Progress
from afina.serve.commands import mlx_command, show_command, vllm_command
from afina.serve.opened import Target, find_target
from afina.serve.preflight import Preflight, choose_context
from afina.serve.serve import ServeOptions, look_text, serve

ARGUMENTS = json.loads((Path(__file__).parent / "vllm_arguments.json").read_text(encoding="utf-8"))["arguments"]


def run_of(folder: Path, **values: Any) -> Target:
    recipe = make_recipe("org/base").model_copy(update={"base_revision": "abc", "trust_remote_code": True} | values)
    chat = Chat(template="chatml", template_args={"enable_thinking": False})
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter/chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return Target("corrida", "org/base", chat, folder, recipe, folder, folder / "adapter")


def commands(folder: Path) -> dict[str, list[str]]:
    """Every kind of command."""
    looked = Preflight(folder, 10240, "", rank=12)
    plain = Target("base", "org/base", Chat(), Path())
    odd = Target("b", str(folder / "a=1,b"), Chat(), Path())
    four_bit = run_of(folder / "four", adapter=Adapter(kind="qlora"))
    at = {"host": "127.0.0.1", "port": 8000}
    return {
        "base": vllm_command(plain, {}, looked, **at),  # type: ignore[arg-type]
        "adapters": vllm_command(run_of(folder / "run"), {"b": odd}, looked, **at),  # type: ignore[arg-type]
        "four bits": vllm_command(four_bit, {}, looked, **at),  # type: ignore[arg-type]
    }


def vllm_parser() -> argparse.ArgumentParser:
    """What vLLM's own parser takes of these words, from the data."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    kinds = {"int": int, "float": float, "json": json.loads}
    for name, given in ARGUMENTS.items():
        options = {"type": kinds[given["type"]]} if "type" in given else {}
        if given.get("nargs") == 0:
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, **options, **{key: given[key] for key in ("nargs", "choices") if key in given})
    return parser


def test_vllms_words_are_vllms(tmp_path: Path):
    read = {name: vllm_parser().parse_args(words[2:]) for name, words in commands(tmp_path).items()}
    assert read["base"].model_tag == "org/base" and read["base"].served_model_name == ["base"]
    both = read["adapters"]
    assert (both.max_model_len, both.enable_lora, both.max_loras, both.max_lora_rank) == ("10240", True, 2, 16)
    assert both.lora_modules[0] == f"corrida={tmp_path}/run/adapter"
    assert json.loads(both.lora_modules[1]) == {"name": "b", "path": f"{tmp_path}/a=1,b"}
    assert both.chat_template == f"{tmp_path}/run/adapter/chat_template.jinja" and both.revision == "abc"
    assert both.default_chat_template_kwargs == {"enable_thinking": False} and both.trust_remote_code
    assert read["four bits"].quantization == "bitsandbytes"


def ask(python: str, program: str, words: list[str]) -> dict[str, Any]:
    """What another program's own parser makes of the words, in its own Python."""
    done = subprocess.run([python, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


VLLM = """
import json, sys
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()  # no GPU is needed to read words
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(json.dumps(vars(make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])), default=str))
"""


@pytest.mark.skipif("AFINA_VLLM_PYTHON" not in os.environ, reason="names no Python with vLLM")
def test_vllm_reads_its_words(tmp_path: Path):
    for words in commands(tmp_path).values():
        read = ask(os.environ["AFINA_VLLM_PYTHON"], VLLM, words[2:])
        assert read["model_tag"] == "org/base" and read["max_model_len"] == 10240


MLX = """
import argparse, json
read = argparse.ArgumentParser.parse_args
def only_read(self, *given):
    print(json.dumps(vars(read(self, *given)), default=str))
    raise SystemExit
argparse.ArgumentParser.parse_args = only_read
from mlx_lm.server import main
main()
"""


def test_mlx_lm_reads_its_words():
    python = os.environ.get("AFINA_MLX_PYTHON")
    if python is None and importlib.util.find_spec("mlx_lm") is None:
        pytest.skip("mlx-lm is not installed")
    target = Target("base", "some/model", Chat(template_args={"enable_thinking": False}), Path())
    words = mlx_command(target, {}, host="127.0.0.1", port=8123)
    assert words[:4] == [sys.executable, "-m", "mlx_lm", "server"]
    read = ask(python or sys.executable, MLX, words[4:])
    assert (read["model"], read["host"], read["port"]) == ("some/model", "127.0.0.1", 8123)
    assert read["chat_template_args"] == {"enable_thinking": False}


def test_mlx_serves_exports_and_nobody_elses_keys(tmp_path: Path):
    with pytest.raises(RecipeError, match="in its own format"):
        mlx_command(run_of(tmp_path), {}, host="127.0.0.1", port=8080)
    with pytest.raises(RecipeError, match="asks nobody for a key"):
        mlx_command(Target("b", "b", Chat(), Path()), {}, host="127.0.0.1", port=8080, api_key="k")


def test_a_key_stands_in_no_command(tmp_path: Path):
    shown = show_command(commands(tmp_path)["base"], "secret")
    assert "secret" not in shown and shown.startswith('VLLM_API_KEY="$AFINA_API_KEY" vllm serve')


@pytest.mark.parametrize(
    ("base", "device", "length", "fits"),
    [
        ("Qwen/Qwen3-8B", "RTX 4090", 40960, False),
        ("Qwen/Qwen3-8B", "RTX 4090", 8192, True),
        ("Qwen/Qwen3-32B", "H100 SXM", 40960, False),
        ("Qwen/Qwen3-32B", "H100 SXM", 16384, False),
        ("Qwen/Qwen3-32B", "H100 SXM", 10240, True),
    ],
)
def test_documented_contexts_are_refused_where_they_failed(base: str, device: str, length: int, fits: bool):
    """What people found out by renting: see docs/planning.md."""
    shape, place = find_shape(base), find_device(device)
    room = largest_context(shape, place, Serving(lora_slots=int("32B" in base)))
    problems: list[Any] = []
    choose_context(shape.max_positions, room, length, place, problems, anyway=False)
    assert (not problems) == fits


@pytest.mark.parametrize(
    ("base", "device", "lora", "least", "below"),
    [("Qwen/Qwen3-8B", "RTX 4090", 0, 8192, 40960), ("Qwen/Qwen3-32B", "H100 SXM", 1, 10240, 16384)],
)
def test_what_is_served_unasked_fits_for_sure(base: str, device: str, lora: int, least: int, below: int):
    shape, place = find_shape(base), find_device(device)
    room = largest_context(shape, place, Serving(lora_slots=lora))
    context, why = choose_context(shape.max_positions, room, None, place, [], anyway=False)
    assert least <= context < below and place.name in why


def test_dry_run_says_why(tmp_path: Path):
    base = str(make_base(tmp_path / "base"))
    values, text = look_text(
        Target("base", base, Chat(), Path()), {}, ServeOptions(engine="vllm", port=free_port(), anyway=True), print
    )
    assert values["command"][:3] == ["vllm", "serve", base] and "# context 64: all that the model sees" in text
    with pytest.raises(AfinaError, match="the model sees 64"):
        look_text(
            Target("base", base, Chat(), Path()),
            {},
            ServeOptions(engine="vllm", port=free_port(), max_model_len=65),
            print,
        )


FAKE = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 401); self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(json.dumps([sys.argv[1:], self.headers["Authorization"], asked]) + "\\n")
        body = json.dumps({{"choices": [{{"message": {{"content": asked["model"]}}}}]}}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
assert os.environ["VLLM_API_KEY"] == "secret" and "secret" not in sys.argv
HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def test_another_server_is_started_compared_and_ended_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program called vllm, whose base and adapter answer with their names."""
    base = make_base(tmp_path / "base")
    run = tmp_path / "corrida"
    make_adapter(base, run / "adapter", 1)
    recipe = make_recipe(base, chat=Chat(system="Fala.")).model_copy(update={"name": "corrida"})
    (run / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    row = {"prompt": "Onde?", "base": str(base), "adapter": "corrida"}
    (run / "predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    port = free_port()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("note:"):  # the last line before it waits
            os.kill(os.getpid(), signal.SIGTERM)

    shown: list[tuple[str, int, int | None]] = []

    @contextlib.contextmanager
    def stage(name: str) -> Iterator[Progress]:
        yield lambda done, total, _: shown.append((name, done, total))

    before = signal.getsignal(signal.SIGTERM)
    serve(find_target(str(run)), {}, ServeOptions(engine="vllm", port=port, api_key="secret", anyway=True), say, stage)
    assert shown == [("identity", done, 2) for done in range(3)]
    assert signal.getsignal(signal.SIGTERM) is before
    assert any("corrida 1 of 1" in line for line in said) and "serving at" in said[-2] and "secret" not in "".join(said)
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert sorted(asked["model"] for _, _, asked in seen) == sorted([str(base), "corrida"])
    assert all(key == "Bearer secret" and asked["messages"][0]["content"] == "Fala." for _, key, asked in seen)
    with socket.socket() as probe:  # it is gone
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
