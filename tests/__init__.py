"""Tests of the package; the folders mirror it."""

import torch

# The matrices of the tests are tiny. With a second thread on a busy machine, OpenMP's barriers wait for a thread that the
# other process holds up, and an extraction of half a second takes a minute.
torch.set_num_threads(1)
