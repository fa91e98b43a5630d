"""`python -m bibier_hf.kernels`: compile the kernels now and say where they are."""

import sys

from . import KernelError, build, library_path


def main() -> int:
    path = library_path()
    try:
        if not path.exists():
            build(path)
    except KernelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
