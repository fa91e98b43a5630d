"""How much faster than a textbook, than other libraries and than the original's way: ratios, measured side by side in
one run.

python recipes/benchmark.py  # the quick rows: some minutes on 2 cores
python recipes/benchmark.py --only scan_forward limit_forward  # some of them
python recipes/benchmark.py --full --profile --resd PATH/TO/resd --backbones PATH/TO/backbones \\
    --json outputs/benchmark.json --picture docs/benchmark.png --markdown docs/benchmark.md
python recipes/benchmark.py --only resd_end_to_end --resd PATH/TO/resd --backbones PATH/TO/backbones --rows 64 \
    --epochs 2
python recipes/benchmark.py --help

A row whose corpus, backbones or library is not at hand is named with the reason, and left out.
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.benchmark.command:benchmark_main", sys.argv[1:], __doc__))
