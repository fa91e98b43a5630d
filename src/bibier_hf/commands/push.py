"""`bibier push`."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from ..commandline import Positional, Section
from ..files import locked
from ..hub import push as hub


class PushArguments(Section):
    """Push to the Hugging Face Hub in one commit. The repository is private unless you pass --public."""

    kind: ClassVar[str] = ""

    path: Annotated[str, Positional("PATH")] = Field(description="what to push")
    repo_id: Annotated[str, Positional("OWNER/NAME")] = Field(description="repository on the Hub; created if needed")
    public: bool = Field(False, description="make a new repository public")

    def after_interrupt(self) -> str:
        again = hub.push_command(self.kind, self.path, self.repo_id, not self.public)
        return f"{self.path} and the repository are unchanged. Continue with: {again}"


class PushModelArguments(PushArguments):
    """Push a trained model: a folder that `bibier train` wrote.

    Examples:
      bibier push model outputs/resd OWNER/bibier-resd

    The push is one commit. The repository is private unless you pass --public.
    """

    kind = "model"


class PushDatasetArguments(PushArguments):
    """Push a prepared corpus (folder), or a table of soft labels (.parquet, .csv).

    Examples:
      bibier push dataset data/resd OWNER/resd-bibier
      bibier push dataset outputs/resd_labels.parquet OWNER/resd-labels

    The push is one commit. The repository is private unless you pass --public.
    """

    kind = "dataset"
    force_audio: bool = Field(False, description="also push recordings that you may not publish (MELD)")


class PushSpaceArguments(PushArguments):
    """Push a Space: a folder with an application and a README.md that names its sdk.

    Examples:
      bibier push space outputs/space OWNER/bibier-demo --public

    The push is one commit. The repository is private unless you pass --public.
    """

    kind = "space"


def push_model(arguments: PushModelArguments) -> None:
    """Push a model."""
    _push(arguments, hub.push_model)


def push_dataset(arguments: PushDatasetArguments) -> None:
    """Push a corpus or a table of labels."""
    path = Path(arguments.path)
    if path.is_dir() or not path.suffix:
        _push(arguments, hub.push_corpus, force_audio=arguments.force_audio)
    else:
        _push(arguments, hub.push_labels)


def push_space(arguments: PushSpaceArguments) -> None:
    """Push a Space."""
    _push(arguments, hub.push_space)


def _push(arguments: PushArguments, send: Callable[..., str], **options: bool) -> None:
    path = Path(arguments.path)
    # Another process that writes meanwhile would make the commit half old, half new.
    with locked(path, file=path.is_file(), reading=True) if path.exists() else nullcontext():
        url = send(arguments.path, arguments.repo_id, private=not arguments.public, **options)
    print(f"Pushed {'publicly' if arguments.public else 'privately'}: {url}")
