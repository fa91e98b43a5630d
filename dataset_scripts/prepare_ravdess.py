"""`bibier prepare ravdess`."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", ["ravdess", *sys.argv[1:]]))
