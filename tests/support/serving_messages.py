"""Messages of TF Serving's configuration that tensorflow-serving-api does not hold.

As their .proto files in TF Serving's repository declare them: name -> (number, type).
"""

from __future__ import annotations

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

_BATCHING = {
    "max_batch_size": (1, "Int64Value"),
    "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"),
    "allowed_batch_sizes": (6, "repeated int64"),
    "pad_variable_length_inputs": (7, "bool"),
}
_PROMETHEUS = {"enable": (1, "bool"), "path": (2, "string")}
_MONITORING = {"prometheus_config": (1, "PrometheusConfig")}


def message_type(name: str):
    """Class of BatchingParameters, PrometheusConfig or MonitoringConfig."""
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {
        "bool": {"type": field.TYPE_BOOL},
        "string": {"type": field.TYPE_STRING},
        "repeated int64": {"type": field.TYPE_INT64, "label": field.LABEL_REPEATED},
        "Int64Value": {"type_name": ".google.protobuf.Int64Value"},
        "StringValue": {"type_name": ".google.protobuf.StringValue"},
        "PrometheusConfig": {"type_name": ".tensorflow.serving.PrometheusConfig"},
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="serving_configs.proto", package="tensorflow.serving", syntax="proto3"
    )
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    file.dependency.append(wrappers.name)
    for message, fields in {
        "BatchingParameters": _BATCHING,
        "PrometheusConfig": _PROMETHEUS,
        "MonitoringConfig": _MONITORING,
    }.items():
        declared = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            options = {"label": field.LABEL_OPTIONAL, **kinds[kind]}
            options.setdefault("type", field.TYPE_MESSAGE)
            declared.field.add(name=key, number=number, **options)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(wrappers)
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    return message_factory.GetMessageClass(found)
