"""Arguments of the benchmark, and its run."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..evaluation.report import environment
from ..files import write_text
from ..kernels import load_kernels
from ..quantization import cpu_has_bfloat16
from .measuring import Row
from .registry import Materials, NotAtHand, find_rows
from .report import draw, line, markdown, read_rows, row_of_earlier_run, write_rows

_EXIT_MISTAKE = 2


def benchmark_main(arguments: Sequence[str], description: str | None = None) -> int:
    """Run the rows that are asked for; returns the exit code (2: a mistake in the arguments)."""
    options = _parser(description).parse_args(arguments)
    materials = Materials(options.resd, options.backbones, options.rows, options.epochs, options.llm_backend)
    quick, full = find_rows(materials)
    known = quick | full
    if unknown := sorted(set(options.only or ()) - set(known)):
        print(f"error: there is no row {', '.join(unknown)}. There are: {', '.join(known)}.", file=sys.stderr)
        return _EXIT_MISTAKE

    if options.keep and not options.json:
        print("error: --keep keeps rows of a file: give --json FILE, too.", file=sys.stderr)
        return _EXIT_MISTAKE
    start = time.perf_counter()
    facts = machine_facts(load_kernels(build_missing=True))
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    print(f"{'row':<28}{'ratio':>9}{'goal':>7}  {'ours':>11}{'theirs':>12}  against")
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    wanted = list(options.only or (known if options.full else quick))
    earlier = [row for row in read_rows(options.json) if row["name"] not in wanted] if options.keep else []
    for name in wanted:
        try:
            rows.append(known[name]())
        except (
            NotAtHand,
            ModuleNotFoundError,
        ) as reason:  # a library that a row compares with is in the extra `benchmark`
            missing = isinstance(reason, ModuleNotFoundError)
            left_out[name] = f"{reason}; pip install 'bibier_hf[benchmark]'" if missing else str(reason)
            print(f"{name:<28}not run: {left_out[name]}", flush=True)
            continue
        print(line(rows[-1]), flush=True)
        if options.json:  # after each row: what was measured stays if the rest is interrupted
            write_rows(options.json, rows, facts, earlier)
    profile_parts = _profile() if options.profile else []
    facts |= {"load at the end": f"{os.getloadavg()[0]:.1f}", "minutes": f"{(time.perf_counter() - start) / 60:.1f}"}
    shown = [row_of_earlier_run(row, facts) for row in earlier] + rows
    if options.picture:
        draw(shown, options.picture)
    if options.markdown:
        text = markdown(
            shown,
            facts,
            left_out,
            profile_parts,
            options.picture and os.path.relpath(options.picture, options.markdown.parent),
        )
        write_text(options.markdown, text)
    missed = [row.name for row in rows if not row.reached]
    goals = sum(row.goal is not None for row in rows)
    told = f"\n{goals - len(missed)} of {goals} goals reached" + (f"; not: {', '.join(missed)}" if missed else "")
    print(told + (f"; not run: {', '.join(left_out)}" if left_out else "") + f" ({facts['minutes']} minutes)")
    return 0


def machine_facts(compiled_kernels: bool) -> dict[str, str | int]:
    """What the numbers depend on beside the code, and the code's commit."""
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


def _profile() -> list[tuple[str, float, str]]:
    from .profile import profile

    print(f"\n{'part (one clip of 4 s)':<36}{'time':>10}")
    parts = profile()
    for part, seconds, note in parts:
        print(f"{part:<36}{1000 * seconds:>7.1f} ms  {note}")
    return parts


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(name for rows in find_rows(Materials()) for name in rows)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"rows to run: {names}")
    parser.add_argument("--full", action="store_true", help="the long rows, too")
    parser.add_argument("--profile", action="store_true", help="also say where the time of one clip goes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows")
    parser.add_argument(
        "--keep", action="store_true", help="keep the rows of the file of --json that are not measured anew"
    )
    parser.add_argument("--picture", type=Path, metavar="OUT.png", help="draw the ratios beside their goals")
    parser.add_argument("--markdown", type=Path, metavar="OUT.md", help="write the table, with facts of the machine")
    parser.add_argument("--resd", type=Path, metavar="DIR", help="RESD, for the rows that need a corpus")
    parser.add_argument("--backbones", type=Path, metavar="DIR", help="folder with whisper-base, e5-small and smollm2")
    parser.add_argument("--rows", type=int, metavar="N", help="only so many rows of a corpus, for a quick look")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of the training end to end")
    parser.add_argument(
        "--llm_backend", default="transformers", help="where the model of ls_llm_score runs: transformers or vllm"
    )
    return parser
