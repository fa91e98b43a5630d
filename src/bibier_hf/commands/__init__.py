"""What stands behind the recipes and the command `bibier`: arguments in, text and an exit code out. The top layer;
nothing imports it."""
