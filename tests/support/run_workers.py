"""One of two workers that stop, resume, finish, and one of which dies: test_strategies.

Everything is in float64, where two correct runs do not part (see run_replicas).
"""

import json
import os
import signal
import sys
import time

from tensorflow import keras

from deeplab_tf.commands import train
from deeplab_tf.devices.workers import find_workers
from deeplab_tf.networks.backbones import BACKBONES, Backbone
from deeplab_tf.networks.blocks import conv_bn_relu
from deeplab_tf.networks.precision import PRECISIONS
from deeplab_tf.training import loop, resuming, strategies
from deeplab_tf.workdir import CHECKPOINT_FOLDER

STOP_STEP = 3


def build_tiny(image, output_stride, multi_grid):
    """Four convolutions to stride 16: quick to trace."""
    x = image
    for index in range(4):
        x = conv_bn_relu(x, 8, 3, stride=2, name=f"tiny{index}")
    return {"out": x}


def train_tiny(data_dir, folder, strategy):
    """Trains six steps of four images in float64; a part of them where it is stopped.

    Returns:
      (the message of the run that stopped or None, the folder it wrote to).
    """
    BACKBONES["four_convolutions"] = Backbone(build_tiny, "unit", 0, multi_grid=())
    PRECISIONS["float64"] = "float64"
    keras.backend.set_floatx("float64")
    changes = {
        "data_dir": data_dir,
        "backbone": "four_convolutions",
        "crop_size": ["33"],
        "batch_size": 4,
        "steps": 6,
        "precision": "float64",
        "multi_grid": None,
        "atrous_rates": (12,),
        "image_pooling": False,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "validate_every": 1,
    }
    try:
        with strategies.chief_first(strategy):
            config, data = train.make_run("demo", changes)
            is_chief = strategies.workers_of(strategy).is_chief
            resuming.claim_workdir(config, folder, is_chief)
        with strategies.output_folder(strategy, folder) as output:
            loop.train(config, data, folder, strategy, output)
        return None, output
    except resuming.RunStopped as stopped:
        return str(stopped), output
    finally:
        keras.backend.set_floatx("float32")
        # Keras 2 keeps the policy that it made of the other.
        keras.mixed_precision.set_global_policy("float32")
        del BACKBONES["four_convolutions"], PRECISIONS["float64"]


def stop_this_worker(step):
    """Sends this process SIGTERM as a step ends, once."""
    original = resuming.ResumableRun.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, logs)

    resuming.ResumableRun.on_train_batch_end = on_train_batch_end


def main(data_dir, folder, addresses, index):
    workers = find_workers(addresses.split(","), int(index))
    strategy = strategies.make_strategy("multi_worker", workers=workers)
    if not workers.is_chief:
        stop_this_worker(STOP_STEP)
    stopped, _ = train_tiny(data_dir, folder, strategy)
    strategies.wait_for_workers(strategy)  # the chief may still be saving
    saved = os.listdir(os.path.join(folder, CHECKPOINT_FOLDER))
    _, output = train_tiny(data_dir, folder, strategy)
    print(json.dumps({"stopped": stopped, "saved": saved, "output": output}))
    sys.stdout.flush()
    strategies.wait_for_workers(strategy)
    if not workers.is_chief:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        with strategies.gone_workers_named(strategy, lambda: 6):
            strategies.wait_for_workers(strategy)
    except strategies.WorkerGone as gone:
        print(json.dumps({"gone": str(gone), "seconds": time.monotonic() - start}))
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
