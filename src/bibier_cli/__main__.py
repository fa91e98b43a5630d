"""`python -m bibier_cli`: the command `bibier`, also where its script is not on the path."""

from . import main

main()
