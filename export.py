"""Exports a trained model for TF Serving.

    python export.py --workdir=runs/demo --output_dir=runs/demo/exported
    tensorflow_model_server --rest_api_port=8501 --model_name=deeplab \\
        --model_base_path=$PWD/runs/demo/exported

Writes <output_dir>/<version>/, a SavedModel whose signatures deeplab_tf/serving.py
describes, in float32 whatever the precision of training. It is reloaded and compared
with the Keras model before its name is printed.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from deeplab_tf.labels import Labels
from deeplab_tf.serving import export_model
from deeplab_tf.workdir import load_workdir

FLAGS = flags.FLAGS


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.", required=True)
    flags.DEFINE_string(
        "output_dir", None, "Folder of the model's versions.", required=True
    )
    flags.DEFINE_integer("version", None, "Positive integer [highest there + 1].")
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")


def export_workdir(
    workdir: str,
    output_dir: str,
    version: int | None = None,
    output_stride: int | None = None,
) -> str:
    """Exports the best weights of a run; see `serving.export_model`.

    Returns:
      Path of the version's folder.
    """
    model, config = load_workdir(workdir, output_stride)
    return export_model(model, Labels.from_config(config), output_dir, version)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        path = export_workdir(
            FLAGS.workdir, FLAGS.output_dir, FLAGS.version, FLAGS.output_stride
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"export.py: {error}")
    print("Reloaded: all signatures answer as the Keras model does.")
    print(f"Exported: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
