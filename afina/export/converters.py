"""Other people's converters, where they are installed: llama.cpp's and mlx-lm's own."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, RecipeError
from afina.llamacpp.gguf_write import GET_CONVERTER
from afina.model.base_damage import read_config
from afina.model.mlx.mlx_model import flat_rope
from afina.whole import write_json

SCRIPT = "convert_hf_to_gguf.py"


def check_converter(checkout: Path, config: Mapping[str, Any]) -> None:
    """Ask llama.cpp's converter, before any weights are read, whether it knows a model.

    Args:
        checkout: the folder with its ``convert_hf_to_gguf.py``.
        config: the content of ``config.json``.

    Raises:
        RecipeError: it is not there, or knows no such architecture.
        AfinaError: it does not run.
    """
    if not (checkout / SCRIPT).is_file():
        raise RecipeError(f"{checkout} has no {SCRIPT}", GET_CONVERTER, "--llama-cpp")
    listed = _run([sys.executable, str(checkout / SCRIPT), "--print-supported-models"], lambda _: None)
    known = set(re.findall(r"^\s*- (\w+)$", listed, re.MULTILINE))
    named = config.get("architectures") or [""]
    if known and named[0] not in known:
        raise RecipeError(
            f"llama.cpp's converter in {checkout} knows no {named[0] or config.get('model_type')}",
            f"a newer one may (it knows {len(known)}); or --to merged",
            "--llama-cpp",
        )


def convert_by_llama_cpp(checkout: Path, model: Path, file: Path, kind: str, say: Callable[[str], None]) -> None:
    """A merged folder to GGUF, by a checkout's ``convert_hf_to_gguf.py`` in this Python.

    Raises:
        AfinaError: it failed, with the last lines that it printed.
    """
    _run([sys.executable, str(checkout / SCRIPT), str(model), "--outfile", str(file), "--outtype", kind], say)


def find_rounder(kind: str, checkout: Path | None) -> str:
    """What rounds a GGUF to a kind that the gguf package does not: a checkout's ``llama-quantize``, or the system's.

    Raises:
        RecipeError: none is here, or llama.cpp knows no such kind.
    """
    import gguf

    if f"MOSTLY_{kind.upper()}" not in gguf.LlamaFileType.__members__:
        raise RecipeError(f"llama.cpp knows no {kind}", "use e.g. q8_0, q6_k, q5_k_m or q4_k_m", "--quantize")
    places = [checkout / "build/bin/llama-quantize", checkout / "llama-quantize"] if checkout else []
    program = next((str(place) for place in places if place.is_file()), shutil.which("llama-quantize"))
    if program is None:
        raise RecipeError(
            f"{kind} is rounded by llama.cpp's llama-quantize, which is not here",
            "put it on the PATH, give --llama-cpp PATH, or use --quantize q8_0",
            "--quantize",
        )
    return program


def quantize_gguf(source: Path, file: Path, kind: str, checkout: Path | None, say: Callable[[str], None]) -> None:
    """Round a GGUF further by llama.cpp.

    Raises:
        RecipeError: from :func:`find_rounder`.
        AfinaError: it failed.
    """
    _run([find_rounder(kind, checkout), str(source), str(file), kind.upper()], say)


def kinds_in(file: Path) -> dict[str, int]:
    """GGML's types in a GGUF file, each with how many tensors are held in it."""
    import gguf

    kinds = Counter(tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(file).tensors)
    return dict(kinds.most_common())


def write_for_mlx_lm(folder: Path) -> None:
    """Say in ``config.json`` how positions are turned as mlx-lm reads it too, beside transformers 5's own form."""
    config = read_config(folder)
    write_json(folder / "config.json", config | flat_rope(config))


def quantize_mlx(model: Path, folder: Path, bits: int, group_size: int | None = None) -> None:
    """A merged folder in 4 or 8 bits, by mlx-lm; `model` is removed.

    Args:
        group_size: how many numbers share a scale; mlx-lm's own where not given.
    """
    from mlx_lm import convert

    write_for_mlx_lm(model)
    made = folder / ".made"
    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(model), str(made), quantize=True, q_bits=bits, q_group_size=group_size)
    shutil.rmtree(model)
    for file in made.iterdir():
        file.rename(folder / file.name)
    made.rmdir()


def _run(words: list[str], say: Callable[[str], None]) -> str:
    say(" ".join(words))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise AfinaError(f"{Path(words[1] if len(words) > 1 else words[0]).name} failed: {last}", "see what it says")
    return done.stdout + done.stderr
