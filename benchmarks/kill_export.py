"""Kills export.py at random moments; no folder that TF Serving would load is broken.

    python -m benchmarks.kill_export --workdir=runs/demo --kills=20

TF Serving loads the folders whose names are whole numbers. After each kill every such
folder must hold its signatures and its warm-up requests, and load; exits with 1
otherwise. What a killed export leaves under another name is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from deeplab_tf.exports.signatures import METADATA_KEYS
from deeplab_tf.exports.warmup import WARMUP_FILE
from deeplab_tf.inference.saved_models import load_saved_model, read_labels


def is_whole(path: str) -> bool:
    read_labels(path)
    values = load_saved_model(path).signatures["metadata"](keys=list(METADATA_KEYS))
    return len(values) == 1 and os.path.getsize(os.path.join(path, WARMUP_FILE)) > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a run of train.py")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output_dir", default="runs/kill_export")
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    command = [sys.executable, "export.py", f"--workdir={options.workdir}"]
    command += [f"--output_dir={options.output_dir}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    moments = random.Random(options.seed)
    checked, kills = {}, 0
    for _ in range(options.kills):
        # Writing, comparing and renaming come in the second half.
        moment = moments.uniform(0.4, 1.1) * seconds
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        for name in filter(str.isdecimal, os.listdir(options.output_dir)):
            if name not in checked:
                checked[name] = is_whole(os.path.join(options.output_dir, name))
    left = [n for n in os.listdir(options.output_dir) if not n.isdecimal()]
    broken = [name for name, whole in checked.items() if not whole]
    print(
        f"{kills} of {options.kills} exports were killed ({seconds:.0f} s each): "
        f"{len(checked)} versions, {len(broken)} of them broken; {len(left)} folders "
        "were left under names that TF Serving ignores."
    )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
