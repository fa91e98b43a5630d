"""Commands are launched as recipes are."""

from ..recipes.conftest import environment, launch, run_file

__all__ = ["environment", "launch", "run_file"]
