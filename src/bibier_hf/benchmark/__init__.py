"""The benchmark behind `recipes/benchmark.py`: our side against a slow one, measured in turns in one process, as
ratios.

`textbook.py` holds the slow sides, written from the equations of the method; `*_rows.py` the comparisons;
`measuring.py` the clock.
"""
