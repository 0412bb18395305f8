"""The colours that palettes of masks give to classes: for `datasets.build_folder`.

Masks that store ids often have a palette, which shows each class in its colour, as
VOC's do. It does not say what the ids mean, only how their classes are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from deeplab_tf.colors import Color
from deeplab_tf.data.building import files
from deeplab_tf.data.folders.class_map import Classes


def read_palette(path: str) -> bytes:
    """Reads the palette of a mask by the head of the file; its pixels stay undecoded.

    The colour of an entry counts, its transparency does not.

    Returns:
      Red, green and blue of entry 0, of entry 1 and so on; nothing where the file has
      no palette or cannot be read, which the builder says later.
    """
    try:
        with files.open_head(files.read_file(path), path) as image:
            if image.mode != "P":
                return b""
            # The head of a file has red, green and blue in an order of its own.
            drawn = Image.new("P", (1, 1))
            drawn.putpalette(image.palette)
            return bytes(drawn.getpalette("RGB"))
    # Damaged files make Pillow raise OSError, SyntaxError, struct.error and others.
    except Exception:
        return b""


def class_colors(classes: Classes, label_paths: Sequence[str]) -> tuple[Color, ...]:
    """Returns the colours that the masks' palettes give to the classes.

    A class that several stored ids are merged to has the colour of the lowest. Masks
    without a palette, grey ones, say nothing; a palette that is shorter than the
    classes says nothing of the rest.

    Args:
      classes: of the masks.
      label_paths: the masks.

    Returns:
      One RGB triple (0..255) per class. None at all where the palettes are not made
      for the classes: masks disagree about the colour of a class, none of them has one
      for it, two classes have the same, or all are greys.
    """
    lowest = {c: stored for stored, c in reversed([*enumerate(classes.class_ids)])}
    # An id that is ignored is still the entry of its class, which has no pixels.
    entries = [lowest.get(i, i) for i in range(len(classes.names))]
    colors: dict[int, Color] = {}
    known = set()
    for palette in map(read_palette, label_paths):
        if palette in known:
            continue
        known.add(palette)
        for entry in entries:
            color = tuple(palette[3 * entry : 3 * entry + 3])
            if color and colors.setdefault(entry, color) != color:
                return ()
    found = tuple(colors[entry] for entry in entries if entry in colors)
    only_greys = all(red == green == blue for red, green, blue in found)
    return () if only_greys or len(set(found)) < len(entries) else found
