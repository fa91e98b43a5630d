"""The remote set: the files that `trust_remote_code=True` loads from a checkpoint.

They stand flat beside each other and import only each other (one dot), torch, NumPy, transformers and huggingface_hub;
soundfile and soxr inside `try`. Nothing here may import the rest of the package.
"""
