"""`bibier kernels`."""

from ..commandline import Section
from ..kernels import build, kernels_wanted, library_path


class KernelsArguments(Section):
    """Compile the CPU kernels of the Mamba blocks now, and print where the library is.

    Training compiles them when it starts; BIBIER_KERNEL=torch turns the kernels off.
    """


def kernels(arguments: KernelsArguments) -> None:
    """Build the library unless it is there."""
    kernels_wanted()
    path = library_path()
    if not path.exists():
        build(path)
    print(path)
