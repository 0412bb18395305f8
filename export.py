"""Exports a trained model for TF Serving, LiteRT, ONNX Runtime or OpenVINO.

    python export.py --workdir=runs/demo --output_dir=exported
    python export.py --workdir=runs/demo --output_dir=exported --format=onnx

--help has all flags; how it is done is told in deeplab_tf/commands/export.py.
"""

from deeplab_tf.commands import export

if __name__ == "__main__":
    export.run()
