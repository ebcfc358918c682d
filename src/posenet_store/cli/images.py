"""Load the images that a command names: under a progress bar, and with a word on which files are taken."""

from pathlib import Path
from typing import TYPE_CHECKING

from posenet_store.cli.output import print_line, show_steps

if TYPE_CHECKING:
    from posenet_store.images.image_set import ImageSet


def load_images(source: str, data_root: Path | None, limit: int | None = None) -> "ImageSet":
    """Load an image set; say which files are taken where that may surprise, and name the first that are not images."""
    from posenet_store.images.sources import load_image_set

    with show_steps(f"hashing {Path(source).name}", "images") as advance:
        images = load_image_set(source, data_root, limit, advance)
    for note in images.notes:
        print_line(f"note: {note}", err=True)
    if names := images.ignored:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        print_line(f"{len(names)} files are not images and are left out: {shown}", err=True)
    return images
