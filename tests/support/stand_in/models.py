"""The models of a configuration: which versions and labels there are, who answers.

What is counted of the requests is here, too, as every request passes.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from tests.support.c_loader import CallError, load_library
from tests.support.stand_in.refusals import INVALID_ARGUMENT, NOT_FOUND, STATUSES
from tests.support.stand_in.servables import Servable


class Version(NamedTuple):
    """A version that the server knows: ended where `servable` is None."""

    servable: Servable | None
    error: CallError | None


class Models:
    """The models of a configuration, and the versions their folders hold.

    Args:
      read_config: gives a ModelServerConfig; asked again at every `poll`.
      labels_ahead: whether a new label may name a version that is not loaded.
      of_servable: what a `Servable` takes beside library and path.
    """

    def __init__(self, read_config, labels_ahead: bool, **of_servable):
        self.library = load_library()
        self.of_servable = of_servable
        self.read_config = read_config
        self.labels_ahead = labels_ahead
        self.versions: dict[str, dict[int, Version]] = {}
        self.labels: dict[str, dict[str, int]] = {}
        self.requests = collections.Counter()
        self._lock = threading.Lock()  # of `versions`: what is given out stays loaded

    def poll(self) -> None:
        """Loads and unloads what configuration and folders ask for."""
        configs = self.read_config().model_config_list.config
        for config in configs:
            self._assign_labels(config)
            self._load(config)
        for name in self.versions.keys() - {config.name for config in configs}:
            self._unload(name, set(self.versions[name]))

    def _assign_labels(self, config) -> None:
        old = self.labels.get(config.name, {})
        loaded = self.versions.get(config.name, {})
        new = {}
        for label, number in config.version_labels.items():
            available = number in loaded and loaded[number].servable
            if available or (self.labels_ahead and label not in old):
                new[label] = number
            elif label in old:
                new[label] = old[label]
            if label not in new or new[label] != number:
                _log(f"label {label}: version {number} is not available")
        self.labels[config.name] = new

    def _load(self, config) -> None:
        known = self.versions.setdefault(config.name, {})
        wanted = aspired_versions(config)
        for number in wanted - known.keys():
            try:
                path = version_folder(config.base_path, number)
                servable = Servable(self.library, path, **self.of_servable)
                version = Version(servable, None)
            except CallError as error:
                version = Version(None, error)
                _log(f"version {number}: {error}")
            with self._lock:
                known[number] = version
        # A version goes when another is there to take its place.
        if not wanted or any(known[number].servable for number in wanted):
            self._unload(config.name, known.keys() - wanted)

    def _unload(self, name: str, numbers: set[int]) -> None:
        for number in numbers:
            with self._lock:
                version = self.versions[name].pop(number)
            if version.servable:
                # It waits for requests under way.
                threading.Thread(target=version.servable.close, daemon=True).start()

    @contextlib.contextmanager
    def servable(self, spec) -> Iterator[tuple[int, Servable]]:
        """Gives (number, Servable) of a ModelSpec."""
        with self._lock:
            number, servable = self._find(spec)
            servable.acquire()
        try:
            yield number, servable
        finally:
            servable.release()

    def _find(self, spec) -> tuple[int, Servable]:
        known = self.versions.get(spec.name, {})
        available = {n: v.servable for n, v in known.items() if v.servable}
        number = self._number(spec, max(available, default=0))
        if number not in available:
            asked = (
                f"Specific({spec.name}, {number})" if number else f"Latest({spec.name})"
            )
            raise CallError(NOT_FOUND, f"Servable not found for request: {asked}")
        return number, available[number]

    def _number(self, spec, default: int) -> int:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice != "version_label":
            return default
        label = spec.version_label
        if label not in self.labels.get(spec.name, {}):
            raise CallError(
                INVALID_ARGUMENT, f"Unrecognized servable version label: {label}"
            )
        return self.labels[spec.name][label]

    def predict(self, request) -> predict_pb2.PredictResponse:
        """PredictRequest -> PredictResponse."""
        status = "OK"
        try:
            with self.servable(request.model_spec) as (number, servable):
                response = servable.answer(request)
        except CallError as error:
            status = STATUSES[error.code].name
            raise
        finally:
            self.requests[request.model_spec.name, status] += 1
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = number
        return response

    def status(self, spec) -> get_model_status_pb2.GetModelStatusResponse:
        """ModelSpec -> GetModelStatusResponse."""
        with self._lock:
            known = dict(self.versions.get(spec.name, {}))
        number = self._number(spec, 0)
        if not known or (number and number not in known):
            missing = f"version {number}" if known else "any versions"
            raise CallError(NOT_FOUND, f"Could not find {missing} of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for each in sorted(known, reverse=True):
            if number in (0, each):
                status = response.model_version_status.add(version=each)
                error = known[each].error
                status.state = status.END if error else status.AVAILABLE
                status.status.error_code = error.code if error else 0
                status.status.error_message = str(error or "")
        return response

    def metrics(self) -> str:
        """Counts of requests as Prometheus reads them."""
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        for (model, status), count in sorted(self.requests.items()):
            labels = f'model_name="{model}",status="{status}"'
            lines.append(f":tensorflow:serving:request_count{{{labels}}} {count}")
        return "\n".join(lines) + "\n"


def aspired_versions(config) -> set[int]:
    """Versions that a ModelConfig asks for, of those that its folder holds."""
    names = os.listdir(config.base_path) if os.path.isdir(config.base_path) else []
    found = {int(name) for name in names if name.isdecimal()}
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        return found & set(policy.specific.versions)
    return set(sorted(found)[-(policy.latest.num_versions or 1) :])


def version_folder(base_path: str, number: int) -> Path:
    """Folder of a version; its name may have leading zeros."""
    names = [name for name in os.listdir(base_path) if name.isdecimal()]
    return Path(base_path, next(name for name in names if int(name) == number))


def _log(words: str) -> None:
    print(f"stand-in: {words}", file=sys.stderr, flush=True)
