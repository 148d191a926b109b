"""Acoustic scene classification informed by audio tagging (Jung et al. 2020): the reference implementation."""

import os

# Large pages for large tensors: most of the time of making one otherwise goes to page faults. Read by torch once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
