"""`bibier prepare meld`."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", ["meld", *sys.argv[1:]]))
