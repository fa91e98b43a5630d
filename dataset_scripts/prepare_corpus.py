"""`bibier prepare`: any corpus by its name, or by the Python file that defines it."""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("prepare", sys.argv[1:]))
