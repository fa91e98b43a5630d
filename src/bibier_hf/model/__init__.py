"""The remote set: the files that `trust_remote_code=True` loads from a checkpoint.

They lie in one folder and import only each other (with one dot), torch, NumPy, transformers and huggingface_hub, plus
soundfile and soxr inside `try`. Nothing here may import the rest of the package.
"""
