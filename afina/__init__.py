"""afina: documents in, a proven language-model adapter out."""

__version__ = "0.2.0"
