"""Reads weight files, labels and configurations with random damage: no crash, no hang.

    python -m benchmarks.mutated_files --files=400 --seed=0

Each file is a small whole one of a row of `FORMATS` that a row of `MUTATIONS` changed.
It is read as its commands read it; what a configuration says is built and predicts.
Exits with 1 unless all files end in results or in a sentence of this package within 5 s
and 2 GB.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np

from benchmarks.mutation_runs import (
    Trial,
    change_bytes,
    cut,
    insert,
    quietly,
    repeat,
    run_from_command_line,
)
from deeplab_tf.config import TrainConfig, write_config
from deeplab_tf.inference.runtimes import load_network
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import read_weights, save_weights
from deeplab_tf.weights.tflite_files import read_tflite_weights
from deeplab_tf.weights.torch_format.files import read_torch_weights

LABELS = {"class_names": ["a", "b"], "colormap": [[0, 0, 0], [9, 9, 9]]}
ARRAYS = {
    "conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "conv/bias": np.ones(2, np.float32),
}
# A state_dict of torch.save without its zip file: the pickle that PyTorch writes.
_PICKLE = (
    b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storageq\x02ctorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89"
    b"ccollections\nOrderedDict\n)RtRs."
)

# --- Whole files ---------------------------------------------------------------------


def keras_2_file() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        writer.attrs["layer_names"] = [b"conv"]
        group = writer.create_group("conv")
        group.attrs["weight_names"] = [f"{name}:0".encode() for name in ARRAYS]
        for name, array in ARRAYS.items():
            group[f"{name}:0"] = array
    return file.getvalue()


def keras_3_file() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        group = writer.create_group("layers/conv/vars")
        group.attrs["name"] = "conv"
        for index, array in enumerate(ARRAYS.values()):
            group[str(index)] = array
    return file.getvalue()


def npz_file() -> bytes:
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


def torch_file() -> bytes:
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _PICKLE)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    return file.getvalue()


def safetensors_file() -> bytes:
    array = ARRAYS["conv/kernel"]
    entry = {"dtype": "F32", "shape": array.shape, "data_offsets": [0, array.nbytes]}
    text = json.dumps({"conv.weight": entry}).encode()
    return len(text).to_bytes(8, "little") + text + array.tobytes()


def tflite_file() -> bytes:
    """Three tensors by the names of the authors' layers, one of them quantised."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers, graph.tensors, graph.inputs = [schema.BufferT()], [], [0]
    kinds = schema.TensorType
    for name, kind, shape, dtype in (
        ("sub_7", kinds.FLOAT32, [1, 65, 65, 3], None),
        ("MobilenetV2/Conv/weights", kinds.UINT8, [8, 3, 3, 3], np.uint8),
        ("logits/semantic/weights", kinds.FLOAT32, [4, 1, 1, 8], np.float32),
        ("logits/semantic/biases", kinds.FLOAT32, [4], np.float32),
        ("logits/semantic/BiasAdd", kinds.FLOAT32, [1, 9, 9, 4], None),
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape = name.encode(), kind, shape
        tensor.buffer = 0
        if dtype:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ones(shape, dtype).tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        if dtype is np.uint8:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.full(8, 0.5, np.float32)
            tensor.quantization.zeroPoint = np.full(8, 3, np.int64)
        graph.tensors.append(tensor)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def labels_file() -> bytes:
    return json.dumps({**LABELS, "ignore_label": 255, "sha256": None}).encode()


def config() -> TrainConfig:
    """Of a network that is quick to build."""
    return TrainConfig(
        backbone="mobilenet_v2_0.35",
        num_classes=2,
        class_names=tuple(LABELS["class_names"]),
        colormap=((0, 0, 0), (9, 9, 9)),
    )


# --- How they are read ---------------------------------------------------------------


def read_labels(path: Path) -> None:
    """As `load_network` does; the network beside them is none."""
    network = path.with_name("x.tflite")
    network.write_bytes(b"no network")
    path.rename(f"{network}.labels.json")
    load_network(network)


def read_run(path: Path) -> None:
    """Builds what the configuration says, and predicts."""
    folder = path.parent
    (folder / "best.npz").symlink_to(folder.parent / "best.npz")
    Segmenter.from_workdir(folder).predict(np.zeros([40, 40, 3], np.uint8))


class Format(NamedTuple):
    """A row of `FORMATS`.

    Attributes:
      name: of the file.
      write: its bytes when it is whole.
      read: path -> anything.
    """

    name: str
    write: Callable[[], bytes]
    read: Callable[[Path], object]


FORMATS = {
    "keras 2": Format("x.h5", keras_2_file, read_weights),
    "keras 3": Format("x.weights.h5", keras_3_file, read_weights),
    "npz": Format("x.npz", npz_file, read_weights),
    "torch": Format("x.pth", torch_file, read_torch_weights),
    "safetensors": Format("x.safetensors", safetensors_file, read_torch_weights),
    "tflite": Format("x.tflite", tflite_file, read_tflite_weights),
    "labels": Format("x.json", labels_file, read_labels),
    "config": Format("config.json", lambda: config().to_json().encode(), read_run),
}

# --- Damage --------------------------------------------------------------------------


def number(data: bytes, draw: random.Random) -> bytes:
    """A few bytes become a high, low or odd number: lengths, offsets, shapes."""
    value = draw.choice((0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
    size = draw.choice((2, 4, 8))
    place = draw.randrange(max(1, len(data) - size))
    changed = (value % 256**size).to_bytes(size, draw.choice(("little", "big")))
    return data[:place] + changed + data[place + size :]


def value(data: bytes, draw: random.Random) -> bytes:
    """JSON with another value under a name; other files get a number."""
    try:
        values = json.loads(data)
    except ValueError:
        return number(data, draw)
    odd = (None, "x", "", -1, 3, 1e300, 2**70, [], [3], [[1, 2, 3]], {}, True, 0.5)
    name = draw.choice(list(values))
    if draw.random() < 0.2:
        del values[name]
    else:
        values[name] = draw.choice(odd)
    return json.dumps(values).encode()


MUTATIONS = {
    "bytes": change_bytes,
    "cut": cut,
    "inserted": insert,
    "repeated": repeat,
    "number": number,
    "value": value,
}


def make_trial(folder: Path) -> Trial:
    """Returns what makes and reads one damaged file; see `mutation_runs`."""
    write_config(config(), folder)
    save_weights(build_model(config()), folder / "best.npz")
    whole = {name: row.write() for name, row in FORMATS.items()}
    quietly(Segmenter.from_workdir(folder).predict, np.zeros([40, 40, 3], np.uint8))

    def trial(inside: Path, draw: random.Random):
        name, kind = draw.choice(list(FORMATS)), draw.choice(list(MUTATIONS))
        row = FORMATS[name]
        path = inside / row.name
        path.write_bytes(MUTATIONS[kind](whole[name], draw))

        def read():
            try:
                quietly(row.read, path)
            except (ValueError, OSError) as error:
                assert str(inside) in str(error) or row.read is read_run, error
                return "refused"
            return "read"

        return f"{name}: {kind}", read

    return trial


if __name__ == "__main__":
    run_from_command_line(__spec__.name, __doc__, make_trial)
