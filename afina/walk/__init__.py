"""The walk as a whole: every room in order, into one folder."""

from afina.walk.describe import describe_scores
from afina.walk.walk import Walk

__all__ = ["Walk", "describe_scores"]
