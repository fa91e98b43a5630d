"""`bibier study`."""

from typing import Annotated

from pydantic import Field

from ..commandline import Positional, section_help
from ..files import is_main_process, locked_by_first_process
from ..training.arguments import RunFile
from ..training.study import StudyArguments, comparison_table, plan_runs, run_study, write_comparison


class StudyCommand(RunFile):
    """Compare variants of a run over seeds and folds. Folds are pooled, and seeds averaged.

    Examples:
      bibier study resd_grouped --data_dir PATH/TO/resd
      bibier study resd_augmentation --data_dir PATH/TO/resd --only base,sds
      bibier study my_study.yaml --report

    All other options are those of `bibier train` and apply to every run. Finished runs are kept.
    """

    run_file: Annotated[str, Positional("STUDY")] = Field(  # ty: ignore[incompatible-mutable-override]
        description="study file (YAML), or the name of one that comes with the package, such as resd_grouped"
    )
    only: list[str] = Field([], description="variants to run: --only base,sds; all by default")
    report: bool = Field(False, description="train nothing; compare the finished runs")

    @classmethod
    def option_help(cls) -> list[str]:
        return [*section_help(cls), *StudyArguments.key_help()]

    def after_interrupt(self) -> str:
        return "Finished runs are kept. Continue with the same command."


def study(arguments: StudyCommand) -> None:
    """Train the runs that are not finished and print the comparison."""
    plan = StudyArguments.read(arguments.run_file)

    with locked_by_first_process(plan.output_dir, arguments.after_interrupt()):
        if not arguments.report:
            run_study(plan_runs(plan, arguments.overrides, arguments.only), plan.keep_models)
        if not is_main_process():
            return
        report = write_comparison(plan, plan_runs(plan, arguments.overrides))

    print(f"\n{comparison_table(report['comparison'])}")
    if missing := report["runs"]["missing"]:
        print(f"\n{len(missing)} runs are not finished yet, such as {missing[0]}.")
    print(f"\nAll figures are in {plan.output_dir}/study.json.")
