"""Every command of the README, of the pages in `docs/` and of the cards does what it says: each is run, or a reason is
given why not.

`readme_commands.py` says how each is treated, and how to add one.
"""

import os
import re
import shlex
from pathlib import Path

import pytest

from .hub_server import HubServer
from .readme_commands import COMMANDS, Run, Skip
from .workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/*.md", "model_cards/**/*.md")
"""The templates of cards are among them as they are rendered: each has a card in `model_cards/`."""

PYTHON_BLOCK = ", Python block "

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"""(^|\s+)#\s[^"']*$""")
_CELL = re.compile(r"^\|.*\| `([^`|]+ [^`|]+)` \|$", re.MULTILINE)


def documents() -> list[Path]:
    return sorted(path for pattern in DOCUMENTS for path in REPOSITORY.glob(pattern))


def shell_commands(block: str) -> list[str]:
    """The command lines of a block: continued lines joined, comments taken off."""
    lines = (_COMMENT.sub("", line) for line in block.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def documented() -> dict[str, str]:
    """Command -> itself, name of a Python block -> its code, for all documents; what stands in several goes by its
    first place."""
    found = {}
    for path in documents():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY).as_posix()
        blocks = _BLOCK.findall(text)
        for block in (block for language, block in blocks if language in ("bash", "sh", "shell", "console")):
            found |= {command: command for command in shell_commands(block)}
        for number, block in enumerate((block for language, block in blocks if language == "python"), start=1):
            if block not in found.values():
                found[f"{name}{PYTHON_BLOCK}{number}"] = block
        if name == "docs/commands.md":  # its examples are the last column of its tables
            found |= {command: command for command in _CELL.findall(text)}
    return found


DOCUMENTED = documented()


def fill_in(text: str, folders: dict[str, str | None]) -> str:
    """`text` with the folders that it asks for; the test is skipped where one of them is not there."""
    for name, folder in folders.items():
        if f"{{{name}}}" in text:
            if not folder or not Path(folder).is_dir():
                pytest.skip(f"needs the folder of {name}; BIBIER_{name.upper()} names it")
            text = text.replace(f"{{{name}}}", folder)
    return text


@pytest.fixture(scope="module")
def perform(tmp_path_factory, repository, checkpoint, clip):
    """`perform(name)` runs an entry of the table, once in a session, after what it needs."""
    workspace = Workspace(tmp_path_factory.mktemp("readme") / "clone", repository, checkpoint, clip)
    folders = {
        "shared": os.environ.get("BIBIER_SHARED", str(repository.parent / "shared")),
        "backbones": os.environ.get("BIBIER_BACKBONES"),
    }
    done = set()

    def run(name: str) -> None:
        if name in done:
            return
        entry = COMMANDS[name]
        if entry.after is not None:
            run(entry.after)
        content = DOCUMENTED[name]
        for part, other in entry.replace.items():
            assert part in content, f"{part!r} is not in {name!r}"
            content = content.replace(part, fill_in(other, folders))
        command = (
            f"python -c {shlex.quote(content)}"
            if PYTHON_BLOCK in name
            else f"{content} {fill_in(entry.append, folders)}"
        )
        finished = workspace.run(command, hub.client_environment(workspace.folder / "hub-cache") if entry.hub else {})
        assert finished.returncode == entry.exit_code, (
            f"{command}\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}"
        )
        assert entry.expect in finished.stdout
        done.add(name)

    with HubServer() as hub:
        yield run


def executed(slow: bool) -> list[str]:
    return [
        name
        for name, entry in COMMANDS.items()
        if isinstance(entry, Run) and entry.slow == slow and name in DOCUMENTED
    ]


@pytest.mark.parametrize("name", executed(slow=False), ids=str)
def test_command(perform, name):
    perform(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", executed(slow=True), ids=str)
def test_slow_command(perform, name):
    perform(name)


def test_every_command_is_in_the_table():
    missing = [name for name in DOCUMENTED if name not in COMMANDS]
    assert not missing, "documented, but not in readme_commands.py (how to add one stands there):\n" + "\n".join(
        missing
    )


def test_the_table_holds_nothing_that_is_documented_nowhere():
    stale = [name for name in COMMANDS if name not in DOCUMENTED]
    assert not stale, "in readme_commands.py, but in no document:\n" + "\n".join(stale)


def test_what_is_not_run_has_a_reason_and_what_must_come_first_is_run():
    for name, entry in COMMANDS.items():
        if isinstance(entry, Skip):
            assert len(entry.reason.split()) > 2, name
            for test in re.findall(r"tests/[\w/]+\.py", entry.reason):
                assert (REPOSITORY / test).is_file(), f"{name}: {test} is not there"
        elif entry.after is not None:
            assert isinstance(COMMANDS[entry.after], Run), name


def test_how_commands_are_read():
    block = '# a remark\npython a.py --x 1   # and another\npython b.py \\\n    --y "# no remark"\n\n'
    assert shell_commands(block)[0] == "python a.py --x 1"
    assert shell_commands(block)[1].startswith("python b.py --y")
    assert len(shell_commands(block)) == 2
