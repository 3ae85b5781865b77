"""``python -m afina.cli``."""

from afina.cli.verbs import main

main()
