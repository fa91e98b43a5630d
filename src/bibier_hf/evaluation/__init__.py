"""Evaluation: metrics, reports and plots."""

from ..extras import require

require("datasets", "matplotlib", "scipy", "sklearn")
