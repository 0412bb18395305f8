"""How a run is spread over devices and machines, and what its workers agree on."""

from __future__ import annotations

import contextlib
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.devices.workers import Workers, call_roll
from deeplab_tf.networks.layers import is_keras3

STRATEGIES = ("mirrored", "default", "multi_worker", "tpu")
# Keras 3 cannot run these (fit fails on their per-replica values); Keras 2 can.
KERAS2_STRATEGIES = ("multi_worker", "tpu")
# How mirrored sums gradients over devices; auto is TensorFlow's choice: NCCL on GPUs.
CROSS_DEVICE = {
    "auto": None,
    "nccl": tf.distribute.NcclAllReduce,
    "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
    "one_device": tf.distribute.ReductionToOneDevice,
}


class WorkerGone(ConnectionError):
    """Another worker of the run no longer answers."""


def make_strategy(
    name: str,
    logical_cpus: int = 1,
    *,
    workers: Workers | None = None,
    worker_timeout_seconds: float = 300,
    tpu: str = "local",
    cross_device: str = "auto",
) -> tf.distribute.Strategy:
    """Makes a distribution strategy; call it before anything touches a device.

    Args:
      name: "mirrored" takes every GPU, or the CPU where there is none; "default" one
        device; "multi_worker" those of all `workers`; "tpu" a TPU.
      logical_cpus: splits the CPU into that many devices, and mirrored uses them.
      workers: for multi_worker, see `workers.find_workers`.
      worker_timeout_seconds: how long to wait for all of them to start.
      tpu: name or address of the TPU; "local" is that of this machine.
      cross_device: how mirrored sums over devices, a row of `CROSS_DEVICE`.

    Raises:
      ValueError: unknown name, arguments that do not go together, or a strategy that
        the installed Keras cannot run.
      TimeoutError, OSError: a worker did not start, or a port is taken.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}. Received: {name!r}")
    if cross_device != "auto" and name != "mirrored":
        raise ValueError(
            f"Only strategy mirrored takes cross_device. Received: {name!r} with "
            f"{cross_device!r}"
        )
    if name in KERAS2_STRATEGIES and is_keras3():
        raise ValueError(
            f"strategy {name} needs Keras 2, this is Keras {keras.__version__}. "
            "Install tf-keras and set TF_USE_LEGACY_KERAS=1."
        )
    if logical_cpus > 1:
        if name != "mirrored":
            raise ValueError(
                f"Only strategy mirrored takes logical_cpus. Received: {name!r}"
            )
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * logical_cpus
        )
    if name == "mirrored":
        # Named, because on CPUs alone MirroredStrategy would take only the first.
        kind = "CPU" if logical_cpus > 1 else "GPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        reduction = _cross_device_ops(cross_device, devices or ["CPU:0"])
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
        # MirroredStrategy of one device computes the same, and XLA cannot compile it.
    elif name == "multi_worker":
        call_roll(workers, worker_timeout_seconds)
        return _join(workers)
    elif name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()


def _cross_device_ops(name: str, devices: Sequence[str]):
    """Makes a row of `CROSS_DEVICE`; None for auto.

    Raises:
      ValueError: unknown name, or one that these devices cannot be summed by.
    """
    if name not in CROSS_DEVICE:
        raise ValueError(
            f"cross_device must be one of {sorted(CROSS_DEVICE)}. Received: {name!r}"
        )
    if name == "nccl" and not all("GPU" in device for device in devices):
        raise ValueError(
            "cross_device nccl sums over NVIDIA's GPUs alone: take one_device. "
            f"Received: {', '.join(devices)}"
        )
    # TensorFlow halves the devices into two groups, and an odd one is left out of the
    # sum without a word (seen on 3 and 5 devices, TensorFlow 2.21).
    if name == "hierarchical" and len(devices) % 2:
        raise ValueError(
            "cross_device hierarchical sums over an even number of devices: take "
            f"one_device. Received: {len(devices)}"
        )
    make = CROSS_DEVICE[name]
    return make() if make else None


def _join(workers: Workers) -> tf.distribute.Strategy:
    """MultiWorkerMirroredStrategy over every GPU of the workers, or their CPUs.

    Raises:
      OSError: TensorFlow's server cannot start.
    """
    # Every reduction outside a graph would be logged: one line a step.
    tf.get_logger().setLevel("WARNING")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(workers.addresses)}),
        task_type="worker",
        task_id=workers.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except tf.errors.OpError as error:
        raise OSError(
            f"TensorFlow cannot start {workers.name(workers.index)}: {error.message}. "
            "Is its port taken, or its address that of another machine?"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # TensorFlow has put a handler of its own there, which swallows the signal.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return strategy


def workers_of(strategy: tf.distribute.Strategy) -> Workers:
    """The workers of a strategy; of one process, a single one without an address."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return Workers()
    resolver = strategy.cluster_resolver
    addresses = resolver.cluster_spec().job_tasks("worker")
    return Workers(tuple(addresses), resolver.task_id)


