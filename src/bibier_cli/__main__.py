"""`python -m bibier_cli`: the command `bibier` where its script is not on the path, and for `accelerate launch -m`."""

from . import main

main()
