"""What a trained network is called in, the folder of its workdir out.

    mobilenet_v2_voc_trainaug     a row of `published.PUBLISHED`
    runs/mine, packed             a workdir, or a folder that `packing` wrote
    https://HOST/packed           such a folder on a server, file:// on this machine
    https://HOST/packed.tar.gz    the same as an archive, or the path of one
    hf:OWNER/NAME                 the same as a Hugging Face repository

What comes over the network is fetched once, into DEEPLAB_TF_HOME [~/.cache/deeplab_tf]:
    files/NAME/FILE     as it was published; may be removed afterwards
    networks/NAME/      the workdir that was made of it
A file that lies there already, by hand, is taken. DEEPLAB_TF_MIRROR is the address of
a folder like files/, for machines without the way out: `python -m http.server` in the
files/ of another machine is one.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from deeplab_tf.command_names import call_of
from deeplab_tf.config import config_path
from deeplab_tf.downloading.errors import DownloadError
from deeplab_tf.downloading.extraction import unpack
from deeplab_tf.downloading.fetching import (
    Advice,
    RemoteFile,
    difference_of,
    fetch,
)
from deeplab_tf.files import InUse, atomic_write, sole_writer_in
from deeplab_tf.strangers_words import printable
from deeplab_tf.weights.packing import (
    CARD_FILE,
    CONFIG_FILE,
    HASH_FILE,
    check_packed,
    read_hashes,
)
from deeplab_tf.weights.published import PUBLISHED, Published

HOME_VARIABLE, MIRROR_VARIABLE = "DEEPLAB_TF_HOME", "DEEPLAB_TF_MIRROR"
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
HUGGING_FACE = "hf:"
WAIT_SECONDS = 1.0
_ANOTHER_HOME = f"another {HOME_VARIABLE}"


def home() -> Path:
    """Returns the folder of what was fetched."""
    return Path(os.environ.get(HOME_VARIABLE) or "~/.cache/deeplab_tf").expanduser()


def is_pretrained(name: str) -> bool:
    """Says whether a text is more than a path: a published name, address or hf:."""
    return name in PUBLISHED or name.startswith(HUGGING_FACE) or "://" in name


def pretrained_workdir(name: str | os.PathLike, *, backbones: bool = False) -> str:
    """Returns the workdir of a trained network, fetched where it is not there yet.

    Args:
      name: one of those above; a folder of that name wins.
      backbones: whether a network without a trained head will do.

    Raises:
      FileNotFoundError: a folder that holds no network.
      ImportError: huggingface_hub is needed and not installed.
      ValueError: no such name; a file that cannot be fetched, with the sentence that
        says where to put it by hand; or one that is not what was published.
    """
    name = os.fspath(name)
    if os.path.isdir(name):
        return check_packed(name)
    if os.path.isfile(name):
        return _from_file(name)
    if name.startswith(HUGGING_FACE):
        return check_packed(_from_hugging_face(name[len(HUGGING_FACE) :]))
    if "://" in name:
        return _from_address(name)
    if name not in PUBLISHED:
        raise ValueError(
            f"There is no folder and no published network {name!r}. "
            f"{nearest_names(name)}"
        )
    if not PUBLISHED[name].num_classes and not backbones:
        raise ValueError(
            f"{name} is a backbone without a trained head, which predicts nothing. "
            f"Train one on it: {call_of('train')} --init={name}"
        )
    return _from_table(name, PUBLISHED[name])


def from_pretrained(
    name: str | os.PathLike,
    output_stride: int | None = None,
    precision: str = "float32",
):
    """Returns the Keras model of a trained network; see `pretrained_workdir`.

    Args:
      name: of the network.
      output_stride: 8, 16 or 32 instead of its own.
      precision: "float32", "bfloat16" or "float16".
    """
    from deeplab_tf.workdir import load_workdir

    return load_workdir(pretrained_workdir(name), output_stride, precision)[0]


def nearest_names(name: str) -> str:
    """Says which published names are like one that is none, and where all are."""
    near = difflib.get_close_matches(name.lower(), PUBLISHED, n=3, cutoff=0.5)
    listed = f"All published names: {call_of('weights')} --list"
    return f"Did you mean {' or '.join(near)}? {listed}" if near else listed


# --- A row of the table --------------------------------------------------------------


def _from_table(name: str, row: Published) -> str:
    workdir, folder = home() / "networks" / name, home() / "files" / name
    with _turn(workdir) as is_new:
        if is_new:
            mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
            path = _fetch(
                remote_file(name, row), folder, f"{mirror}/{name}" if mirror else ""
            )
            _import(row, path, workdir)
            print(
                f"{name}: trained on {row.trained_on}; licence {row.licence}. Kept in "
                f"{workdir}"
            )
    return str(workdir)


def remote_file(name: str, row: Published) -> RemoteFile:
    """What is to be fetched of a row."""
    return RemoteFile(
        *(row.address, row.page, row.file_name),
        _advice(home() / "files" / name, f", or give {MIRROR_VARIABLE}"),
        *(row.size, row.checksum),
    )


def _advice(folder: Path, mirror: str = "") -> Advice:
    put = f"put it into {folder}{mirror}"
    return Advice(put, _ANOTHER_HOME, f"fetch it elsewhere and {put}")


def _import(row: Published, path: Path, workdir: Path) -> None:
    """Makes the workdir of a published file, which may be in an archive."""
    from deeplab_tf.weights.importing import import_weights

    with contextlib.ExitStack() as stack:
        if path.name.endswith(ARCHIVES):
            unpacked = path.with_name("unpacked")
            stack.callback(shutil.rmtree, unpacked, ignore_errors=True)
            shutil.rmtree(unpacked, ignore_errors=True)  # of one that was killed
            unpack(path, unpacked, (), elsewhere=_ANOTHER_HOME)
            path = _checkpoint_in(unpacked)
        names = {"class_names": row.class_names} if row.class_names else {}
        report = import_weights(
            row.source, path, workdir, partial=not row.num_classes, **names
        )
    print(report)


def _checkpoint_in(folder: Path) -> Path:
    """The prefix of the only checkpoint of an archive.

    Raises:
      ValueError: there is none, or more than one.
    """
    found = sorted(folder.rglob("*.index"))
    if len(found) != 1:
        raise ValueError(
            f"Expected one checkpoint in the archive. Received: {len(found)} files "
            "that end in .index."
        )
    return found[0].with_suffix("")


# --- Packed networks -----------------------------------------------------------------


def _from_file(path: str) -> str:
    """Takes an archive of a packed network that lies on this machine.

    Raises:
      ValueError: it is no archive.
    """
    if not path.endswith(ARCHIVES):
        raise ValueError(
            f"Expected the folder of a network, or an archive of it "
            f"({', '.join(ARCHIVES)}). Received: the file {path}. A file of weights is "
            f"imported first: {call_of('weights')} --help"
        )
    return _from_address(Path(os.path.abspath(path)).as_uri())


def _from_address(address: str) -> str:
    """Fetches a packed network, an archive or the files that its hash file names."""
    parts = urllib.parse.urlsplit(address.rstrip("/"))
    if parts.scheme == "file" and os.path.isdir(_local_path(address)):
        return check_packed(_local_path(address))
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(
            f"Expected an address of http, https or file. Received: {address}"
        )
    file_name = parts.path.rpartition("/")[2] or parts.netloc
    key = f"{file_name}-{_digits_of(address)}"
    workdir, folder = home() / "networks" / key, home() / "files" / key
    with _turn(workdir) as is_new:
        if is_new and file_name.endswith(ARCHIVES):
            _fetch(_of(address, file_name, folder, address), folder)
            unpacked = folder / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            unpack(folder / file_name, unpacked, (), elsewhere=_ANOTHER_HOME)
            _keep(_packed_in(unpacked), workdir)
            shutil.rmtree(unpacked, ignore_errors=True)
        elif is_new:
            base = address.rstrip("/")
            card = f"{base}/{CARD_FILE}"
            _fetch(_of(f"{base}/{HASH_FILE}", HASH_FILE, folder, card), folder)
            for name, digest in read_hashes(folder).items():
                _fetch(_of(f"{base}/{name}", name, folder, card, digest), folder)
            _keep(folder, workdir)
    return str(workdir)


def _digits_of(address: str) -> str:
    """Digits that differ between addresses, and when a file of this machine changes."""
    text = address
    if address.startswith("file://"):
        status = os.stat(_local_path(address))
        text = f"{address} {status.st_mtime_ns} {status.st_size}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _of(address: str, name: str, folder: Path, page: str, checksum: str | None = None):
    return RemoteFile(address, page, name, _advice(folder), checksum=checksum)


def _packed_in(folder: Path) -> Path:
    """The folder that was packed, which an archive may hold under its name."""
    inside = [path.parent for path in sorted(folder.rglob(CONFIG_FILE))]
    return inside[0] if inside else folder


def _keep(folder: Path, workdir: Path) -> None:
    """Moves a packed network to its place, when it is whole."""
    check_packed(folder)
    os.replace(folder, workdir)


def _from_hugging_face(repository: str) -> str:
    """Fetches a packed network into the cache of huggingface_hub; returns its folder.

    Args:
      repository: OWNER/NAME, or OWNER/NAME@REVISION.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{HUGGING_FACE}{repository} needs the package huggingface_hub. Run: pip "
            "install 'deeplab-tf[hf]', or pip install huggingface_hub."
        ) from error
    name, _, revision = repository.partition("@")
    try:
        return snapshot_download(name, revision=revision or None)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"Cannot fetch {HUGGING_FACE}{repository} ({printable(reason)}); check its "
            "name and the network, or download the repository elsewhere and give its "
            "folder instead."
        ) from error


