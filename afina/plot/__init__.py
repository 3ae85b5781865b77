"""Pictures and tables of runs, made by matplotlib (extra ``plot``) of what :mod:`afina.watch` reads."""
