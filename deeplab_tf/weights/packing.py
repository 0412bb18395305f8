r"""A workdir in, a folder to publish out: weights, config, labels, card and hashes.

    python -m deeplab_tf.weights pack runs/mine --output=packed --licence=cc-by-4.0
    python predict.py --pretrained=packed --input=photos --output=out

Writes
  best.npz, config.json, labels.json    the network, its run and its classes
  README.md                             a model card: data, recipe, scores with their
                                        commands, licence; Hugging Face reads its head
  SHA256SUMS                            hashes, as `sha256sum --check` reads them
The folder, an archive of it (tar czf packed.tar.gz packed), its address on a server or
its Hugging Face repository (hf:OWNER/NAME) are what --pretrained, --init and
Segmenter.from_pretrained take.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deeplab_tf.command_names import as_typed, call_of, name_of
from deeplab_tf.config import TrainConfig, config_path, read_config, write_config
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.labels import Labels
from deeplab_tf.strangers_words import leads_out, printable
from deeplab_tf.version import __version__
from deeplab_tf.workdir import BEST_WEIGHTS, EVALUATION_FOLDER, workdir_weights

HASH_FILE, LABELS_FILE, CARD_FILE = "SHA256SUMS", "labels.json", "README.md"
CONFIG_FILE = os.path.basename(config_path(""))
NOT_STATED = "other"  # Hugging Face's word for a licence that is none of its list
_CHUNK_BYTES = 1 << 20


# --- Writing -------------------------------------------------------------------------


def pack(
    workdir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    licence: str = NOT_STATED,
    data: str = "",
    name: str = "",
) -> None:
    """Writes the folder of a network to publish, whole or not at all.

    Args:
      workdir: of train.py, or one that was imported.
      output_dir: folder to write, which must be empty or not there.
      licence: of the weights, an SPDX identifier such as "apache-2.0".
      data: sentence on what it was trained on; the name of the records unless given.
      name: title of the card; that of output_dir unless given.

    Raises:
      FileNotFoundError: no such workdir, or one without weights.
      FileExistsError: output_dir is there and not empty.
      InUse: another process writes it.
    """
    output = Path(os.path.abspath(output_dir))
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists. Give another --output.")
    config, weights = read_config(workdir), workdir_weights(workdir)
    # Paths say nothing elsewhere, and whose machine it was.
    config = dataclasses.replace(
        config,
        data_dir=os.path.basename(config.data_dir.rstrip("/")),
        init=os.path.basename(config.init.rstrip("/")),
    )
    card = model_card(config, read_scores(workdir), licence, data, name or output.name)
    with sole_writer_in(output.parent, output.name):
        temporary = output.with_name(f".pack-{output.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
        try:
            write_config(config, temporary)
            shutil.copyfile(weights, temporary / BEST_WEIGHTS)
            labels = Labels.from_config(config).to_json()
            (temporary / LABELS_FILE).write_text(labels, encoding="utf-8")
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")
            _write_hashes(temporary)
            os.replace(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_hashes(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    lines = [f"{_digest(path)}  {path.name}\n" for path in paths]
    (folder / HASH_FILE).write_text("".join(lines), encoding="utf-8")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# --- Reading -------------------------------------------------------------------------


def read_hashes(folder: str | os.PathLike) -> dict[str, str]:
    """Reads SHA256SUMS: name -> SHA-256 in hexadecimal.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no such list, names files elsewhere, or lacks the network.
    """
    path = os.path.join(folder, HASH_FILE)
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    hashes = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match or leads_out(match[2]) or "/" in match[2]:
            raise ValueError(
                f"Expected lines of a SHA-256 and a file's name in {path}. Received: "
                f"{printable(line[:80])}"
            )
        hashes[match[2]] = match[1]
    lacking = sorted({BEST_WEIGHTS, CONFIG_FILE} - set(hashes))
    if lacking:
        raise ValueError(f"{path} does not name {' and '.join(lacking)}.")
    return hashes


def check_packed(folder: str | os.PathLike) -> str:
    """Compares a packed network with its hashes; a workdir that has none is taken.

    Returns:
      The folder's path.

    Raises:
      FileNotFoundError: it holds no network, or not all of it.
      ValueError: a file is not the one that was packed.
    """
    if not os.path.isfile(os.path.join(folder, HASH_FILE)):
        read_config(folder), workdir_weights(folder)
        return os.fspath(folder)
    for name, expected in read_hashes(folder).items():
        path = Path(folder, name)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there, and {HASH_FILE} names it.")
        received = _digest(path)
        if received != expected:
            raise ValueError(
                f"Expected the SHA-256 {expected} of {path}. Received: {received}. "
                "The file is damaged, or was changed after it was packed; fetch it "
                f"again, or remove {HASH_FILE} if you changed it."
            )
    return os.fspath(folder)


# --- The card ------------------------------------------------------------------------


def read_scores(workdir: str | os.PathLike) -> list[dict]:
    """Reads what evaluate.py wrote into a workdir.

    Parts of splits are left out, and what several networks scored together.

    Raises:
      ValueError: a file of it is damaged.
    """
    scores = []
    for path in sorted(Path(workdir, EVALUATION_FOLDER).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}). Evaluate again, or remove it."
            ) from error
        is_whole = found.get("part", "1/1") == "1/1"
        if "mean_iou" in found and is_whole and type(found.get("weights")) is not list:
            scores.append(found)
    return scores


def model_card(
    config: TrainConfig, scores: Sequence[dict], licence: str, data: str, title: str
) -> str:
    """Returns README.md of a packed network."""
    data = data or config.data_dir or "not stated"
    is_ours = not config.is_imported
    names = ", ".join(config.class_names)
    table = [_score_row(config, found) for found in scores]
    if table:
        head = ["| split | images | mean IoU | pixel accuracy | command |"]
        table = [*head, "|---|---|---|---|---|", *table]
    stated = licence if licence != NOT_STATED else "not stated; ask who published it"
    return "\n".join(
        [
            "---",
            f"license: {licence}",
            "library_name: deeplab_tf",
            "pipeline_tag: image-segmentation",
            "tags: [semantic-segmentation, deeplab, tensorflow, keras]",
            "---",
            "",
            f"# {title}",
            "",
            f"{config.model} on {config.backbone}, output stride "
            f"{config.output_stride}, {config.num_classes} classes.",
            "",
            "```python",
            "import deeplab_tf",
            "",
            'segmenter = deeplab_tf.Segmenter.from_pretrained("FOLDER OR ADDRESS")',
            "```",
            "",
            "## Data",
            "",
            data
            + (f"; trained on its split {config.train_split!r}." if is_ours else "."),
            "",
            f"Classes: {names}.",
            "",
            "## Recipe",
            "",
            f"{_describe_recipe(config)}; config.json has every field. Written by "
            f"deeplab_tf {__version__}.",
            "",
            "## Scores",
            "",
            *(table or ["None was measured before it was packed."]),
            "",
            "## Licence",
            "",
            f"{stated}. The data has terms of its own.",
            "",
        ]
    )


def _describe_recipe(config: TrainConfig) -> str:
    if config.is_imported:
        return f"Trained elsewhere and imported ({config.recipe})"
    length = f"{config.steps} steps" if config.steps else f"{config.epochs} epochs"
    return (
        f"{config.recipe}, {length} of {config.batch_size} crops of "
        f"{'x'.join(map(str, config.crop_size))}, {config.optimizer} at "
        f"{config.learning_rate}, from {config.init or 'random weights'}"
    )


def _score_row(config: TrainConfig, found: dict) -> str:
    options = [f"--data_dir=DATA --split={found.get('split', config.eval_split)}"]
    if found.get("output_stride") not in (None, config.output_stride):
        options.append(f"--output_stride={found['output_stride']}")
    scales = found.get("scales") or [1]
    if list(scales) != [1]:
        options.append("--scales=" + ",".join(f"{scale:g}" for scale in scales))
    options += ["--flip"] if found.get("flip") else []
    for name in ("window", "overlap", "pad_to"):
        if value := found.get(name):
            sides = value if isinstance(value, list) else [value]
            options.append(f"--{name}={','.join(map(str, sides))}")
    if crf := found.get("crf"):
        values = ",".join(f"{name}={value:g}" for name, value in crf.items())
        options.append(f"--crf --crf_parameters={values}")
    return (
        f"| {found.get('split', '')} | {found.get('images', '')} "
        f"| {found['mean_iou']:.4f} | {found.get('pixel_accuracy', float('nan')):.4f} "
        f"| `evaluate.py --pretrained=. --output=scores {' '.join(options)}` |"
    )


def main(arguments: Sequence[str]) -> None:
    """The command `weights pack`."""
    parser = argparse.ArgumentParser(
        prog=f"{call_of('weights')} pack",
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="Folder of a run.")
    parser.add_argument(
        "--output", required=True, help="Folder to write; empty or not there yet."
    )
    parser.add_argument(
        "--licence",
        default=NOT_STATED,
        help="Licence of the weights, such as apache-2.0 [not stated].",
    )
    parser.add_argument(
        "--data", default="", help="Sentence on the data [the name of the records]."
    )
    parser.add_argument("--name", default="", help="Title of the card [the folder's].")
    given = parser.parse_args(arguments)
    try:
        pack(
            *(given.workdir, given.output),
            licence=given.licence,
            data=given.data,
            name=given.name,
        )
    except (OSError, ValueError, InUse) as error:
        sys.exit(f"{name_of('weights')}: {error}")
    print(f"Written: {given.output}")
    print(
        f"Next: {call_of('predict')} --pretrained={given.output} "
        "--input=... --output=..."
    )