def describe(strategy: tf.distribute.Strategy, batch_size: int) -> str:
    """Who does what: workers, replicas, devices, images a step. One line.

    Raises:
      ValueError: the replicas cannot share `batch_size` images equally.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        down = batch_size // replicas * replicas
        choices = " or ".join(str(n) for n in (down, down + replicas) if n)
        raise ValueError(
            f"batch_size must be divisible by the {replicas} replicas: take {choices}. "
            f"Received: {batch_size}"
        )
    workers = workers_of(strategy)
    if replicas == 1 and not workers.addresses:
        return f"1 replica, all {batch_size} images of a step."
    names = device_names(strategy)
    text = (
        f"{replicas} replicas, each {batch_size // replicas} of {batch_size} images of "
        f"a step; here {len(names)} on {', '.join(names)}."
    )
    if not workers.addresses:
        return text
    role = "the chief" if workers.is_chief else f"the chief is {workers.name(0)}"
    return f"{workers.name(workers.index)} of {workers.count}, {role}: {text}"


def device_names(strategy: tf.distribute.Strategy) -> list[str]:
    """Those of the replicas in this process: ["GPU:0", "GPU:1"]."""
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        return ["GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"]
    devices = strategy.extended.worker_devices
    return [device.rpartition("device:")[2] for device in devices]


def distribute(strategy: tf.distribute.Strategy, make_dataset: Callable):
    """What `fit` takes: a dataset, or in one of several workers its share of one.

    Args:
      strategy: of the run.
      make_dataset: called without arguments for the whole of it, for Keras to deal out;
        or with num_replicas, num_workers and worker_index, for batches of one replica.
    """
    if workers_of(strategy).count == 1:
        return make_dataset()
    return strategy.distribute_datasets_from_function(
        lambda context: make_dataset(
            num_replicas=context.num_replicas_in_sync,
            num_workers=context.num_input_pipelines,
            worker_index=context.input_pipeline_id,
        )
    )


def values_of_workers(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """The value (below 2^53) of each worker, in their order; all must call this."""
    workers = workers_of(strategy)
    if workers.count == 1:
        return [value]
    mine = [value if i == workers.index else 0 for i in range(workers.count)]
    reduced = strategy.reduce("SUM", tf.constant(mine, tf.float64), axis=None)
    return [int(value) for value in reduced.numpy()]


def any_worker(strategy: tf.distribute.Strategy, value: bool) -> bool:
    """Whether the value is true on any worker; all must call this."""
    return any(values_of_workers(strategy, int(value)))


def wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker has called this."""
    values_of_workers(strategy, 0)


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets the chief through the block alone, then the others."""
    chief = workers_of(strategy).is_chief
    if not chief:
        wait_for_workers(strategy)
    yield
    if chief:
        wait_for_workers(strategy)


def check_same(strategy: tf.distribute.Strategy, value: int, complaint: str) -> None:
    """Stops all workers with the complaint unless all give the same value.

    Raises:
      ValueError: they do not.
    """
    values = values_of_workers(strategy, value)
    if len(set(values)) > 1:
        received = ", ".join(f"{v} on worker {i}" for i, v in enumerate(values))
        raise ValueError(f"{complaint} Received: {received}")


@contextlib.contextmanager
def output_folder(strategy: tf.distribute.Strategy, workdir: str) -> Iterator[str]:
    """Where a worker writes: the chief to the workdir, others to what is then removed.

    Others cannot leave the writing out: some variables are reduced when they are read.
    """
    if workers_of(strategy).is_chief:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="worker-") as folder:
        yield folder


@contextlib.contextmanager
def gone_workers_named(
    strategy: tf.distribute.Strategy, saved_step: Callable[[], int]
) -> Iterator[None]:
    """Says in a sentence what TensorFlow makes of a worker that is gone.

    TensorFlow notices the loss of the chief at once, of another within some 10 seconds.

    Args:
      strategy: of the run.
      saved_step: gives the step the run would resume from.

    Raises:
      WorkerGone: another worker died, stopped or cannot be reached.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        workers = workers_of(strategy)
        if workers.count == 1 or not _means_gone(error):
            raise
        named = re.findall(
            r"/job:worker/(?:replica:0/)?task:(\d+)(?!/device)", f"{error}"
        )
        others = [int(i) for i in named if int(i) != workers.index]
        who = workers.name(others[0]) if others else "one of them"
        raise WorkerGone(
            f"A worker is gone: {who} no longer answers. The same command on all "
            f"workers resumes from step {saved_step()}."
        ) from error


def _means_gone(error: Exception) -> bool:
    """Whether it comes from talking to the others; saving wraps such an error."""
    lost = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError)
    return isinstance(error, lost) or "Collective ops is aborted" in str(error)
