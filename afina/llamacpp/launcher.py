"""llama.cpp's own server out of the package xllamacpp, under the options of ``llama-server`` that afina uses.

    python -m afina.llamacpp.launcher --model base.gguf --host 127.0.0.1 --port 8081 --ctx-size 8192 --parallel 4

It ends with SIGTERM, and with the process that started it where that was told by ``--parent``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

LOOK_SECONDS = 0.5
"""How often it looks whether its parent is still there."""


def parser() -> argparse.ArgumentParser:
    """The options, by llama-server's names; ``--parent`` is our own."""
    words = argparse.ArgumentParser(prog="afina.llamacpp.launcher")
    words.add_argument("--model", required=True)
    words.add_argument("--lora", action="append", default=[])
    words.add_argument("--host", default="127.0.0.1")
    words.add_argument("--port", type=int, required=True)
    words.add_argument("--ctx-size", type=int, required=True)
    words.add_argument("--batch-size", type=int)
    words.add_argument("--ubatch-size", type=int)
    words.add_argument("--parallel", type=int, default=1)
    words.add_argument("--threads", type=int)
    words.add_argument("--cache-ram", type=int)
    words.add_argument("--cache-type-k", choices=("f16", "f32"))
    words.add_argument("--cache-type-v", choices=("f16", "f32"))
    words.add_argument("--flash-attn", choices=("on", "off", "auto"), default="auto")
    words.add_argument("--embedding", action="store_true")
    words.add_argument("--pooling", choices=("none",))
    words.add_argument("--no-ui", action="store_true")
    words.add_argument("--log-verbosity", type=int)
    words.add_argument("--parent", type=int)
    return words


def parameters(given: argparse.Namespace) -> Any:
    """llama.cpp's parameters; the key comes from the environment, as llama-server's does."""
    import xllamacpp

    made = xllamacpp.CommonParams()
    made.model.path = given.model
    made.hostnames, made.port = [given.host], given.port
    made.n_ctx, made.n_parallel = given.ctx_size, given.parallel
    made.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, 1.0) for file in given.lora]
    made.ui = not given.no_ui
    if given.batch_size:
        made.n_batch = given.batch_size
    if given.ubatch_size:
        made.n_ubatch = given.ubatch_size
    if given.threads:
        made.cpuparams.n_threads = made.cpuparams_batch.n_threads = given.threads
    if given.cache_ram is not None:
        made.cache_ram_mib = given.cache_ram
    kinds = {"f16": xllamacpp.ggml_type.GGML_TYPE_F16, "f32": xllamacpp.ggml_type.GGML_TYPE_F32}
    if given.cache_type_k:
        made.cache_type_k = kinds[given.cache_type_k]
    if given.cache_type_v:
        made.cache_type_v = kinds[given.cache_type_v]
    made.flash_attn_type = {
        "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
        "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
    }[given.flash_attn]
    if given.log_verbosity is not None:
        made.verbosity = given.log_verbosity
    if given.embedding:
        made.embedding = True
    if given.pooling == "none":
        made.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
    if key := os.environ.get("LLAMA_API_KEY"):
        made.api_keys = [key]
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Serve until told to end."""
    given = parser().parse_args(words)

    def end(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    import xllamacpp

    server = xllamacpp.Server(parameters(given))
    sys.stderr.write(f"listening at {server.listening_address}\n")
    while given.parent is None or os.getppid() == given.parent:
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
