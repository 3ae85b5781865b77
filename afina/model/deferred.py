"""Modules that are loaded when something is asked of them, for a process that uses little of what it imports.

torch and transformers import at their start what hardly anyone uses: a compiler, a computer algebra, a list of what
stands in two thousand files. In a process that ends after one answer that is most of its time.

>>> import sys
>>> _ = sys.modules.pop("colorsys", None)  # what is imported already stays as it is
>>> defer({"colorsys": Deferred()})
>>> import colorsys
>>> "rgb_to_hls" in vars(colorsys)
False
>>> colorsys.rgb_to_hls(0, 0, 1)[0] == 2 / 3, "rgb_to_hls" in vars(colorsys)
(True, True)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Deferred:
    """What a module answers without being loaded."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Name -> what it is for this process."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Name -> the module that it comes from, where a package only hands it on."""
    submodules: bool = False
    """Whether its submodules are answered too: none of them has the name of something else in it."""


def defer(modules: Mapping[str, Deferred]) -> None:
    """Let each of the modules be loaded when it is first asked for a name that it does not answer. Its submodules can
    be imported without it; what is imported already stays as it is.

    Right for a module that only offers names; one that is imported for what it does to others has to be loaded.
    """
    sys.meta_path.insert(0, _Finder(modules))


class _DeferredModule(ModuleType):
    """A module that stands in `sys.modules`, whose file has not been run."""

    def __getattr__(self, name: str) -> Any:
        """Called for what the module does not hold."""
        current = sys.modules.get(self.__name__)
        if current is not self and current is not None:  # one that puts another object in its place, as transformers
            return getattr(current, name)
        own = name.startswith("__") and name not in ("__all__", "__version__")  # the import system's own questions
        loader = None if own or self.__spec__ is None else self.__spec__.loader
        if isinstance(loader, _Loader) and not loader.began:
            if name in loader.deferred.values:
                return loader.deferred.values[name]
            if name in loader.deferred.places:
                return getattr(importlib.import_module(loader.deferred.places[name]), name)
            if name == "__version__" and "." not in self.__name__:
                return importlib.import_module("importlib.metadata").version(self.__name__)
            if loader.deferred.submodules and PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__):
                return importlib.import_module(f"{self.__name__}.{name}")
            loader.began = True
            loader.real.exec_module(self)
            return getattr(sys.modules[self.__name__], name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Loader(Loader):
    """Puts a module in its place and leaves its file for later."""

    def __init__(self, real: Loader, deferred: Deferred) -> None:
        self.real, self.deferred, self.began = real, deferred, False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""

    def __getattr__(self, name: str) -> Any:
        """Source and data of the module, as its own loader gives them."""
        return getattr(self.real, name)


class _Finder(MetaPathFinder):
    """Finds the modules that are deferred, wherever Python finds them."""

    def __init__(self, modules: Mapping[str, Deferred]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.modules:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.modules[name])
        return spec
