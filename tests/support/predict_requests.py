"""Requests to predict, for a server of this project's exports."""

from tensorflow_serving.apis import predict_pb2


def predict_request(signature, **tensors):
    """What asks a signature of the model `deeplab`, of TensorProtos by their names."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "deeplab"
    request.model_spec.signature_name = signature
    for name, tensor in tensors.items():
        request.inputs[name].CopyFrom(tensor)
    return request
