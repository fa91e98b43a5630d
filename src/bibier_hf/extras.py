"""Which optional dependency group (extra) of the package provides which module."""

from importlib.util import find_spec

from .errors import UserError

EXTRAS = {
    "train": ("accelerate datasets evaluate jinja2 lion_pytorch matplotlib pandas peft pyarrow scipy sklearn").split(),
    "tts": ["espeakng_loader", "jiwer"],
    "llm": ["openai"],
    "cuda": ["kernels"],
    "demo": ["gradio"],
    "serve": ["fastapi", "python_multipart", "starlette", "uvicorn", "websockets"],
    "export": ["onnx", "onnxruntime", "onnxscript", "tokenizers"],
    "excel": ["openpyxl"],
    "search": ["optuna"],
}
"""Extra -> modules that it installs."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package that is not installed; the message names the extra that installs it."""


def missing_package(module: str | None) -> MissingPackageError | None:
    """Return the error for a module that could not be imported, or None if no extra provides it."""
    top = (module or "").partition(".")[0]

    for extra, modules in EXTRAS.items():
        if top in modules:
            return MissingPackageError(
                f"This needs the package {top}, which is not installed: pip install 'bibier-hf[{extra}]'", name=top
            )

    return None


def require(*modules: str) -> None:
    """Check that modules are installed, without importing them.

    Raises:
        MissingPackageError: one is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise missing_package(module) or ModuleNotFoundError(f"No module named {module!r}", name=module)
