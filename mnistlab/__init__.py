"""mnistlab: why a network with 99 % on MNIST fails on what you draw."""

import ctypes
import os
import sys

# Two OpenMP threads that spin while they wait for each other can be twenty times
# slower than one on a machine with other work; threads that fall asleep at once
# are slow to wake. A short spin, then sleep, was best on a quiet machine and on a
# busy one. Both settings only count before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "50000")

# glibc gives big arrays back to the system at once and then gets them again as fresh
# pages, a thousand in every step of training: with two threads half of its time.
if sys.platform == "linux" and (libc := ctypes.CDLL(None)) and hasattr(libc, "mallopt"):
    libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, in bytes: from the heap up to there
    libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD: what the heap keeps when it is free

__version__ = "0.1.0"
