"""mnistlab: why a network with 99 % on MNIST fails on what you draw."""

import os

# Two OpenMP threads that spin while they wait for each other can be twenty times
# slower than one on a machine with other work; threads that fall asleep at once
# are slow to wake. A short spin, then sleep, was best on a quiet machine and on a
# busy one. Both settings only count before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "50000")

__version__ = "0.1.0"
