"""Graphs of a trained model that run without its code: ONNX (also in int8) and `torch.export`.

bibier export outputs/resd --output_dir onnx/resd --part whole
OnnxPipeline.from_pretrained("onnx/resd")({"audio": "clip.wav", "text": "I can't believe it!"})
"""

from .folder import MANIFEST, export_model
from .graphs import PARTS
from .onnx_pipeline import OnnxModel, OnnxPipeline

__all__ = ["MANIFEST", "PARTS", "OnnxModel", "OnnxPipeline", "export_model"]
