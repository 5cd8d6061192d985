"""mnistlab: why a network with 99 % on MNIST fails on what you draw."""

import os

# Two OpenMP threads that spin while they wait can be twenty times slower than
# one on a machine with other work. The setting only counts before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
