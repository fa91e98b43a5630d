"""A scripted OpenAI-compatible server: the standard library, a thread, and a function that says what to answer.

Run as a script it serves until it is killed: `python fake_server.py PORT LOG DELAY_S`, and appends the text of each
question to LOG.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = "0.10000, 0.50000, 0.05000, 0.15000, 0.12000, 0.05000, 0.03000"


@dataclass
class Reply:
    """One HTTP answer: `body` as it is where it is bytes, else as JSON."""

    body: dict | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


def text_reply(text: str | None = GOOD, **kwargs) -> Reply:
    content = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return Reply(content | {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, **kwargs)


class FakeServer:
    """Serves on a free port until it is closed; `requests` is every body that arrived, in order, with its path.

    Args:
        respond: (path, body, number of earlier requests with the same last message) -> reply.
    """

    def __init__(self, respond: Callable[[str, dict, int], Reply], port: int = 0):
        self.requests: list[tuple[str, dict]] = []
        self.headers: list[dict[str, str]] = []
        self._counts: dict[str, int] = {}
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = json.dumps(body.get("messages", body)[-1] if "messages" in body else body)
                with lock:
                    outer.requests.append((self.path, body))
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    seen = outer._counts.get(key, 0)
                    outer._counts[key] = seen + 1
                reply = respond(self.path, body, seen)
                time.sleep(reply.delay_s)
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                try:
                    self.send_response(reply.status)
                    for name, value in (
                        {"content-type": "application/json", "content-length": str(len(content))} | reply.headers
                    ).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):  # the client gave up waiting
                    pass

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def questions(self) -> list[str]:
        """The last message of every request for an answer."""
        return [body["messages"][-1]["content"] for _, body in self.requests if "messages" in body]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    log, delay_s = sys.argv[2], float(sys.argv[3])
    guard = threading.Lock()

    def respond_slowly(path: str, body: dict, seen: int) -> Reply:
        with guard, open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(body["messages"][-1]["content"]) + "\n")
        return text_reply(delay_s=delay_s)

    server = FakeServer(respond_slowly, int(sys.argv[1]))
    print(server.url, flush=True)
    threading.Event().wait()
