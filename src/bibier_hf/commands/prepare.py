"""`bibier prepare`."""

import inspect
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, create_model

from ..commandline import HELP_FLAGS, Positional, Section
from ..data.context import Context
from ..data.corpora import CORPORA, get_corpus
from ..data.mixture import CONTEXT_HELP, LABEL_COLUMN_HELP, LABEL_MAP_HELP, LABELS_HELP, PROBLEM_TYPE_HELP
from ..data.prepare import COMMON_OPTIONS, Corpus, describe_counts, describe_remarks
from ..model.configuration_bibier import PROBLEM_TYPES


class PrepareArguments(Section):
    """Convert a corpus to Parquet in the common schema, and print its counts and what was changed.

    Examples:
      bibier prepare resd --source PATH/TO/resd --output_dir data/resd
      bibier prepare resd --source Aniemore/resd_annotated --output_dir data/resd
      bibier prepare meld --source MELD.Raw.tar.gz --output_dir data/meld
      bibier prepare csv --source my_corpus/metadata.csv --language en --output_dir data/my_corpus
      bibier prepare my_corpus.py --source PATH/TO/recordings --output_dir data/mine
      bibier prepare resd --help

    Each corpus has its own options, which --help after its name lists.
    """

    reader: Annotated[str, Positional("CORPUS")] = Field(description=f"{', '.join(CORPORA)}, or a Python file")
    source: str | None = Field(None, description="the raw corpus: a folder or a file")
    output_dir: str = Field(description="folder for the Parquet files; a prepared corpus in it is replaced")
    labels: list[str] | None = Field(None, description=LABELS_HELP)
    label_map: dict[str, str | None] | str | None = Field(None, description=LABEL_MAP_HELP)
    label_column: str | None = Field(None, description=LABEL_COLUMN_HELP)
    context: Context | None = Field(None, description=CONTEXT_HELP)
    problem_type: Literal[PROBLEM_TYPES] | None = Field(None, description=PROBLEM_TYPE_HELP)
    asr: str | None = Field(
        None, description="speech recognizer for missing transcripts: Hub id or folder, such as openai/whisper-base"
    )

    @classmethod
    def for_command_line(cls, arguments: Sequence[str]) -> type[Section]:
        """With the options of the corpus."""
        name = next((argument for argument in arguments if argument not in HELP_FLAGS), "-")
        return cls if name.startswith("-") else with_reader_options(get_corpus(name))

    def after_interrupt(self) -> str:
        return f"{self.output_dir} is unchanged."


def with_reader_options(corpus: Corpus) -> type[PrepareArguments]:
    """The section, and a field for each keyword option of the corpus's reader."""
    explained = _explained_arguments(corpus.read.__doc__ or "")
    parameters = inspect.signature(corpus.read).parameters
    fields: dict[str, Any] = {}

    for name, default in corpus.own_options.items():
        value = list(default) if isinstance(default, tuple) else default
        description = explained.get(name, "") or name
        fields[name] = (_option_type(parameters[name].annotation), Field(value, description=description))

    if corpus.has_source:
        hub = f", or the id of {'its' if corpus.hub_id else 'a'} data set on the Hub" if corpus.on_hub else ""
        fields["source"] = (str, Field(description=f"the raw corpus ({corpus.homepage}){hub}"))
    return create_model("PrepareArguments", __base__=PrepareArguments, __doc__=PrepareArguments.__doc__, **fields)


def _option_type(annotation: Any) -> Any:
    """The type of an option of a reader, as a command line can give it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_option_type(option) for option in get_args(annotation))]  # noqa: UP007 - made of a tuple
    if get_origin(annotation) is Sequence:
        return types.GenericAlias(list, get_args(annotation))
    if get_origin(annotation) is None or get_origin(annotation) is Literal:
        return annotation
    return types.GenericAlias(dict, tuple(_option_type(part) for part in get_args(annotation)))


def prepare(arguments: PrepareArguments) -> None:
    """Prepare the corpus.

    Raises:
        FileNotFoundError, CorpusError, AudioError: a corpus that is missing or cannot be used.
    """
    options = arguments.model_dump(exclude=set(PrepareArguments.model_fields) - set(COMMON_OPTIONS))
    corpus = get_corpus(arguments.reader)
    info = corpus.prepare(arguments.source, arguments.output_dir, asr=arguments.asr, **options)

    print(describe_counts(info))
    for line in describe_remarks(info):
        print(line)
    print(f"Written to {arguments.output_dir}")


def _explained_arguments(docstring: str) -> dict[str, str]:
    """Argument -> its description in the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(docstring), re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for names, text in entries for name in names.split(", ")}
