"""The run files, studies, and searches that come with the package, by name: `resd` is `recipes/resd.yaml`."""

from pathlib import Path

from .errors import ArgumentError

_PACKAGE = Path(__file__).parent
FOLDER = next(
    (folder for folder in (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes") if folder.is_dir()),
    _PACKAGE / "recipes",
)
"""In the wheel, else in the repository of an editable installation."""

_FOLDERS = {"run": FOLDER, "study": FOLDER / "studies", "search": FOLDER / "searches"}


def find_run_file(name: str | Path, kind: str = "run") -> Path:
    """The path of a run file, a study, or a search. A file of that path comes before a shipped one of that name.

    Args:
        name: path, or the name of a shipped file without `.yaml`.
        kind: "run", "study", or "search".

    Raises:
        ArgumentError: there is neither.
    """
    shipped = {path.stem: path for path in sorted(_FOLDERS[kind].glob("*.yaml"))}

    path = Path(name)
    if path.is_file():
        return path
    if str(name) in shipped:
        return shipped[str(name)]

    raise ArgumentError(
        f"There is no {kind} file {name}. Give the path of a YAML file, or one of these names: {', '.join(shipped)}."
    )
