"""Settings of every test run: reproducible, headless, one thread a worker."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in parallel processes

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("landform", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("landform")
