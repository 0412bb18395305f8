"""Kills a training run at random moments, resumes it, and compares the weights.

    python -m benchmarks.kill_and_resume --kills=10
    python -m benchmarks.kill_and_resume --kills=10 --signal=SIGTERM

Two runs of the drawn scenes, the same but for the kills. Exits with 1 unless the last
weights are equal bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from deeplab_tf.networks.weight_files import read_weights
from deeplab_tf.workdir import CHECKPOINT_FOLDER, LAST_WEIGHTS

FLAGS = (
    "--recipe=demo --backbone=mobilenet_v2_0.35 --crop_size=65 --batch_size=4 "
    "--set=multi_grid=null --set=dropout_rate=0.5 --set=validate_every=1000"
).split()


def start(workdir: str, options, log) -> subprocess.Popen:
    command = [sys.executable, "train.py", f"--workdir={workdir}", *FLAGS]
    command += [f"--steps={options.steps}", f"--set=checkpoint_steps={options.every}"]
    return subprocess.Popen(command, stdout=log, stderr=log)


def run_with_kills(workdir: str, options, log) -> int:
    """Kills and resumes until the run has ended; returns how often it was killed."""
    moments = random.Random(options.seed)
    kills = 0
    while True:
        process = start(workdir, options, log)
        moment = moments.uniform(options.shortest, options.longest)
        try:
            process.wait(moment if kills < options.kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, options.signal))
            process.wait()
            kills += 1
            checkpoints = os.path.join(workdir, CHECKPOINT_FOLDER)
            left = os.listdir(checkpoints) if os.path.isdir(checkpoints) else []
            print(f"Kill {kills} after {moment:.1f} s; left: {sorted(left)}")
            continue
        if process.returncode:
            sys.exit(f"train.py failed with {process.returncode}: {log.name}")
        return kills


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--signal", default="SIGKILL", choices=("SIGKILL", "SIGTERM"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=10, help="Checkpoint steps.")
    parser.add_argument("--shortest", type=float, default=5, help="Seconds to a kill.")
    parser.add_argument("--longest", type=float, default=25, help="Seconds to a kill.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    parser.add_argument("--output_dir", default="runs/kill_and_resume")
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    os.makedirs(options.output_dir)
    whole, killed = (os.path.join(options.output_dir, n) for n in ("whole", "killed"))
    with open(os.path.join(options.output_dir, "log.txt"), "w") as log:
        begin = time.perf_counter()
        if start(whole, options, log).wait():
            sys.exit(f"train.py failed: {log.name}")
        print(f"Uninterrupted: {time.perf_counter() - begin:.0f} s")
        kills = run_with_kills(killed, options, log)
    expected, actual = (
        read_weights(os.path.join(workdir, LAST_WEIGHTS)) for workdir in (whole, killed)
    )
    different = [n for n in expected if not (expected[n] == actual[n]).all()]
    print(f"{kills} kills, {len(expected)} weights, {len(different)} of them differ.")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
