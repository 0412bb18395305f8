"""Files of torch.save, whole, damaged and malicious: what is read, and what is not."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.weights.torch_format import files as torch_files
from deeplab_tf.weights.torch_format import tensors as torch_tensors
from tests.support.torch_writers import (
    Call,
    Pickle,
    Raw,
    Storage,
    Tensor,
    instructions,
    payloads,
    rebuild,
    write_legacy,
    write_zip,
)

# PyTorch 2.13.0 wrote these: base = arange(12) as 3x4, view = base.t()[1:, ::2], an
# int64 7 and a bfloat16 Parameter [1.5, -2]; zlib, base64.
ZIP_PROTOCOL_2 = (
    "eNqlVU1PE0EYnm5LW1b5RhFUxO+CULYf0AVRYGPWw5oINSQNl2Zph3bj0uXdHUBNiCQG1KMejCfjH/Ds"
    "lbsXvejFgwkHoxevHp3ZLWV3EVCY9O30Y57nfWbmed+dUoIhhKJRtGs0o1akmoWytowHiypR44v3dVlq"
    "RLOescYVCoau4wLRjIrF3zWL2MTFW1qB8IB6sxCI5cKUbAVrpTIBrkAMShnPLxFNt/i8ieeWNL2YX1RN"
    "dQETbPIQ3GMJwRXLMPPLSR5CsVguQkktulItYahzILwk64ZKEsP3nN95COcCdJkAkVyQzoXFJYgqHIH6"
    "aQUp3DrwSmAdjj0vM53HCTRkofGZ/aXpKTRnoSUXYkkwrkBrmeYsb+e5Y1RKtRxtdo4EtJejSoDACcrd"
    "2+twniTQkYVTNs2yhleg00Njq63xdNk8SThNeaiYM9NKQAkq3AacpR+iG9DtcJ4j0JOF8zbnnGphuOBw"
    "lrvKVeRFtrugEtqAS0pICWzAZQd5hcDVLMSWVqE3V0/ReXrgKrtY6LP/v5Zjtw79qzBgn+4yNi16pxBX"
    "ApZlzcWnlEgUvrz78JPqZDG1p3M6UEvNOfF5w1xQSb7KJksNXgMlGO37X1+fsN2z2Ju2C2V2aKt3n1d1"
    "rVRZwBUiSymfNf9pDKeZgPEV+MHRFNy+AlrQeE3A3EOCDWZ2Wbp+mLzbQ9cI0THTsH5jq5OVSnhfDY3o"
    "pqcqBwVZGj2CgM1xtMmyR6Znt5inQgdkn/BmT8jS2FG2PxupMjMNi5+/Gyxp9AANY14NSVkSD63B4Vwb"
    "p28T9EVjjcZbGps0vtFAk7QX0uihIUwynQ9W528KrLHsq7MJtdV01tzf5Bea4hnjpzelmYP9142SOwVg"
    "b93CpkYr4JHKum9eK8pS/D9PQhDTI2lRFNOZkeEhIS1mUkOCICTTQ5mMODIkjiTS6eGMkEoxlb/7Zj7G"
    "qI6YrTLAxNZ0ujtD8y7l/ueIH+1uAB0e5CiH9uolfhJ3EXd5SF64SXZ1Dj+PuxBbPDytQbS7Afjh7kpq"
    "9MBfBZGvdv1YdwV4se0hHzbhx7pd6cW+9mOTfqzbf00e7EQd8rvYD3bbotsDfukC/92wU0o43L9t7+BA"
    "DVnvm29zziyGt9tF2O4cj6sanCdHXdjB1NvrnbV/AMlw9cI="
)
LEGACY_PROTOCOL_4 = (
    "eNp1krtu2zAUhilZrhvbaYJu3QJ0kRfDaWTDmZIUQRb2mi5dCkGWDiwWqmSQlIMWCOAlV3DLydahYx/D"
    "T9Bn6NpHKNChR7KCGGlK6Bev/8fDQ86c61W2KJfN5M/Xg98bH7+/edKdOddONf7yV63ovq+6x+ia9YnM"
    "dBZmiT8FqUSWIi0yq4nQOgEf0kgEKZ6bpv48AV+JL6CwsNVVnEmN3DY1kVLtGCfJ0jE18rzY4oe12MK0"
    "CJ1AqIms0LReywgkRPsi1HiFnUNCPTgCMY41mrbOZBh3/VyLhNY+9iWMcpFE/iSQwSfQIMkS15cmNKQq"
    "k/70GU24rmkoIgRjQFMvUWjWnh8kWaA3B++qmSs0j7a93pbn9Xu9zX5/MERTCyc5neSVxreccfsEuXWC"
    "F7FN0Wk8xPOydUYt4yiAFOMV142bccu0XtCR7yVv9wfeEOM1bi2onc4tzzhTAUe3lHYZ4v0BeltDr8C0"
    "S4zFa9w+pfD4w1NcBo4CBTfAp//3M/I75He4tezPj9Gs+JTgIAp0gOW4YXTNpnHzJrillBoVFzus3s4H"
    "urm7G/2b2rsZgW6bLZfZDv126SPNSN9Ic9JPEttjbJ20Qert2ZVjvsPm1dtijar+C5cj5+U="
)


@pytest.fixture(params=[write_zip, write_legacy], ids=["zip", "legacy"])
def read(request, tmp_path):
    """Writes a value in one of the formats and reads it back."""

    def write_and_read(value):
        path = request.param(tmp_path / "weights.pth", value)
        return torch_files.read_torch_weights(path)

    return write_and_read


def assert_equal(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)


# --- Files of PyTorch itself ---------------------------------------------------------


@pytest.mark.parametrize("encoded", [ZIP_PROTOCOL_2, LEGACY_PROTOCOL_4])
def test_files_that_pytorch_wrote(encoded, tmp_path):
    path = tmp_path / "real.pth"
    path.write_bytes(zlib.decompress(base64.b64decode(encoded)))
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "weight": np.array([1.5, -2], np.float32),
        "seen": np.array(7),
        "view": base.T[1:, ::2],
        "base": base,
    }
    arrays = torch_files.read_torch_weights(path)
    assert_equal(arrays, expected)
    assert np.shares_memory(arrays["view"], arrays["base"])


# --- Tensors of every kind -----------------------------------------------------------


@pytest.mark.parametrize(
    "name, array",
    [
        ("DoubleStorage", np.array([0.1, -1e300])),
        ("FloatStorage", np.array([0.1, np.inf], np.float32)),
        ("HalfStorage", np.array([0.1, -2], np.float16)),
        ("LongStorage", np.array([-(2**62), 5])),
        ("IntStorage", np.array([-(2**31), 5], np.int32)),
        ("ShortStorage", np.array([-5, 300], np.int16)),
        ("CharStorage", np.array([-128, 127], np.int8)),
        ("ByteStorage", np.array([0, 255], np.uint8)),
        ("BoolStorage", np.array([True, False])),
        ("ComplexFloatStorage", np.array([1 + 2j], np.complex64)),
        ("ComplexDoubleStorage", np.array([1 + 2j])),
    ],
)
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_dtypes(read, name, array, module):
    assert_equal(read({"x": Tensor(Storage(array, name, module))}), {"x": array})


def test_bfloat16_is_read_as_float32(read):
    # The upper half of a float32: sign, 8 bits of exponent, 7 of mantissa.
    bits = np.array([0x3F80, 0xC049, 0x0001, 0xFF80], np.uint16)
    expected = np.array([1, -3.140625, 2.0**-133, -np.inf], np.float32)
    arrays = read({"x": Tensor(Storage(bits, "BFloat16Storage"))})
    assert_equal(arrays, {"x": expected})
    assert not arrays["x"].flags.writeable


def test_views_of_a_shared_storage(read):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    storage = Storage(base)
    views = {
        "base": Tensor(storage, (4, 6), (6, 1)),
        "transposed": Tensor(storage, (6, 4), (1, 6)),
        "part": Tensor(storage, (2, 2), (6, 3), offset=7),
        "scalar": Tensor(storage, (), (), offset=23),
        "expanded": Tensor(storage, (3, 2), (0, 1)),
        "empty": Tensor(storage, (0, 6), (6, 1)),
        "nothing": Tensor(np.zeros(0, np.float32), (0,), (1,)),
    }
    arrays = read(views)
    expected = {
        "base": base,
        "transposed": base.T,
        "part": base[1:3, 1::3],
        "scalar": np.array(23, np.float32),
        "expanded": np.float32([[0, 1]] * 3),
        "empty": base[:0],
        "nothing": np.zeros(0, np.float32),
    }
    assert_equal(arrays, expected)
    assert np.shares_memory(arrays["transposed"], arrays["part"])
    assert not any(array.flags.writeable for array in arrays.values())


def test_ways_to_rebuild_a_tensor(read):
    array = np.float32([[1, 2], [3, 4]])
    tensor, halves = Tensor(array), np.array([1, 2**16 - 1], np.uint16)
    plain_bytes = Storage(halves.view(np.uint8), "UntypedStorage", "torch.storage")
    dtype = Raw(b"ctorch\nuint16\n")
    arrays = read(
        {
            "old": rebuild(tensor, "_rebuild_tensor"),
            "parameter": Call(
                "torch._utils._rebuild_parameter", tensor, True, OrderedDict()
            ),
            "with_state": Call(
                "torch._utils._rebuild_parameter_with_state", tensor, True, {}, {}
            ),
            "typed": rebuild(
                Tensor(plain_bytes, (2,), (1,)), "_rebuild_tensor_v3", False, {}, dtype
            ),
        }
    )
    expected = dict.fromkeys(("old", "parameter", "with_state"), array)
    assert_equal(arrays, {**expected, "typed": halves})


def test_tensors_that_cannot_be_rebuilt_are_refused(read):
    tensor, dtype = Tensor(np.float32([1])), Raw(b"ctorch\nuint16\n")
    typed = ("_rebuild_tensor_v3", False, {})
    for call, message in (
        (rebuild(tensor, "_rebuild_tensor_v2", False, {}, {"conj": True}), "conjugate"),
        (rebuild(tensor, *typed, dtype), "expected a storage of bytes"),
        (rebuild(tensor, *typed, "torch.uint16"), "expected the dtype of a tensor"),
        (rebuild(tensor, *typed, Raw(b"ctorch\nSize\n")), "expected the dtype"),
        (Call("torch._utils._rebuild_tensor", 1, 0, (), ()), "got a value of type int"),
    ):
        with pytest.raises(ValueError, match=message):
            read({"x": call})


def test_metadata_of_a_state_dict_is_dropped(read):
    build = OrderedDict(x=Tensor(np.float32([1])))
    state = Pickle().item({"_metadata": OrderedDict(version=2), "items": None})
    inner = Pickle()
    item = Raw(inner.item(build) + state + b"b")
    tensor = Tensor(build["x"].storage)
    assert list(read({"w": tensor, "model": item})) == ["x"]


def test_dictionary_of_python_2(read):
    array = np.float32([5])
    pairs = Call("collections.OrderedDict", [["a", Tensor(array)]])
    assert_equal(read(pairs), {"a": array})


def test_legacy_view_of_a_storage(tmp_path):
    storage = Storage(np.arange(10, dtype=np.float32))
    storage.view = ("another key", 4, 3)
    value = {"x": Tensor(storage, (2,), (1,), offset=1)}
    path = write_legacy(tmp_path / "old.pth", value)
    arrays = torch_files.read_torch_weights(path)
    assert_equal(arrays, {"x": np.float32([5, 6])})
    value["x"].offset = 2  # within the storage, beyond its view
    path = write_legacy(tmp_path / "old.pth", value)
    with pytest.raises(ValueError, match="reaches element 3 of a storage of 3"):
        torch_files.read_torch_weights(path)


def test_big_endian_file(tmp_path):
    value = {"x": Tensor(np.array([1, -2.5], ">f4"))}
    path = write_zip(tmp_path / "big.pth", value, order="big", folder="any name")
    expected = {"x": np.float32([1, -2.5])}
    assert_equal(torch_files.read_torch_weights(path), expected)


# --- Dictionaries around the tensors -------------------------------------------------


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "net", "model_state", "model_state_dict"]
)
def test_wrappers_are_opened(read, key):
    array = np.float32([3])
    optimizer = {"state": {0: {"step": Tensor(np.float32([9]))}}, "lr": 0.1}
    value = {"epoch": 3, "arch": "resnet", "optimizer": optimizer, "best": None}
    value[key] = OrderedDict(w=Tensor(array))
    value["size"] = Call("torch.Size", (1, 2))
    value["milestones"] = Call("collections.Counter", {30: 1})
    assert_equal(read(value), {"w": array})


def test_prefix_goes_when_every_name_has_it(read):
    tensor = Tensor(np.float32([1]))
    assert list(read({"module.a": tensor, "module.b": tensor})) == ["a", "b"]
    assert list(read({"module.a": tensor, "b": tensor})) == ["module.a", "b"]


NAMES = [f"layer{index}.weight" for index in range(20)]


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.module."]
)
@pytest.mark.parametrize("beside", [(), ("criterion.weight",)])
def test_prefixes_of_wrappers_go(read, prefix, beside):
    tensor = Tensor(np.float32([1]))
    names = [*(prefix + name for name in NAMES), *beside]
    assert list(read(dict.fromkeys(names, tensor))) == [*NAMES, *beside]


def test_a_prefix_stays_where_two_would_get_one_name(read):
    tensor = Tensor(np.float32([1]))
    names = [*(f"model.{name}" for name in NAMES), NAMES[0]]
    assert list(read(dict.fromkeys(names, tensor))) == names


def test_an_averaged_model_is_read(read):
    """torch.optim.swa_utils.AveragedModel: a count beside module."""
    count = Storage(np.int64([7]), "LongStorage")
    value = OrderedDict(n_averaged=Tensor(count, shape=()))
    value.update({f"module.{name}": Tensor(np.float32([1])) for name in NAMES})
    assert list(read(value)) == NAMES


def numpy_scalar(value):
    """As NumPy pickles a number in protocol 2."""
    dtype = Call("numpy.dtype", "f8", False, True)
    raw = Call("_codecs.encode", np.float64(value).tobytes().decode("latin1"), "latin1")
    return Call("numpy.core.multiarray.scalar", dtype, raw)


def new_object(name, state) -> Raw:
    """NEWOBJ and BUILD, as Python pickles an object of a class of one's own."""
    module, _, name = name.rpartition(".")
    head = f"c{module}\n{name}\n".encode()
    return Raw(head + b")\x81" + instructions(state) + b"b")


