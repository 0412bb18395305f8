r"""Writes anyone's folders of images and masks as TFRecords.

    python -m datasets.build_folder --input_dir=my_set --output_dir=data/my_set

`my_set/images/NAME.jpg` goes with `my_set/labels/NAME.png`; or name the two folders by
--images_dir and --labels_dir. A mask is one channel of class ids (palette or grey PNG).
Which pairs are for training and which for validation is found in this order:

1. sub-folders of the same names in both: `images/train`, `labels/train` and so on;
2. lists of names beside the folder of images: train.txt, trainval.txt, val.txt,
   test.txt;
3. a fraction of the names chosen by a seed: --val_fraction, --seed.

JPEG and PNG images in RGB are stored as they are. Grey, palette and CMYK images and
images with an alpha channel that is opaque everywhere, and BMP, TIFF and WebP files,
are stored as RGB PNGs of the same pixels.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from datasets import build, pairs
from datasets.info import IGNORE_LABEL, DatasetInfo

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
LIST_NAMES = ("train", "trainval", "val", "test")
STORED_AS_THEY_ARE = ("JPEG", "MPO", "PNG")
RGB_CONVERTIBLE = ("1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "RGB")


# --- Which pairs, in which split -----------------------------------------------------


def _find_stems(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Returns stem -> path of the files in a folder; hidden files do not count.

    Raises:
        DatasetError: the folder is absent or has no such files, or two share a stem.
    """
    if not folder.is_dir():
        raise pairs.DatasetError(f"Expected a folder. Received: {folder}")
    stems = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in stems:
            raise pairs.DatasetError(
                f"Expected one file for each name. Received: {stems[path.stem]} "
                f"and {path}. Remove or rename one."
            )
        stems[path.stem] = str(path)
    if not stems:
        raise pairs.DatasetError(
            f"Expected files that end in {' '.join(suffixes)}. "
            f"Received: none in {folder}"
        )
    return stems


def list_samples(
    images_dir: str | Path,
    labels_dir: str | Path,
    names: Sequence[str] | None = None,
) -> list[pairs.Sample]:
    """Pairs the files of two folders by their stems.

    Args:
        images_dir: folder of images.
        labels_dir: folder of masks.
        names: the stems to take; default: all, sorted. An image without a mask and a
            mask without an image are samples too: reading them says what is missing.

    Raises:
        DatasetError: a folder is absent, has no such files, or has a stem twice.
    """
    images = _find_stems(Path(images_dir), IMAGE_SUFFIXES)
    labels = _find_stems(Path(labels_dir), LABEL_SUFFIXES)
    if names is None:
        names = sorted(images.keys() | labels.keys())
    return [
        pairs.Sample(
            name,
            images.get(name) or pairs.find_file(images_dir, name, IMAGE_SUFFIXES),
            labels.get(name) or pairs.find_file(labels_dir, name, LABEL_SUFFIXES),
        )
        for name in names
    ]


def read_names(list_path: Path) -> list[str]:
    """Returns the stems that a text file lists, one a line, with or without suffix."""
    names = []
    for line in pairs.read_list(list_path):
        suffix = Path(line).suffix
        known = suffix.lower() in IMAGE_SUFFIXES
        names.append(line[: -len(suffix)] if known else line)
    return names


def split_by_fraction(
    samples: Sequence[pairs.Sample], val_fraction: float, seed: int
) -> dict[str, list[pairs.Sample]]:
    """Splits samples into train and val by the order of a seeded hash of their names.

    The same names and seed give the same splits on every machine, and a name that is
    added later moves few others.

    Args:
        samples: two or more.
        val_fraction: in [0, 1). With 0 there is no val, else it has one sample or more.
        seed: another seed gives another choice.

    Raises:
        DatasetError: the fraction is out of range or leaves nothing to train on.
    """
    if not 0 <= val_fraction < 1:
        raise pairs.DatasetError(
            f"Expected val_fraction in [0, 1). Received: {val_fraction}"
        )
    if not val_fraction:
        return {"train": list(samples)}
    count = max(1, round(val_fraction * len(samples)))
    if count >= len(samples):
        raise pairs.DatasetError(
            f"val_fraction={val_fraction} of {len(samples)} pairs leaves none to train "
            "on. Expected more pairs or a smaller fraction."
        )

    def order(sample):
        return hashlib.sha256(f"{seed}:{sample.name}".encode()).digest()

    chosen = {sample.name for sample in sorted(samples, key=order)[:count]}
    return {
        "train": [sample for sample in samples if sample.name not in chosen],
        "val": [sample for sample in samples if sample.name in chosen],
    }


