"""The command line. One file a group of verbs; ``verbs`` puts them together."""

from afina.cli.verbs import app, main

__all__ = ["app", "main"]
