"""Bodies of REST: JSON in, PredictRequest out; PredictResponse in, JSON out."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

import numpy as np
from tensorflow_serving.apis import predict_pb2

from tests.support.c_loader import TF_STRING, CallError, Tensor
from tests.support.stand_in.models import Models
from tests.support.stand_in.refusals import INVALID_ARGUMENT
from tests.support.stand_in.tensors import (
    DTYPES,
    check_shape,
    packed,
    proto_of,
    tensor_of,
)


def request_of(
    body: bytes, spec, models: Models
) -> tuple[predict_pb2.PredictRequest, bool]:
    """Body of :predict -> (PredictRequest, whether it asks for columns)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise CallError(INVALID_ARGUMENT, "JSON Value: Is not object")
    request = predict_pb2.PredictRequest(model_spec=spec)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise CallError(
            INVALID_ARGUMENT, "'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = name
    with models.servable(spec) as (_, servable):
        infos = dict(servable.signature(name).inputs)
    columns = "inputs" in document
    if columns == ("instances" in document):
        raise CallError(
            INVALID_ARGUMENT, "Expected one of 'inputs' and 'instances' keys"
        )
    read = _columns if columns else _rows
    values = read(document["inputs" if columns else "instances"], sorted(infos))
    for name, value in values.items():
        if name not in infos:
            raise CallError(
                INVALID_ARGUMENT, f"JSON object: does not have named input: {name}"
            )
        tensor = json_tensor(value, infos[name].dtype)
        request.inputs[name].CopyFrom(proto_of(tensor))
    return request, columns


def _columns(value, names: Sequence[str]) -> dict:
    if isinstance(value, dict) and not _is_base64(value):
        return value
    if len(names) != 1:
        raise CallError(INVALID_ARGUMENT, "inputs is a plain value/list, not an object")
    return {names[0]: value}


def _rows(rows, names: Sequence[str]) -> dict:
    if not isinstance(rows, list) or not rows:
        raise CallError(INVALID_ARGUMENT, "Expected 'instances' to be a list of values")
    rows = [
        row if isinstance(row, dict) and not _is_base64(row) else {names[0]: row}
        for row in rows
    ]
    for index, row in enumerate(rows):
        if sorted(row) != list(names):
            raise CallError(
                INVALID_ARGUMENT,
                f"Failed to process element: {index} of 'instances' list. Its keys "
                f"must be equal to: {','.join(names)}",
            )
    return {name: [row[name] for row in rows] for name in names}


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def json_tensor(value, dtype: int) -> Tensor:
    """Nested lists -> Tensor."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    check_shape(shape)
    flat = []
    _flatten(value, shape, flat)
    if dtype == TF_STRING:
        return Tensor(dtype, shape, [_json_string(item) for item in flat])
    wanted = (int, float) if dtype == 1 else (int,)
    for item in flat:
        if type(item) not in wanted:
            raise CallError(
                INVALID_ARGUMENT,
                f"JSON Value: {json.dumps(item)[:80]} is not of expected type {dtype}",
            )
    return Tensor(dtype, shape, packed(flat, DTYPES[dtype][0], len(flat)))


def _flatten(value, shape: Sequence[int], flat: list) -> None:
    if not shape:
        if isinstance(value, list):
            raise CallError(INVALID_ARGUMENT, "Encountered list at unexpected level")
        flat.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise CallError(
            INVALID_ARGUMENT,
            f"Encountered list at unexpected size: {shape[0]} expected",
        )
    for item in value:
        _flatten(item, shape[1:], flat)


def _json_string(item) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if not _is_base64(item) or not isinstance(item["b64"], str):
        raise CallError(
            INVALID_ARGUMENT,
            f"JSON Value: {json.dumps(item)[:80]} is no base64 object",
        )
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CallError(INVALID_ARGUMENT, "Unable to base64 decode") from error


def answer_of(response: predict_pb2.PredictResponse, columns: bool) -> dict:
    """PredictResponse -> what REST answers."""
    outputs = {n: _json_values(n, p) for n, p in sorted(response.outputs.items())}
    if columns:
        return {
            "outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))
        }
    rows = [dict(zip(outputs, values)) for values in zip(*outputs.values())]
    if len(outputs) == 1:
        rows = [next(iter(row.values())) for row in rows]
    return {"predictions": rows}


def _json_values(name: str, proto) -> list:
    tensor = tensor_of(proto)
    if tensor.dtype != TF_STRING:
        kind = DTYPES[tensor.dtype][0]
        return np.frombuffer(tensor.content, kind).reshape(tensor.shape).tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in tensor.content]
    return [item.decode(errors="replace") for item in tensor.content]