def list_splits(
    images_dir: str | Path,
    labels_dir: str | Path,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, list[pairs.Sample]]:
    """Returns split -> samples, by sub-folders, by lists, or by a seeded fraction.

    Raises:
        DatasetError: no pairs, or more than one way to read the folders.
    """
    images_dir = Path(images_dir).expanduser()
    labels_dir = Path(labels_dir).expanduser()
    folders = _sub_folders(images_dir, labels_dir)
    lists = [images_dir.parent / f"{name}.txt" for name in LIST_NAMES]
    lists = [path for path in lists if path.is_file()]
    if folders and lists:
        raise pairs.DatasetError(
            "Expected splits as sub-folders or as lists. Received both: "
            f"{images_dir / folders[0]} and {lists[0]}"
        )
    if folders:
        return {
            split: list_samples(images_dir / split, labels_dir / split)
            for split in folders
        }
    if lists:
        return {
            path.stem: list_samples(images_dir, labels_dir, read_names(path))
            for path in lists
        }
    return split_by_fraction(list_samples(images_dir, labels_dir), val_fraction, seed)


def _sub_folders(images_dir: Path, labels_dir: Path) -> list[str]:
    """Returns the names of sub-folders, which must be the same in both folders."""
    names = []
    for folder in (images_dir, labels_dir):
        if not folder.is_dir():
            raise pairs.DatasetError(f"Expected a folder. Received: {folder}")
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        names.append(sorted(path.name for path in paths if path.is_dir()))
    if names[0] != names[1]:
        raise pairs.DatasetError(
            "Expected the same sub-folders (splits) among images and labels. "
            f"Received: {names[0]} in {images_dir} and {names[1]} in {labels_dir}"
        )
    suffixes = {path.suffix.lower() for path in images_dir.iterdir()}
    if names[0] and suffixes.intersection(IMAGE_SUFFIXES):
        raise pairs.DatasetError(
            f"Expected images or sub-folders (splits) in {images_dir}. Received both."
        )
    return names[0]


# --- One pair ------------------------------------------------------------------------


def convert_label(
    label: np.ndarray, label_ids: Sequence[int], ignore_ids: Sequence[int]
) -> np.ndarray:
    """Maps the ids of a mask file to class ids.

    Args:
        label: uint8 [height, width], ids as stored.
        label_ids: the stored id of class 0, of class 1 and so on; empty where stored
            ids are class ids.
        ignore_ids: stored ids of pixels without a class.

    Returns:
        uint8 [height, width], class ids or 255.

    Raises:
        ValueError: `label_ids` is given, and the label has an id that neither holds.
    """
    table = np.arange(256, dtype=np.uint8)
    if label_ids:
        stored = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        unknown = sorted(set(stored.tolist()) - set(label_ids) - set(ignore_ids))
        if unknown:
            raise ValueError(
                f"label has the stored ids {', '.join(map(str, unknown))}; expected "
                "those of label_ids or ignore_label"
            )
        table[list(label_ids)] = np.arange(len(label_ids))
    table[list(ignore_ids)] = IGNORE_LABEL
    return table[label]


