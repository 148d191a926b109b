"""``python tests/tidy_notebooks.py NOTEBOOK...``: make executed notebooks fit to be committed.

A widget without its kernel shows nothing, so its output is removed; pictures keep 128 colours,
a third of their bytes.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image

from asc_lib.files import write_text


def smaller(picture: str) -> str:
    """A PNG in base64, in 128 colours; as it was, if that is not smaller."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128).save(
        buffer, "PNG", optimize=True
    )
    return min(base64.b64encode(buffer.getvalue()).decode(), picture, key=len)


def tidy(path: Path) -> None:
    """Tidy a notebook in place."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if "widget" in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = smaller(picture)
    write_text(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        tidy(Path(name))
