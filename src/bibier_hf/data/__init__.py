"""Corpora in one schema, evaluation protocols, collation."""
