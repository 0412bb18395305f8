"""Downloads the public archives of data sets: the flag --download of their builders.

    python -m datasets.build_camvid --download --output_dir=data/camvid

Archives (`downloads.archives` has their addresses) go to --download_dir and are
unpacked there. What is there already is not downloaded, so that a file which a browser
fetched may be put there by hand. It may be removed when it is unpacked.

--download_mirror is for machines without the way out: the address of a folder with the
files, under the names of `downloads.archives`. `python -m http.server`, run in another
machine's download_dir, is such a mirror.

A folder of the builder that is given by its own flag is used and not downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import locked
from deeplab_tf.data.downloads.archives import ADVICE, LOGIN, SOURCES, Archive, Source
from deeplab_tf.downloading.errors import DownloadError
from deeplab_tf.downloading.extraction import unpack
from deeplab_tf.downloading.fetching import fetch

DOWNLOAD_DIR = "runs/downloads"


def obtain(
    archive: Archive, download_dir: str | Path, *, mirror: str = "", **options
) -> None:
    """Downloads and unpacks one archive, unless it is unpacked already.

    Args:
      archive: what to obtain.
      download_dir: folder of all archives and of what is unpacked.
      mirror: as for `fetch`, and so are `options`.

    Raises:
      DatasetError: see `fetch` and `extraction.unpack`; or another process is at it.
    """
    download_dir = Path(download_dir).expanduser()
    # A folder that stays: a lock that is removed could be held twice.
    lock = download_dir / ".locks" / archive.file_name
    try:
        lock.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"Cannot write to {download_dir} ({error.strerror}). Give another "
            "--download_dir."
        ) from error
    with locked(str(lock)):
        if all((download_dir / target).exists() for target in archive.targets):
            return
        try:
            path = fetch(archive.remote, download_dir, mirror=mirror, **options)
            print(f"Unpacking {path} to {download_dir / archive.folder}.")
            folder = download_dir / archive.folder
            unpack(
                *(path, folder, archive.members, archive.inner),
                elsewhere=ADVICE.folder,
            )
        except DownloadError as error:
            raise DatasetError(str(error)) from error


def prepare(
    name: str,
    splits: Sequence[str] = (),
    *,
    download: bool = False,
    download_dir: str | Path = DOWNLOAD_DIR,
    mirror: str = "",
    **folders: str | None,
) -> dict[str, str | None]:
    """Returns the folders for a builder, and downloads those that are not given.

    Args:
      name: row of `archives.SOURCES` or `archives.LOGIN`.
      splits: those to be built, where not all are: others' archives are left out.
      download: whether to download at all.
      download_dir: where to.
      mirror: as for `fetch`.
      **folders: the builder's folders by the names of their flags, the one that it
        cannot do without first; None where it was not given.

    Raises:
      DatasetError: the first folder is neither given nor to be downloaded; or see
        `obtain`.
    """
    required = next(iter(folders))
    if folders[required] is None and (name in LOGIN or not download):
        raise DatasetError(
            LOGIN.get(name, f"Expected --{required}, or --download to get the data.")
        )
    if not download or name in LOGIN:
        return folders
    missing = {
        flag: source
        for flag, source in SOURCES[name].items()
        if folders.get(flag) is None
    }
    for flag, source in missing.items():
        archives = _archives_for(source, splits)
        for archive in archives:
            obtain(archive, download_dir, mirror=mirror)
        if archives:
            folders[flag] = str(Path(download_dir).expanduser() / source.folder)
    return folders


def _archives_for(source: Source, splits: Sequence[str]) -> list[Archive]:
    """Returns the archives of a folder that some of `splits` needs; none means all."""
    return [
        archive
        for archive in source.archives
        if not splits or archive.split in (None, *splits)
    ]
