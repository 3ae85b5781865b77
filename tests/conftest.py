"""What holds for every test: no network, no chatter of libraries, no time limit on one property."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

# Set before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

# Finished trainings are noted in the user's folder; those of the tests are not.
os.environ["AFINA_HOME"] = tempfile.mkdtemp(prefix="afina-home-")

# The models of the tests are tiny: one thread is faster than two that wait for each other, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine is no defect, and a test that fails must fail again tomorrow.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("house")
