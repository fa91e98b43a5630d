"""Compare the package's speed and memory with textbook code, other libraries and the published code.

    python benchmarks/run.py                                # the quick rows: a few minutes on 2 cores
    python benchmarks/run.py --only scan_forward limit_forward
    python benchmarks/run.py --full --profile --resd PATH/TO/resd --backbones PATH/TO/backbones \\
        --json outputs/benchmark.json --picture docs/benchmark.png --markdown docs/benchmark.md
    python benchmarks/run.py --only resd_end_to_end --resd PATH/TO/resd --backbones PATH/TO/backbones --epochs 2
    python benchmarks/run.py --only ls_llm_score --llm PATH/TO/SmolLM2-135M-Instruct

Both sides of a row run in turns in one process, so their ratio holds even where the times do not. A row that lacks its
corpus, backbone or library is skipped, with the reason; so is a row that fails, and then the exit code is 1.
"""

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from bibier_hf.evaluation.report import environment
from bibier_hf.files import write_text
from bibier_hf.kernels import load_kernels
from bibier_hf.quantization import cpu_has_bfloat16
from measuring import Row
from picture import draw
from registry import Materials, Unavailable, find_rows
from report import line, markdown, read_rows, row_of_earlier_run, write_rows

EXIT_ROW_FAILED = 1
EXIT_USER_ERROR = 2


def main(arguments: Sequence[str]) -> int:
    """Run the requested rows and return the exit code."""
    options = _parser().parse_args(arguments)

    materials = Materials(
        options.resd, options.backbones, options.rows, options.epochs, options.llm, options.llm_backend
    )
    quick, full = find_rows(materials)
    known = quick | full

    if unknown := sorted(set(options.only or ()) - set(known)):
        return _error(f"there is no row {', '.join(unknown)}. Available: {', '.join(known)}.")

    if options.keep and not options.json:
        return _error("--keep keeps the rows of a file: pass --json FILE as well.")

    start = time.perf_counter()
    facts = machine_facts(load_kernels(build_missing=True))
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    print(f"{'row':<28}{'ratio':>9}{'goal':>7}  {'ours':>11}{'theirs':>12}  against")

    rows: list[Row] = []
    skipped: dict[str, str] = {}
    wanted = list(options.only or (known if options.full else quick))
    earlier = [row for row in read_rows(options.json) if row["name"] not in wanted] if options.keep else []

    failed: list[str] = []

    for name in wanted:
        try:
            rows.append(known[name]())
        except Unavailable as reason:
            skipped[name] = str(reason)
        except ModuleNotFoundError as error:  # a library that the row compares with
            skipped[name] = f"{error}; pip install 'bibier_hf[benchmark]'"
        except Exception as error:  # the other rows are still worth having
            traceback.print_exc()
            failed.append(name)
            skipped[name] = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"

        gc.collect()  # a row must not run in what the one before it left

        if name in skipped:
            print(f"{name:<28}not run: {skipped[name]}", flush=True)
            continue

        print(f"{line(rows[-1])} [{(time.perf_counter() - start) / 60:.1f} min]", flush=True)

        if options.json:  # after every row, so that an interrupted run keeps what it measured
            write_rows(options.json, rows, facts, earlier)

    profiles: dict[str, list[tuple[str, float, str]]] = {}

    if options.profile:
        try:
            profiles = _profile()
        except Exception:  # the page is still worth having
            traceback.print_exc()
            failed.append("profile")

    minutes = f"{(time.perf_counter() - start) / 60:.1f}"
    facts |= {"load at the end": f"{os.getloadavg()[0]:.1f}", "minutes": minutes}

    shown = [row_of_earlier_run(row, facts) for row in earlier] + rows

    if options.picture:
        draw(shown, options.picture)

    if options.markdown:
        picture = options.picture and os.path.relpath(options.picture, options.markdown.parent)
        write_text(options.markdown, markdown(shown, facts, skipped, profiles, picture))

    missed = [row.name for row in rows if not row.reached]
    goals = sum(row.goal is not None for row in rows)
    summary = f"\n{goals - len(missed)} of {goals} goals reached"

    if missed:
        summary += f"; not: {', '.join(missed)}"

    if skipped:
        summary += f"; not run: {', '.join(skipped)}"

    print(f"{summary} ({minutes} minutes)")

    return EXIT_ROW_FAILED if failed else 0


def machine_facts(compiled_kernels: bool) -> dict[str, str | int]:
    """The machine, the versions and the commit that the numbers depend on."""
    about = environment()
    git = about["git"]

    return {
        "processor": about["hardware"]["processor"],
        "instructions": torch.backends.cpu.get_cpu_capability() + (" with bfloat16" if cpu_has_bfloat16() else ""),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": about["versions"]["transformers"],
        "kernels": "compiled" if compiled_kernels else "in torch",
        "commit": "unknown" if git is None else git["commit"][:12] + (" with changes" if git["dirty"] else ""),
        "date": time.strftime("%Y-%m-%d"),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }


def _profile() -> dict[str, list[tuple[str, float, str]]]:
    """Heading -> part, seconds, and a remark."""
    from clip_profile import profile
    from rooflines import rooflines

    tables: dict[str, list[tuple[str, float, str]]] = {}

    for heading, measure in (
        ("Where the time of a 4 s clip goes", profile),
        ("What bounds the rows short of their goal", rooflines),
    ):
        print(f"\n{heading}")
        tables[heading] = measure()
        for part, seconds, note in tables[heading]:
            print(f"{part:<36}{1000 * seconds:>9.1f} ms  {note}" if seconds else f"{part:<50}{note}", flush=True)

    return tables


def _error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(name for rows in find_rows(Materials()) for name in rows)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"rows to run: {names}")
    parser.add_argument("--full", action="store_true", help="run the long rows as well")
    parser.add_argument(
        "--profile", action="store_true", help="also show where the time of one clip goes, and the bounds of slow rows"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows")
    parser.add_argument("--keep", action="store_true", help="keep the rows of the --json file that are not run again")
    parser.add_argument("--picture", type=Path, metavar="OUT.png", help="plot how many times faster each is")
    parser.add_argument("--markdown", type=Path, metavar="OUT.md", help="write the table and facts about the machine")
    parser.add_argument("--resd", type=Path, metavar="DIR", help="RESD, for the rows that need a corpus")
    parser.add_argument("--backbones", type=Path, metavar="DIR", help="folder with whisper-base, e5-small and smollm2")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="rows of a corpus to use; otherwise each row's own number"
    )
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="epochs of the end-to-end training")
    parser.add_argument(
        "--llm", metavar="MODEL", help="language model of ls_llm_score (default: smollm2 of --backbones)"
    )
    parser.add_argument("--llm_backend", default="transformers", help="its back end: transformers or vllm")

    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
