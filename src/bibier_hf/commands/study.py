"""The command behind `recipes/study.py`."""

from collections.abc import Sequence

from ..errors import ArgumentError
from ..files import locked_by_first_process
from ..training.sections import section_help
from ..training.study import StudyArguments, comparison_table, plan_runs, read_study, run_study, write_comparison
from .common import guarded, is_main_process

USAGE = "usage: recipes/study.py STUDY.yaml [--only VARIANT[,VARIANT]] [--report] [--key value for every run] ..."


def study_main(arguments: Sequence[str]) -> int:
    """Run and compare as the command line says; returns the exit code.

    Args:
        arguments: `STUDY.yaml [--only VARIANT[,VARIANT]] [--report] [--key value] ...`; what is left goes to every
            run.
    """

    def study() -> None:
        if not arguments or any(argument in ("-h", "--help") for argument in arguments):
            print(
                "\n".join(
                    [
                        USAGE,
                        "",
                        "the study file:",
                        *(line.replace("  --", "  ") for line in section_help(StudyArguments)),
                    ]
                )
            )
            return
        file, *rest = arguments
        if file.startswith("-"):
            raise ArgumentError("Give a study file (YAML) as the first argument.")
        only, report_alone, overrides = _own_options(rest)
        plan = read_study(file)
        with locked_by_first_process(plan.output_dir, "Finished runs are kept: the same command goes on."):
            if not report_alone:
                run_study(plan_runs(plan, overrides, only), plan.keep_models)
            report = write_comparison(plan, plan_runs(plan, overrides)) if is_main_process() else None
        if report is not None:
            print(f"\n{comparison_table(report['comparison'])}")
            if missing := report["runs"]["missing"]:
                print(f"\n{len(missing)} runs are not finished yet, {missing[0]} among them.")
            print(f"\nAll figures are in {plan.output_dir}/study.json.")

    return guarded(study, lambda: "Interrupted. The same command goes on: finished runs are kept.")


def _own_options(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """(variants of `--only`, is it `--report`, the rest)"""
    only, report_alone, rest = [], False, []
    remaining = iter(arguments)
    for argument in remaining:
        key, equals, value = argument.partition("=")
        if key == "--only":
            value = value if equals else next(remaining, "")
            if not value:
                raise ArgumentError("only: name one variant of the study file or several, with commas between them.")
            only += value.split(",")
        elif argument == "--report":
            report_alone = True
        else:
            rest.append(argument)
    return only, report_alone, rest
