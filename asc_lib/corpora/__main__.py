"""``python -m asc_lib.corpora`` is ``asc data``."""

from ..cli import data_app

data_app()
