"""The Hugging Face Hub: model cards."""
