"""Environments with the wheel and the requirements of some extras, and nothing else.

Nothing is downloaded: packages are links into this environment. Which ones follows from the requirements in their
metadata, as in an installer.
"""

import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def build_wheel(repository: Path, folder: Path) -> Path:
    """Build the wheel of the working tree."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps"]
    subprocess.run([*command, "-w", str(folder), str(repository)], check=True, timeout=600)
    (wheel,) = folder.glob("bibier_hf-*.whl")
    return wheel


def install(wheel: Path, extras: Iterable[str], folder: Path) -> Path:
    """Create a virtual environment with the wheel and its requirements, and return its Python."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    ZipFile(wheel).extractall(packages)
    (own,) = (PathDistribution(path) for path in packages.glob("bibier_hf-*.dist-info"))

    for required in requirements(own, frozenset(extras)):
        for entry in {file.parts[0] for file in required.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / entry
            if not link.exists():
                link.symlink_to(Path(required.locate_file(entry)).resolve())
    return python


def requirements(own: Distribution, extras: frozenset[str]) -> list[Distribution]:
    """All direct and indirect requirements of a distribution with these extras."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    waiting = [(own, extras)]
    while waiting:
        current, wanted = waiting.pop()
        for line in current.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                continue
            key = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if key in found:
                continue
            try:
                found[key] = own if key[0] == canonicalize_name(own.name) else distribution(requirement.name)
            except PackageNotFoundError:
                continue  # such as setuptools, which the wheels of this environment do not use
            waiting.append((found[key], key[1]))
    return [required for required in found.values() if required is not own]
