"""Prints the summary of a run and what to try next, and draws its curves.

    python -m deeplab_tf.report --workdir=runs/demo

Writes `<workdir>/summary.txt` and `<workdir>/curves.png`, as train.py does when it
ends. Only log.csv and config.json are read, so the run may still be going on.
"""

from __future__ import annotations

import argparse
import os
import sys

from deeplab_tf.command_names import call_of, name_of
from deeplab_tf.training.advice import advice_on, format_advice
from deeplab_tf.training.log import NO_MATPLOTLIB, write_report
from deeplab_tf.workdir import CURVES_FILE, SUMMARY_FILE


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog=call_of("report"), description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--workdir", required=True, help="Folder of a run of train.py.")
    workdir = parser.parse_args(arguments).workdir
    try:
        report = write_report(workdir)
        advice = format_advice(advice_on(workdir))
    except (OSError, ValueError) as error:
        sys.exit(f"{name_of('report')}: {error}")
    print(report)
    drawn = not report.endswith(NO_MATPLOTLIB)
    print(f"Written: {os.path.join(workdir, CURVES_FILE if drawn else SUMMARY_FILE)}")
    if advice:
        print(advice)


if __name__ == "__main__":
    main()
