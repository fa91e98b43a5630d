"""Corpora in one schema, evaluation protocols, collation."""

from ..extras import require

require("datasets")
