"""`python -m bibier_hf.kernels`: build the kernels and print the path of the library."""

import sys

from ..errors import UserError
from . import build, kernels_wanted, library_path


def main() -> int:
    """Build the kernels unless they exist, and return the exit code."""
    try:
        kernels_wanted()
        path = library_path()
        if not path.exists():
            build(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
