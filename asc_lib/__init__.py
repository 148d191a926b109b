"""Acoustic scene classification informed by audio tagging (Jung et al. 2020): the reference implementation."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where its C library is glibc.

    Otherwise each large tensor is new memory, and a full-size training step on a processor spends two thirds of its
    time on page faults (``make bench``).
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        most_mmaps, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        mallopt(most_mmaps, 0)
        mallopt(trim_threshold, 2**31 - 1)


keep_freed_memory()
