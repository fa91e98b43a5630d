"""`bibier search`."""

from typing import Annotated

from pydantic import Field

from ..commandline import Positional
from ..files import is_main_process, locked_by_first_process
from ..tables import markdown_table
from ..training.arguments import RunFile
from ..training.search import TRIALS_FILE, SearchArguments, best_rows, run_search


class SearchCommand(RunFile):
    """Search for the options of a run that score best on dev. The test set is not used.

    Examples:
      bibier search resd_greedy --data_dir PATH/TO/resd
      bibier search my_search.yaml --data_dir PATH/TO/resd

    Finished trials are kept.
    """

    run_file: Annotated[str, Positional("SEARCH")] = Field(  # ty: ignore[incompatible-mutable-override]
        description="search (YAML): its path, or the name of one that comes with the package, such as resd_greedy"
    )

    @classmethod
    def option_help(cls) -> list[str]:
        return ["  --KEY: any option of `bibier train`, for every trial", *SearchArguments.key_help()]

    def after_interrupt(self) -> str:
        return "Finished trials are kept. Continue with the same command."


def search(arguments: SearchCommand) -> None:
    """Run the trials that are not finished and print the best ones."""
    plan = SearchArguments.read(arguments.run_file)

    with locked_by_first_process(plan.output_dir, arguments.after_interrupt()):
        trials = run_search(plan, arguments.overrides)
        if not is_main_process():
            return

    print(f"\n{markdown_table(['trial', 'mean on dev', 'values'], best_rows(trials))}")
    print(
        f"\nAll {len(trials)} trials are in {plan.output_dir}/{TRIALS_FILE}. The best dev scores are optimistic: they were "
        "used for the choice."
    )
