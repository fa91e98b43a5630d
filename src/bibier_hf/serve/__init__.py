"""An HTTP and WebSocket server for a checkpoint (`bibier serve`), and a client for live audio.

samples of requests -- queue -- batches in one thread -- logits -- answers
"""

from .client import LiveClient

__all__ = ["LiveClient"]
