"""Load the images that a command names: under a progress bar, and with a word on which files are taken."""

from pathlib import Path
from typing import TYPE_CHECKING

from posenet_store.cli.output import print_line, show_steps

if TYPE_CHECKING:
    from posenet_store.images.image_set import ImageSet
    from posenet_store.images.sources import Load


def load_images(source: str, load: "Load", limit: int | None = None) -> "ImageSet":
    """Load what `find_images` has found for `source`; say which files are taken where that may surprise, and which are not."""
    with show_steps(f"hashing {Path(source).name}", "images") as advance:
        images = load(limit, advance)
    for note in images.notes:
        print_line(f"note: {note}", err=True)
    if names := images.ignored:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        print_line(f"{len(names)} files are not images and are left out: {shown}", err=True)
    return images
