"""Images as people have them, as the RGB JPEG or PNG bytes that a record holds.

JPEG and PNG files in RGB stay as they are. Grey, palette and CMYK images, images with
an alpha channel that is opaque everywhere, and files of other kinds (`image_kinds`)
become RGB PNGs of the same pixels. Used in worker processes: without TensorFlow.
"""

from __future__ import annotations

import io

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from deeplab_tf.data.building import files, pairs

# Flags that are defined here are the caller's: --help lists them among its own.
flags.disclaim_key_flags()

STORED_AS_THEY_ARE = ("JPEG", "MPO", "PNG")
RGB_CONVERTIBLE = ("1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "RGB")


def read_image(path: str, exif_orientation: str = "refuse") -> bytes:
    """Returns an image as the bytes of an RGB JPEG or PNG file.

    Args:
      path: the image.
      exif_orientation: what to do with an image that a viewer shows turned: "apply"
        keeps it as shown, "ignore" as its pixels are stored, "refuse" raises.

    Raises:
      ValueError: unreadable, several pictures, transparent, more than 8 bits, or
        turned.
    """
    data = files.read_file(path)
    image = files.open_image(data, path)
    turned = pairs.orientation_of(image) != 1
    if turned and exif_orientation == "refuse":
        raise ValueError(
            f"{path} is shown turned by viewers (EXIF orientation); say whether masks "
            "fit it as shown, --exif_orientation=apply, or as stored, "
            "--exif_orientation=ignore"
        )
    if image.format in STORED_AS_THEY_ARE and image.mode == "RGB" and not turned:
        return data
    if turned and exif_orientation == "apply":
        image = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    # A new image, so that neither EXIF nor colour profile follows.
    Image.fromarray(np.asarray(to_rgb(image, path))).save(buffer, format="PNG")
    return buffer.getvalue()


def to_rgb(image: Image.Image, path: str) -> Image.Image:
    """Converts an opaque image of 8 bits a channel; `path` is for the error only.

    Raises:
      ValueError: it has transparent pixels or more than 8 bits.
    """
    if image.mode not in RGB_CONVERTIBLE:
        raise ValueError(
            f"{path} has Pillow mode {image.mode}; expected 8 bits of grey or colour"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise ValueError(f"{path} has transparent pixels; expected an opaque image")
    return image.convert("RGB")


def define_exif_flag() -> None:
    """Defines --exif_orientation, for builders that call `read_image`."""
    flags.DEFINE_enum(
        "exif_orientation",
        "refuse",
        ["refuse", "apply", "ignore"],
        "What masks fit where viewers show an image turned: the image as shown (apply) "
        "or as stored (ignore).",
    )