# What projects leave beside the weights.
BESIDE = {
    "argparse": new_object("argparse.Namespace", {"lr": 0.02, "amp": False}),
    "numpy": numpy_scalar(0.5),
    "numpy 2": Call("numpy._core.multiarray.scalar", Call("numpy.dtype", "i8"), "x"),
    "path": Call("pathlib.PosixPath", "runs", "x"),
    "set": Raw(b"\x8f(" + instructions(3) + b"\x90"),
    "frozenset": Raw(b"(" + instructions(3) + b"\x91"),
    "defaultdict": Raw(
        b"ccollections\ndefaultdict\n(c__builtin__\nint\ntR(K\x01K\x02u"
    ),
    "own list": Raw(b"cmine\nList\n)\x81(K\x01K\x02e"),
    "own class": new_object("__main__.Config", {"size": numpy_scalar(3.0)}),
    "keys": Raw(b"}cenum\nColor\nK\x01\x85RK\x02s"),
    "protocol 4": Raw(b"\x8c\x08datetime\x8c\x04date\x93)}\x92"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_weights_is_skipped(read, name):
    """torchvision's script saves model, optimizer, lr_scheduler, epoch and args."""
    value = {
        "args": BESIDE[name],
        "model": OrderedDict(w=Tensor(np.float32([3]))),
        "model_ema": OrderedDict(w=Tensor(np.float32([4]))),
        "optimizer": {"state": {0: BESIDE[name]}, "param_groups": [BESIDE[name]]},
        "epoch": 29,
    }
    assert_equal(read(value), {"w": np.float32([3])})
    with pytest.raises(ValueError, match="Nothing was executed|type dict under x"):
        read(OrderedDict(w=Tensor(np.float32([1])), x=BESIDE[name]))


@pytest.mark.parametrize("name", payloads("", ""))
def test_a_payload_beside_the_weights_is_skipped_and_not_run(read, tmp_path, name):
    trace = tmp_path / "trace"
    command, expression = f'echo > "{trace}"', f"open({str(trace)!r}, 'w').close()"
    payload = Raw(payloads(command, expression)[name])
    value = {"args": payload, "model": OrderedDict(w=Tensor(np.float32([3])))}
    assert_equal(read(value), {"w": np.float32([3])})
    assert not trace.exists()


# --- .safetensors --------------------------------------------------------------------


def write_safetensors(path, tensors: dict, **changes):
    """Writes {name: (dtype there, array)} as the format has it, or with lies."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        entry = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        header[name] = {**entry, **changes}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_safetensors(tmp_path):
    arrays = {
        "model.a": ("F32", np.float32([[1, 2.5], [-3, 4]])),
        "model.b": ("F16", np.float16([0.5])),
        "model.c": ("I64", np.int64(7).reshape(())),
        "model.d": ("BF16", np.uint16([0x3F80, 0xC000])),
        "model.e": ("BOOL", np.array([True, False])),
        "model.f": ("F32", np.zeros([0, 3], np.float32)),
    }
    path = write_safetensors(tmp_path / "x.safetensors", arrays)
    expected = {name[len("model.") :]: array for name, (_, array) in arrays.items()}
    expected["d"] = np.float32([1, -2])
    assert_equal(torch_files.read_torch_weights(path), expected)


@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": [9]}, {"shape": [-4]}, {"shape": [2**62, 4]}, {"shape": "22"}),
        *({"shape": [1] * 40 + [4]}, {"data_offsets": [0, 99]}, {"dtype": "F8"}),
        *({"data_offsets": [8, 0]}, {"data_offsets": [0]}, {"data_offsets": None}),
    ],
    ids=str,
)
def test_safetensors_that_lie_are_refused(tmp_path, changes):
    arrays = {"a": ("F32", np.float32([[1, 2], [3, 4]]))}
    path = write_safetensors(tmp_path / "x.safetensors", arrays, **changes)
    with pytest.raises(ValueError, match="no .safetensors file, cut short or damaged"):
        torch_files.read_torch_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"x" * 7,
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 2) + b"[]",
        ),
        struct.pack("<Q", 15) + b'{"a":1, "a":2} ',
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 7) + b'{"a":1}',
    ],
    ids=range(7),
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no .safetensors file, cut short or damaged"):
        torch_files.read_torch_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "value, message",
    [
        ({"a": Tensor(np.float32([1])), "epoch": 3}, "type int under epoch"),
        ({3: Tensor(np.float32([1]))}, "a tensor under a value of type int"),
        ({}, "got an empty dict"),
        (Tensor(np.float32([1])), "expected a state_dict, got a tensor"),
        ([1, 2], "got a value of type list"),
        ({"model": {"a": 1}, "net": {"b": 1}}, "several state_dicts: model, net"),
        # A dictionary that holds itself: memo 0, set as its own item "model".
        (Raw(b"}q\0X\x05\0\0\0modelh\0s"), "type dict under model"),
        (Raw(b"}))s"), "an empty tuple as the key"),
        (Raw(b")Na"), "appends to an empty tuple"),
        (Raw(b"]NNs"), "sets items of an empty list"),
    ],
)
def test_what_is_no_state_dict_is_refused(read, value, message):
    with pytest.raises(ValueError, match=message):
        read(value)


# --- Files that promise more than they hold ------------------------------------------


@pytest.mark.parametrize(
    "shape, strides, offset, message",
    [
        ((7,), (1,), 0, "reaches element 6 of a storage of 6"),
        ((2, 3), (3, 1), 1, "reaches element 6"),
        ((2,), (2**62,), 0, "reaches element 4611686018427387904"),
        ((2**62, 2**62), (0, 0), 0, "repeats the 6 elements"),
        ((2**30,), (0,), 0, "repeats the 6 elements"),
        ((2,), (-1,), 1, "no tensor can have"),
        ((2,), (1,), -1, "no tensor can have"),
        ((2,), (2**70,), 0, "no tensor can have"),
        ((2,), (1, 1), 0, "no tensor can have"),
        ((1,) * 40, (1,) * 40, 0, "no tensor can have"),
        ((0, 2**62, 2**62), (1, 1, 1), 0, "cannot be read"),
    ],
)
def test_tensors_stay_within_their_storage(read, shape, strides, offset, message):
    storage = Storage(np.arange(6, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        read({"x": Tensor(storage, shape, strides, offset)})


@pytest.mark.parametrize("count", [7, 2**40, 2**60])
def test_storages_stay_within_the_file(read, count):
    storage = Storage(np.arange(6, dtype=np.float32))
    storage.count = count
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"needs {count} elements|cut short: storage"):
        read({"x": Tensor(storage, (count,), (1,))})
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    "view, message",
    [
        (("v", 4, 7), "reaches element 11 of a storage of 10"),
        (("v", -1, 3), "no sensible size"),
        (("v", 3, -4), "no sensible size"),
        (("v", 0.5, 3), "no sensible size"),
    ],
)
def test_legacy_views_stay_within_their_storage(tmp_path, view, message):
    storage = Storage(np.arange(10, dtype=np.float32))
    storage.view = view
    path = write_legacy(tmp_path / "old.pth", {"x": Tensor(storage, (1,), (1,))})
    with pytest.raises(ValueError, match=message):
        torch_files.read_torch_weights(path)


def test_legacy_file_must_agree_with_itself(tmp_path):
    path = tmp_path / "old.pth"
    storage = Storage(np.arange(6, dtype=np.float32))
    value = {"x": Tensor(storage)}
    content = write_legacy(path, value).read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="cut short: storage 0 ends at byte"):
        torch_files.read_torch_weights(path)
    with pytest.raises(ValueError, match="expected protocol 1001"):
        torch_files.read_torch_weights(write_legacy(path, value, protocol=1002))
    for key in ("7", 0):
        write_legacy(path, value, more_keys=[key])
        with pytest.raises(ValueError, match="no tensor uses the storage"):
            torch_files.read_torch_weights(path)
    storage.count, value["x"].shape = 5, (5,)
    with pytest.raises(ValueError, match="storage 0 has 6 elements .* expect 5"):
        torch_files.read_torch_weights(write_legacy(path, value))


def test_one_storage_has_one_type_and_size(read):
    first, second = Storage(np.zeros(4)), Storage(np.zeros(4), "DoubleStorage")
    first.key = second.key = "0"
    with pytest.raises(ValueError, match="storage 0 has two types"):
        read({"a": Tensor(first), "b": Tensor(second)})


def test_zip_that_unpacks_to_more_than_itself(tmp_path):
    value = {"x": Tensor(np.zeros(2**20, np.float32))}
    path = tmp_path / "bomb.pth"
    write_zip(path, value, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="data.pkl in it is compressed"):
        torch_files.read_torch_weights(path)
    # A member that is stored plainly and claims 2 GB in the archive's directory.
    content = write_zip(path, value).read_bytes()
    place = content.rindex(b"archive/data/0") - 46
    sizes = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content[: place + 20] + sizes + content[place + 28 :])
    with pytest.raises(ValueError, match="claim 2147.* bytes, the whole file has 419"):
        torch_files.read_torch_weights(path)


def test_huge_memo_index_costs_nothing(read):
    value = {
        "x": Tensor(np.float32([2])),
        "y": Raw(instructions(1) + b"r\xff\xff\xff\xff"),
    }
    tracemalloc.start()
    with pytest.raises(ValueError, match="type int under y"):
        read(value)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


# --- Files that are something else, or damaged ---------------------------------------


def tar_file() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def zip_file(*names) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE"),
        (pickle.dumps({"a": 1}), "no file of torch.save"),
        (tar_file(), "it is a tar file"),
        (zip_file("net/data.pkl", "net/constants.pkl"), "TorchScript archive"),
        (zip_file("net/data.pkl", "net/code/__torch__.py"), "TorchScript archive"),
        (zip_file("weight.npy"), "not of torch.save"),
        (zip_file("a/data.pkl", "b/data.pkl"), "found 2"),
        (b"PK\x03\x04" + bytes(100), "cut short or damaged"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "cut short or damaged"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        torch_files.read_torch_weights(path)
    assert str(path) in str(caught.value)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights at"):
        torch_files.read_torch_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_file_cut_short_anywhere(tmp_path, write):
    value = OrderedDict(a=Tensor(np.float32([[1, 2], [3, 4]])), b=Tensor(np.ones(5)))
    value["b"].storage.name = "DoubleStorage"
    path = write(tmp_path / "whole.pth", value)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="empty|cut short|no file of torch.save"):
            torch_files.read_torch_weights(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_damaged_file_gives_an_error_or_arrays(tmp_path, write):
    """Any byte may be wrong: there is no other exception, and no endless reading."""
    path = write(tmp_path / "weights.pth", {"a": Tensor(np.float32([[1, 2], [3, 4]]))})
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            torch_files.read_torch_weights(path)
        except ValueError:
            refused += 1
    assert refused > len(content) / 4


# --- Pickles that would do something -------------------------------------------------


@pytest.mark.parametrize("name", payloads("", ""))
def test_malicious_pickles_execute_nothing(read, tmp_path, name):
    trace = tmp_path / "trace"
    command, expression = f'echo > "{trace}"', f"open({str(trace)!r}, 'w').close()"
    payload = payloads(command, expression)[name]
    if name != "NEWOBJ":  # the payload is live: Python's own unpickler runs it
        pickle.loads(b"\x80\x04" + payload + b".")
        assert trace.exists()
        trace.unlink()
    wanted = {"builtins.eval": "builtins.eval", "NEWOBJ": "subprocess.Popen"}
    value = OrderedDict(w=Tensor(np.float32([1])), x=Raw(payload))
    with pytest.raises(ValueError, match=wanted.get(name, "os.system")) as caught:
        read(value)
    assert "Nothing was executed" in str(caught.value)
    assert not trace.exists()


FLOATS = Raw(b"ctorch\nFloatStorage\n")


def storage_identifier(kind="storage", type=FLOATS, key="0", count=1):
    return instructions((kind, type, key, "cpu", count)) + b"Q"


FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "payload, wanted",
    [
        (b"cnumpy\nzeros\n)R", "numpy.zeros"),
        (b"\x8c\x0ctorch._utils\x8c\x1b_rebuild_parameter.__code__\x93", "__code__"),
        (b"}}\x93", "a name that is no text"),
        (b"ctorch\nFloatStorage\n)R", "a call of torch.FloatStorage"),
        (instructions("os.system") + b")R", "a call of a value of type str"),
        (FUNCTION + b")\x81", "the instruction NEWOBJ"),
        (
            FUNCTION + b"N}" + instructions("__defaults__") + b")s\x86b",
            "the state of a functio",
        ),
        (b"\x82\x01", "the instruction EXT1"),
        (b"Pmodule\n", "the instruction PERSID"),
        (instructions(7) + b"Q", "an object that is no storage"),
        (
            instructions(("module", "net", "net.py", "source", 0)) + b"Q",
            "that is no storage",
        ),
        (storage_identifier(kind="model"), "that is no storage"),
        (storage_identifier(type="FloatStorage"), "that is no storage"),
        (storage_identifier(type=Raw(b"ctorch\nSize\n")), "that is no storage"),
        (storage_identifier(key=0), "that is no storage"),
        (storage_identifier(count=1.0), "that is no storage"),
        (storage_identifier(count=-1), "that is no storage"),
        (storage_identifier(count=2**63), "that is no storage"),
        (b"((((tttt", None),
    ],
)
def test_nothing_but_tensors_can_be_asked_for(read, payload, wanted):
    functions = torch_tensors.FUNCTIONS
    before = {name: (dict(vars(f)), f.__defaults__) for name, f in functions.items()}
    with pytest.raises(ValueError, match=wanted or "cannot be read") as caught:
        read(OrderedDict(w=Tensor(np.float32([1])), x=Raw(payload)))
    assert wanted is None or "Nothing was executed" in str(caught.value)
    after = {name: (dict(vars(f)), f.__defaults__) for name, f in functions.items()}
    assert after == before


def test_nested_tuples_take_no_time(read):
    """60 times t = (t, t): hashing or printing the result would take for ever."""
    nested = b")" + b"q\0h\0\x86" * 60
    for payload in (b"}" + nested + b"Ns", nested + b"Q", nested + b")R", nested):
        with pytest.raises(ValueError, match="type tuple|that is no storage"):
            read({"x": Raw(payload)})


def test_repeated_list_takes_no_memory(read):
    """2000 dictionaries of the same 2000 pairs, in 40 kB: 4 million entries."""
    pairs = instructions([[str(number), None] for number in range(2000)])
    again = b"ccollections\nOrderedDict\nh\0\x85Ra"
    tracemalloc.start()
    with pytest.raises(ValueError, match="type list"):
        read(Raw(pairs + b"q\0]" + again * 2000))
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


MODULES = sorted(Path(torch_files.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_cannot_execute_what_a_file_says(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {getattr(node, "module", None) for node in nodes}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not names & {"pickle", "importlib", "torch", "builtins", "copyreg"}
    assert ("pickletools" in names) == (path.stem == "pickles")
    calls = {getattr(node, "id", None) for node in nodes}
    assert not calls & {"eval", "exec", "getattr", "setattr", "__import__"}


# --- The hash in a file's name -------------------------------------------------------


@pytest.mark.parametrize("digits", [8, 64])
def test_hash_in_the_name(tmp_path, digits):
    path = write_legacy(tmp_path / "weights.pth", {"a": Tensor(np.float32([1]))})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:digits]
    path = path.rename(tmp_path / f"resnet50-{digest}.pth")
    assert list(torch_files.read_torch_weights(path)) == ["a"]
    torch_files.check_hash_in_name(path.rename(tmp_path / f"a-{digest.upper()}.pth"))
    path.write_bytes(b"altered")
    for check in (torch_files.check_hash_in_name, torch_files.read_torch_weights):
        with pytest.raises(ValueError, match=f"altered.*{digest}.*Download it again"):
            check(path)


@pytest.mark.parametrize(
    "name", ["a-20000.pth", "a-20191101.pth", "a.pth", "0676ba61.pth", "a-vocaug.pth"]
)
def test_name_without_hash_is_not_checked(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    torch_files.check_hash_in_name(tmp_path / name)
