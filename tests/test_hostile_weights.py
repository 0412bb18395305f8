"""Weight files that claim what they do not hold, or lead to other files."""

from __future__ import annotations

import io
import resource
import zipfile

import h5py
import numpy as np
import pytest

from deeplab_tf.networks import array_files
from deeplab_tf.networks.weight_files import read_weights

pytestmark = pytest.mark.two_lanes

BIG = (6, 2**14, 2**14)  # 6 GiB of float32
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_h5(path, fill, layers=("conv",)):
    """A file as Keras 2 writes it; fill(file, group) makes group["conv/kernel:0"]."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
            fill(file, group, f"{layer}/kernel:0")
    return path


def hard_links(file, group, name):
    if "first" not in file:
        file["first"] = np.ones(2**21, np.float32)
    group[name] = file["first"]


def unwritten(file, group, name):
    group.create_dataset(name, BIG, np.float32)


def never_allocated(file, group, name):
    group.create_dataset(name, (2, 3), np.float32, chunks=(2, 3))


def compressed(file, group, name):
    dataset = group.create_dataset(
        name, BIG, np.uint8, chunks=(1, 2**10, 2**10), compression="gzip"
    )
    dataset[0, : 2**10, : 2**10] = 1


def external_link(file, group, name):
    group[name] = h5py.ExternalLink("secret.h5", "/conv/conv/kernel:0")


def soft_link(file, group, name):
    group[name] = h5py.SoftLink("/elsewhere")


def external_storage(file, group, name):
    place = [("secret.bin", 0, h5py.h5f.UNLIMITED)]
    group.create_dataset(name, (2, 3), np.float32, external=place)


def virtual(file, group, name):
    layout = h5py.VirtualLayout((2, 3), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "/conv/conv/kernel:0", (2, 3))
    group.create_virtual_dataset(name, layout)


def a_group(file, group, name):
    group.create_group(name)


def a_text(file, group, name):
    group[name] = "text"


def good(file, group, name):
    group[name] = ARRAY


HDF5 = {
    hard_links: "claims to hold far more than it can",
    unwritten: "claims to hold far more than it can: conv/kernel:0 alone 6,442,450,944",
    never_allocated: "has no content at conv/kernel:0: it was never written",
    compressed: "claims to hold far more than it can",
    external_link: "links conv/kernel:0 to another place or file",
    soft_link: "links conv/kernel:0 to another place or file",
    external_storage: "takes conv/kernel:0 from another file",
    virtual: "takes conv/kernel:0 from another file",
    a_group: "holds no numbers at conv/kernel:0",
    a_text: "holds no numbers at conv/kernel:0",
}


@pytest.mark.parametrize("fill", HDF5, ids=lambda fill: fill.__name__)
def test_h5_files_that_are_not_what_they_say(tmp_path, fill, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_h5(tmp_path / "secret.h5", good)
    (tmp_path / "secret.bin").write_bytes(ARRAY.tobytes())
    layers = (
        [f"layer{index}" for index in range(700)] if fill is hard_links else ["conv"]
    )
    path = write_h5(tmp_path / "weights.h5", fill, layers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=HDF5[fill]):
        read_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # kB


@pytest.mark.parametrize("link", [external_link, soft_link])
@pytest.mark.parametrize("name", ["conv", "model_weights"])
def test_links_above_the_arrays_are_not_followed(tmp_path, link, name):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        link(file, file, name)
        file["elsewhere"] = ARRAY
    with pytest.raises(ValueError, match=f"links {name} to another place or file"):
        read_weights(tmp_path / "weights.h5")


def test_links_of_keras_3_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        variables = file.create_group("layers/conv/vars")
        variables.attrs["name"] = "conv"
        variables["0"] = h5py.ExternalLink("secret.h5", "/x")
    with pytest.raises(ValueError, match="links 0 to another place or file"):
        read_weights(tmp_path / "weights.h5")


def test_packed_weights_are_read(tmp_path):
    def packed(file, group, name):
        group.create_dataset(name, data=ARRAY, compression="gzip")

    np.savez_compressed(tmp_path / "w.npz", **{"conv/kernel": ARRAY})
    for path in (write_h5(tmp_path / "w.h5", packed), tmp_path / "w.npz"):
        np.testing.assert_array_equal(read_weights(path)["conv/kernel"], ARRAY)


def npy(shape, count) -> bytes:
    """An .npy file of a shape, with so many numbers."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(4 * count)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.npy", npy((2**21,), 2**21), "claims to hold far more than it can"),
        ("a.npy", npy((2, 9), 6), r"for the shape \(2, 9\). Download it again"),
        ("a.npy", npy((9**18,), 6), r"for the shape \(150094635296999121,\)"),
        ("a.npy", npy((2, 9), 19), r"for the shape \(2, 9\). Download it again"),
        ("a.npy", b"no array", "a.npy in it is no array of numbers"),
        ("model.weights.h5", b"", "is a whole model, a .keras file.*load_model"),
    ],
    ids=range(6),
)
def test_npz_files_that_are_not_what_they_say(
    tmp_path, monkeypatch, name, content, sentence
):
    monkeypatch.setattr(array_files, "_FREE_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "w.h5", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=f"w.h5 .*{sentence}"):
        read_weights(tmp_path / "w.h5")
