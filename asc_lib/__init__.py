"""Acoustic scene classification informed by audio tagging (Jung et al. 2020)."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones (glibc on Linux).

    Otherwise each large tensor is new memory, and a full-size training step on a CPU spends
    two thirds of its time on page faults (``make bench``).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


keep_freed_memory()
