"""`bibier prepare csv`."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", ["csv", *sys.argv[1:]]))
