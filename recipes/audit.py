"""Leakage audit: what a model could score on test without hearing the emotion. Page on the terminal and in Markdown,
picture, JSON.

python recipes/audit.py --corpus resd --data_dir PATH/TO/resd --protocol official,dialogue_grouped --fold all
python recipes/audit.py --corpus csv --data_dir PATH/TO/table.csv --corpora.0.options.language en --fail_on_leak
python recipes/audit.py --help

Which speakers and dialogues cross the split, how well "who speaks" tells the label (from the names, and from the
voice), the same texts and recordings on both sides, labels in ids and file names. Exit code 0, or 1 with
--fail_on_leak and a leak.
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.audit:audit_main", sys.argv[1:]))