def read_image(path: str, exif_orientation: str) -> bytes:
    """Returns an image as the bytes of an RGB JPEG or PNG file.

    Args:
        path: the image.
        exif_orientation: what to do with an image that a viewer shows turned: "apply"
            keeps it as shown, "ignore" as its pixels are stored, "refuse" raises.

    Raises:
        ValueError: unreadable, several pictures, transparent, more than 8 bits, or
            turned.
    """
    data = pairs.read_file(path)
    image = pairs.open_image(data, path)
    turned = image.getexif().get(pairs.EXIF_ORIENTATION, 1) != 1
    if turned and exif_orientation == "refuse":
        raise ValueError(
            f"{path} is shown turned by viewers (EXIF orientation); say whether masks "
            "fit it as shown, --exif_orientation=apply, or as stored, =ignore"
        )
    if image.format in STORED_AS_THEY_ARE and image.mode == "RGB" and not turned:
        return data
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{path} holds {image.n_frames} pictures; expected one")
    if turned and exif_orientation == "apply":
        image = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    # A new image, so that neither EXIF nor colour profile follows.
    Image.fromarray(np.asarray(_to_rgb(image, path))).save(buffer, format="PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode not in RGB_CONVERTIBLE:
        raise ValueError(
            f"{path} has Pillow mode {image.mode}; expected 8 bits of grey or colour"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise ValueError(f"{path} has transparent pixels; expected an opaque image")
    return image.convert("RGB")


def read_sample(
    sample: pairs.Sample,
    label_ids: Sequence[int] = (),
    ignore_ids: Sequence[int] = (IGNORE_LABEL,),
    exif_orientation: str = "refuse",
) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label; see `read_image`, `convert_label`."""
    label = convert_label(pairs.read_label(sample.label), label_ids, ignore_ids)
    return read_image(sample.image, exif_orientation), label


# --- The whole data set --------------------------------------------------------------


def _highest_id(sample: pairs.Sample, ignore_ids: Sequence[int]) -> int:
    """Returns a label's highest class id, or 0 where it has none or is unreadable."""
    try:
        label = convert_label(pairs.read_label(sample.label), (), ignore_ids)
    except ValueError:
        return 0  # build_dataset reads it again, and says what is wrong.
    return int(label.max(initial=0, where=label != IGNORE_LABEL))


def count_classes(
    splits: Mapping[str, Sequence[pairs.Sample]],
    ignore_ids: Sequence[int],
    num_processes: int | None = None,
) -> int:
    """Returns the highest class id of all labels plus 1.

    Raises:
        DatasetError: there is no class but 0.
    """
    find = functools.partial(_highest_id, ignore_ids=ignore_ids)
    samples = [sample for split in splits.values() for sample in split]
    num_processes = num_processes or build.available_cpus()
    num_classes = 1 + max(build.map_in_order(find, samples, num_processes))
    if num_classes < 2:
        raise pairs.DatasetError(
            "Expected labels with two classes or more. Received: no readable label "
            f"with an id but 0 and ignored ones ({', '.join(map(str, ignore_ids))}). "
            "Where 255 is a class, say so: --label_ids=0,255. Or give --num_classes."
        )
    return num_classes


def _class_names(names_file: str | None, num_classes: int) -> list[str]:
    """Returns the lines of a file, or without one class_0, class_1 and so on.

    Raises:
        DatasetError: the file has another number of names, or that number is no number
            of classes.
    """
    if not 1 <= num_classes <= 255:
        raise pairs.DatasetError(
            f"Expected 1 to 255 classes; 255 is ignored. Received: {num_classes}"
        )
    if names_file is None:
        return [f"class_{i}" for i in range(num_classes)]
    names = pairs.read_list(Path(names_file).expanduser())
    if len(names) != num_classes:
        raise pairs.DatasetError(
            f"Expected {num_classes} class names in {names_file}. "
            f"Received: {len(names)}"
        )
    return names


def _ignore_ids(label_ids: Sequence[int], ignore_label: Sequence[int]) -> list[int]:
    """Returns the stored ids to ignore: those given, and 255 unless it is a class."""
    ids = [*label_ids, *ignore_label]
    if len(set(ids)) < len(ids) or not all(0 <= i <= 255 for i in ids):
        raise pairs.DatasetError(
            "Expected ids in 0..255 in label_ids and ignore_label, each once. "
            f"Received: {list(label_ids)} and {list(ignore_label)}"
        )
    return sorted({*ignore_label, IGNORE_LABEL} - set(label_ids))


def build_folder(
    images_dir: str | Path,
    labels_dir: str | Path,
    output_dir: str | Path,
    *,
    class_names: str | None = None,
    num_classes: int | None = None,
    label_ids: Sequence[int] = (),
    ignore_label: Sequence[int] = (),
    val_fraction: float = 0.1,
    seed: int = 0,
    exif_orientation: str = "refuse",
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
        images_dir: folder of images, or of sub-folders (splits) of images.
        labels_dir: folder of masks, or of sub-folders of masks.
        output_dir: folder to make; its name becomes that of the data set.
        class_names: text file with one class a line.
        num_classes: default: the number of `class_names`, or of `label_ids`, or the
            highest id in the labels plus 1.
        label_ids: see `convert_label`.
        ignore_label: stored ids that become 255. So does 255, unless it is one of
            `label_ids`.
        val_fraction: see `split_by_fraction`.
        seed: likewise.
        exif_orientation: see `read_image`.
        **options: as for `build.build_dataset`.

    Raises:
        DatasetError: see `list_splits`, `count_classes`, `build.build_dataset`.
    """
    ignore_ids = _ignore_ids(label_ids, ignore_label)
    splits = list_splits(images_dir, labels_dir, val_fraction, seed)
    if num_classes is None:
        if label_ids:
            num_classes = len(label_ids)
        elif class_names:
            num_classes = len(pairs.read_list(Path(class_names).expanduser()))
        else:
            num_classes = count_classes(
                splits, ignore_ids, options.get("num_processes")
            )
    info = DatasetInfo(
        name=Path(output_dir).expanduser().resolve().name,
        class_names=tuple(_class_names(class_names, num_classes)),
    )
    read = functools.partial(
        read_sample,
        label_ids=tuple(label_ids),
        ignore_ids=tuple(ignore_ids),
        exif_orientation=exif_orientation,
    )
    return build.build_dataset(output_dir, info, splits, read, **options)


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    build.define_flags()
    flags.adopt_module_key_flags(build)
    flags.DEFINE_string("input_dir", None, "Folder with images/ and labels/ in it.")
    flags.DEFINE_string("images_dir", None, "Folder of images; default: in input_dir.")
    flags.DEFINE_string("labels_dir", None, "Folder of masks; default: in input_dir.")
    flags.DEFINE_string("class_names", None, "Text file with one class name a line.")
    flags.DEFINE_integer(
        "num_classes", None, "Default: the class names, or the highest id plus 1."
    )
    flags.DEFINE_list(
        "label_ids",
        [],
        "Stored ids of class 0, 1...: 0,255 for masks of 0 and 255. Default: a stored "
        "id is a class id.",
    )
    flags.DEFINE_list(
        "ignore_label",
        [],
        "Stored ids of pixels without a class; 255 is one too, unless in label_ids.",
    )
    flags.DEFINE_float("val_fraction", 0.1, "For val, without sub-folders and lists.")
    flags.DEFINE_integer("seed", 0, "Chooses which pairs val_fraction takes.")
    flags.DEFINE_enum(
        "exif_orientation",
        "refuse",
        ["refuse", "apply", "ignore"],
        "Images that viewers show turned: their masks fit the image as shown (apply) "
        "or as stored (ignore).",
    )


def _parse_ids(name: str) -> list[int]:
    values = flags.FLAGS[name].value
    try:
        return [int(value) for value in values]
    except ValueError as error:
        raise pairs.DatasetError(
            f"Expected --{name} as ids separated by commas. Received: {values}"
        ) from error


def _folder(name: str) -> Path:
    """Returns --images_dir or --labels_dir, or the folder in --input_dir."""
    folder, input_dir = flags.FLAGS[f"{name}_dir"].value, flags.FLAGS.input_dir
    if folder:
        return Path(folder)
    if input_dir:
        return Path(input_dir) / name
    raise pairs.DatasetError(
        "Expected --input_dir, or both --images_dir and --labels_dir. "
        f"Received: no folder of {name}"
    )


def main() -> None:
    args = flags.FLAGS
    build_folder(
        _folder("images"),
        _folder("labels"),
        args.output_dir,
        class_names=args.class_names,
        num_classes=args.num_classes,
        label_ids=_parse_ids("label_ids"),
        ignore_label=_parse_ids("ignore_label"),
        val_fraction=args.val_fraction,
        seed=args.seed,
        exif_orientation=args.exif_orientation,
        **build.flag_options(),
    )


if __name__ == "__main__":
    build.run(define_flags, main)
