"""``python -m afina``, and ``torchrun -m afina`` for several processes that train together."""

from afina.cli import main

if __name__ == "__main__":
    main()
