"""`python -m bibier_hf.kernels`: compile the kernels now and say where they are."""

import sys

from ..errors import UserError
from . import build, kernel_choice, library_path


def main() -> int:
    try:
        kernel_choice()
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
