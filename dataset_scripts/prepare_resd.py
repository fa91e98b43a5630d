"""`bibier prepare resd`."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", ["resd", *sys.argv[1:]]))
