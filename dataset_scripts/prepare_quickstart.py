"""`bibier prepare quickstart`."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", ["quickstart", *sys.argv[1:]]))