# --- Files ---------------------------------------------------------------------------


@contextlib.contextmanager
def _turn(workdir: Path) -> Iterator[bool]:
    """Waits until no other process makes a workdir; yields whether it is still new."""
    if os.path.isfile(config_path(workdir)):
        yield False
        return
    with contextlib.ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(
                    sole_writer_in(workdir.parent, f"{workdir.name}.fetch", workdir)
                )
                break
            except InUse as error:
                if not told:
                    print(f"{error} Waiting for it.", flush=True)
                told = True
                time.sleep(WAIT_SECONDS)
            except OSError as error:
                raise OSError(
                    f"{home()} cannot be written to ({error.strerror or error}); set "
                    f"{HOME_VARIABLE} to a folder that can."
                ) from error
        yield not os.path.isfile(config_path(workdir))


def _fetch(wanted: RemoteFile, folder: Path, mirror: str = "") -> Path:
    """As `fetching.fetch`, which checks; file:// is copied from this machine."""
    address = f"{mirror}/{wanted.file_name}" if mirror else wanted.address
    path = folder / wanted.file_name
    if not address.startswith("file://") or path.exists():
        return fetch(wanted, folder, mirror=mirror)
    folder.mkdir(parents=True, exist_ok=True)
    with open(_local_path(address), "rb") as source:
        with atomic_write(path, "wb") as file:
            shutil.copyfileobj(source, file)
    if difference := difference_of(path, wanted):
        path.unlink()  # or the next try would take it for one put there by hand
        raise DownloadError(
            f"{difference} It is a copy of {address}, which is another file, and was "
            "removed again."
        )
    return path


def _local_path(address: str) -> str:
    return urllib.request.url2pathname(urllib.parse.urlsplit(address).path)
