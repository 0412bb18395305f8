"""The folder that a builder writes: whole under its name, or not there at all.

A builder writes to `NAME.incomplete` (`incomplete-NAME` on remote file systems, where
names with one start get mixed up), and what it writes becomes `NAME` when all is well.
What a run that failed or was killed leaves there serves the next one.

Names with a scheme, such as gs://bucket/voc2012, go through TensorFlow's file systems.
Most of those cannot rename a folder, so its files move one by one, `info.json` last: a
folder with this file is whole there too.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import INFO_FILE
from deeplab_tf.files import InUse, sole_writer

# Ends the names of files that are being written.
PART_SUFFIX = ".part"


def is_remote(path: str | Path) -> bool:
    """Says whether a path names a file system of TensorFlow's, such as gs://."""
    return "://" in os.fspath(path)


def full_path(path: str | Path) -> str:
    """Returns an absolute path without ~, or a remote one as it is."""
    if is_remote(path):
        return os.fspath(path).rstrip("/")
    return str(Path(path).expanduser().resolve())


def unfinished_name(output_dir: str) -> str:
    """Returns the folder that a build of `output_dir` (see `full_path`) writes to."""
    if is_remote(output_dir):
        parent, _, name = output_dir.rpartition("/")
        return f"{parent}/incomplete-{name}"
    return output_dir + ".incomplete"


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Makes this process the only one that writes to a folder, which need not be there.

    The system gives the lock back however the process ends. Nobody locks a remote
    folder.

    Raises:
      DatasetError: another process has it, which it names, with the time since when;
        or the folder that it is in cannot be written.
    """
    if is_remote(folder):
        yield
        return
    path = Path(folder)
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock_path = path.with_name(f".{path.name}.lock")
            held.enter_context(sole_writer(lock_path, folder))
        except InUse as error:
            raise DatasetError(f"Another process is writing here: {error}") from error
        except OSError as error:
            raise DatasetError(
                f"Cannot write to {path.parent} ({error.strerror}). Give a folder that "
                "can be written."
            ) from error
        yield


def check_free(output_dir: str, overwrite: bool) -> None:
    """Raises DatasetError where `output_dir` may not be written or replaced."""
    import tensorflow as tf

    gfile = tf.io.gfile
    if not gfile.exists(output_dir):
        return
    if not gfile.isdir(output_dir):
        raise DatasetError(f"Expected a folder. Received: {output_dir}, a file")
    if not gfile.listdir(output_dir):
        return
    if not overwrite:
        raise DatasetError(
            f"{output_dir} exists already. Give another --output_dir, or --overwrite "
            "to replace it."
        )
    # --overwrite deletes the folder: a mistyped path must not cost anything else.
    if not gfile.exists(os.path.join(output_dir, INFO_FILE)):
        raise DatasetError(
            f"{output_dir} has no {INFO_FILE}, so it is no data set of ours and "
            "--overwrite does not replace it. Give another --output_dir."
        )


def remove(folder: str) -> None:
    """Removes a folder and what is in it, where there is one."""
    import tensorflow as tf

    if tf.io.gfile.exists(folder):
        tf.io.gfile.rmtree(folder)


def _install(temporary: str, output_dir: str) -> None:
    """Renames `temporary` to `output_dir`, replacing what is there."""
    import tensorflow as tf

    gfile = tf.io.gfile
    if is_remote(output_dir):
        remove(output_dir)
        gfile.makedirs(output_dir)
        for name in sorted(
            gfile.listdir(temporary), key=lambda name: name == INFO_FILE
        ):
            gfile.rename(os.path.join(temporary, name), os.path.join(output_dir, name))
        remove(temporary)
        return
    replaced = output_dir + ".replaced"
    remove(replaced)
    if os.path.exists(output_dir):
        os.rename(output_dir, replaced)
    os.rename(temporary, output_dir)
    remove(replaced)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[str]:
    """Yields a name to write to, which becomes `path` when the block succeeds.

    What was written is removed where it does not. Two that write one path at the same
    time do not meet.
    """
    import tensorflow as tf

    temporary = f"{path}.{uuid.uuid4().hex}{PART_SUFFIX}"
    try:
        yield temporary
        tf.io.gfile.rename(temporary, os.fspath(path), overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)
        raise


@contextlib.contextmanager
def unfinished_folder(output_dir: str, overwrite: bool) -> Iterator[str]:
    """Yields a folder that becomes `output_dir` when the block succeeds.

    The folder may hold what a killed run left, and keeps what this one leaves, unless
    it is empty.

    Args:
      output_dir: from `full_path`.
      overwrite: whether an existing data set is replaced.

    Raises:
      DatasetError: `output_dir` may not be replaced, is being written, or cannot be.
    """
    import tensorflow as tf

    temporary = unfinished_name(output_dir)
    check_free(output_dir, overwrite)
    with locked(temporary):
        # Who had the lock before may have written it by now.
        check_free(output_dir, overwrite)
        try:
            tf.io.gfile.makedirs(temporary)
        except tf.errors.OpError as error:
            raise DatasetError(
                f"Cannot make the folder {temporary} ({error.message}). Give an "
                "--output_dir that can be written."
            ) from error
        try:
            yield temporary
            check_free(output_dir, overwrite)
            _install(temporary, output_dir)
        finally:
            if tf.io.gfile.exists(temporary) and not tf.io.gfile.listdir(temporary):
                tf.io.gfile.rmtree(temporary)
