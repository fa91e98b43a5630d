"""Arguments, table, JSON and picture of the benchmark."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..kernels import load_kernels
from . import export_rows, model_rows, scan_rows, serving_rows
from .measuring import Row

QUICK_ROWS: dict[str, Callable[[], Row]] = {**scan_rows.ROWS, **model_rows.ROWS, **serving_rows.ROWS}
ALL_ROWS = {**QUICK_ROWS, **serving_rows.FULL_ROWS, **export_rows.FULL_ROWS}


def benchmark_main(arguments: Sequence[str], description: str | None = None) -> int:
    """Run the rows that are asked for; returns the exit code (2: an unknown row)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"rows to run: {', '.join(ALL_ROWS)}")
    parser.add_argument("--full", action="store_true", help="the long rows, too")
    parser.add_argument("--profile", action="store_true", help="also say where the time of one clip goes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows")
    parser.add_argument("--picture", type=Path, metavar="OUT.png", help="draw the ratios beside their goals")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.only or ()) - set(ALL_ROWS)):
        print(f"error: there is no row {', '.join(unknown)}. There are: {', '.join(ALL_ROWS)}.", file=sys.stderr)
        return 2

    compiled = load_kernels(build_missing=True)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"kernels {'compiled' if compiled else 'in torch'}, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'row':<24}{'ratio':>9}{'goal':>7}  {'ours':>11}{'theirs':>12}  against")
    rows = []
    for name in options.only or (ALL_ROWS if options.full else QUICK_ROWS):
        rows.append(ALL_ROWS[name]())
        print(_line(rows[-1]), flush=True)
        if options.json:  # after each row: what was measured stays if the rest is interrupted
            _write(options.json, rows)
    if options.picture:
        draw(rows, options.picture)
    if options.profile:
        from .profile import profile

        print(f"\n{'part (one clip of 4 s)':<36}{'time':>10}")
        for part, seconds, note in profile():
            print(f"{part:<36}{1000 * seconds:>7.1f} ms  {note}")
    missed = [row.name for row in rows if not row.reached]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} goals reached" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 0


def _line(row: Row) -> str:
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    return (
        f"{row.name:<24}{row.ratio:>8.2f}x{goal:>7}  {1000 * row.ours_s:>8.1f} ms{1000 * row.theirs_s:>9.1f} ms  "
        f"{row.against}{f' ({row.note})' if row.note else ''}"
    )


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of the ratios on a logarithmic axis, each with a mark at its goal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row.ratio for row in rows], color=["tab:green" if row.reached else "tab:red" for row in rows])
    for place, row in zip(places, rows, strict=True):
        if row.goal is not None:
            axes.plot([row.goal, row.goal], [place - 0.4, place + 0.4], color="black", linewidth=2)
        axes.annotate(
            f"{row.ratio:.3g}x", (max(row.ratio, row.goal or 0), place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("theirs / ours, more is better; the black mark is the goal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
