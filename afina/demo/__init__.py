"""The demo: a small world that no model has seen, and the whole walk through it."""
