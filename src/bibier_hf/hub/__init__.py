"""The Hugging Face Hub: cards, pushing, conversion of published weights."""
