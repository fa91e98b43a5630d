"""How much faster than a textbook, than other libraries and than the original's way: ratios, measured side by side in one run.

python recipes/benchmark.py                                             # the quick rows: some minutes on 2 cores
python recipes/benchmark.py --only scan_forward limit_forward           # some of them
python recipes/benchmark.py --full --profile --json outputs/benchmark.json --picture outputs/benchmark.png
python recipes/benchmark.py --help
"""

import sys

from bibier_hf.benchmark.command import benchmark_main

if __name__ == "__main__":
    sys.exit(benchmark_main(sys.argv[1:], __doc__))
