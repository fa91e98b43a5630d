"""A stand-in for the Hugging Face Hub on this machine, complete enough to push and load models, data sets, and Spaces.

    with HubServer() as hub:
        subprocess.run([sys.executable, ...], env={**os.environ, **hub.environment})

Repositories live in memory, with commits, LFS uploads, and access by token. Client libraries read their settings when
they are imported, so they run in their own process.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_dummy"


@dataclass
class Repository:
    """A repository without branches.

    Attributes:
        private: whether reading it needs the token.
        sdk: of a Space.
        files: path -> content in the last commit.
        lfs: paths of large files.
        commits: hashes of all commits, oldest first.
    """

    private: bool
    sdk: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: [hashlib.sha1(b"first").hexdigest()])

    def commit(self, operations: list[dict], blobs: dict[str, bytes]) -> str:
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.files[value["path"]] = blobs[value["oid"]]
                self.lfs.add(value["path"])
            elif operation["key"] == "deletedFile":
                del self.files[value["path"]]
        state = json.dumps(
            [self.commits, sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items())]
        )
        self.commits.append(hashlib.sha1(state.encode()).hexdigest())
        return self.commits[-1]

    def entry(self, path: str) -> dict:
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path in self.lfs:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


def _oid(content: bytes, large: bool) -> str:
    """The hash by which clients recognize an unchanged file, as git-lfs or git computes it."""
    return (
        hashlib.sha256(content).hexdigest()
        if large
        else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )


class HubServer:
    """Context manager that runs the server.

    Attributes:
        repositories: `models/owner/name`, `datasets/owner/name`, or `spaces/owner/name` -> repository.
        requests: all requests so far, in order.
        url: address of the server.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._faults: list[tuple[str, int]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a client use this server. Give it its own HF_HOME, too."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def client_environment(self, home: Path) -> dict[str, str]:
        """`environment`, with a Hugging Face home so that nothing comes from another cache."""
        return self.environment | {"HF_HOME": str(home), "BIBIER_CACHE": str(home / "bibier")}

    def fail_next(self, pattern: str, status: int, times: int = 1) -> None:
        """Answer the next `times` requests whose `METHOD /path` matches the pattern with an error."""
        self._faults += [(pattern, status)] * times

    def forgive(self) -> None:
        """Cancel the remaining failures."""
        self._faults.clear()

    def fault_of(self, request: str) -> int | None:
        for fault in self._faults:
            if re.search(fault[0], request):
                self._faults.remove(fault)
                return fault[1]
        return None

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.route("GET")

    def do_GET(self) -> None:
        self.route("GET")

    def do_POST(self) -> None:
        self.route("POST")

    def do_PUT(self) -> None:
        self.route("PUT")

    def route(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        if status := self.hub.fault_of(f"{method} {path}"):
            return self.fail(status, "Fault", f"this request was made to fail with {status}")
        for wanted, pattern, action in ROUTES:
            if wanted == method and (match := re.fullmatch(pattern, path)):
                return action(self, **match.groupdict())
        return self.fail(404, "EntryNotFound", f"the stand-in has no {method} {path}")

    def send(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def fail(self, status: int, code: str, message: str) -> None:
        self.send({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def repository(self, kind: str, name: str) -> Repository | None:
        """The repository, if it exists and this client may read it; otherwise, send the error and return None."""
        found = self.hub.repositories.get(f"{kind.rstrip('s')}s/{name}")
        if found and (not found.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"):
            return found
        return self.fail(401, "RepoNotFound", "Repository Not Found")

    def whoami(self) -> None:
        self.send({"name": "owner", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
        key = f"{wanted.get('type') or 'model'}s/{name}"
        url = f"{self.hub.url}/{key.removeprefix('models/')}"
        if key in self.hub.repositories:
            return self.send({"error": "You already created this repo", "url": url}, 409)
        if name.startswith("others/"):
            return self.fail(
                403, "Forbidden", "You don't have the rights to create a repository under the namespace others"
            )
        self.hub.repositories[key] = Repository(
            bool(wanted.get("private")) or wanted.get("visibility") == "private", wanted.get("sdk")
        )
        return self.send({"url": url, "name": name, "id": "1"})

    def validate(self) -> None:
        self.send({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        large = (".parquet", ".safetensors", ".png")
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(large) else "regular"}
            for file in files
        ]
        if not (repository := self.repository(kind, name)):
            return
        oids = {path: _oid(content, path in repository.lfs) for path, content in repository.files.items()}
        self.send({"files": [mode | {"shouldIgnore": False, "oid": oids.get(mode["path"])} for mode in modes]})

    def lfs_batch(self, name: str) -> None:
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.blobs:
                upload, verify = (
                    {"href": f"{self.hub.url}/{action}/{wanted['oid']}"} for action in ("lfs-put", "lfs-verify")
                )
                wanted["actions"] = {"upload": upload, "verify": verify}
        self.send({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(400, "BadRequest", "the hash of the upload differs")
        self.hub.blobs[oid] = self.body
        return self.send(b"")

    def lfs_verify(self, oid: str) -> None:
        self.send({}, 200 if oid in self.hub.blobs else 404)

    def commit(self, kind: str, name: str, revision: str) -> None:
        if repository := self.repository(kind, name):
            lines = [json.loads(line) for line in self.body.decode().splitlines() if line.strip()]
            oid = repository.commit([line for line in lines if line["key"] != "header"], self.hub.blobs)
            self.send({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if repository := self.repository(kind, name):
            facts = {
                "id": name,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
            files = [{"rfilename": path} for path in sorted(repository.files)]
            self.send(
                facts | {"sha": repository.commits[-1], "siblings": files, "lastModified": "2026-01-01T00:00:00.000Z"}
            )

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> None:
        if not (repository := self.repository(kind, name)):
            return None
        folder = f"{path.strip('/')}/" if path and path.strip("/") else ""
        inside = sorted(file for file in repository.files if file.startswith(folder))
        if folder and not inside:
            return self.fail(404, "EntryNotFound", f"no folder {folder}")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        files = [repository.entry(file) for file in inside if recursive or "/" not in file.removeprefix(folder)]
        folders = sorted(
            {folder + file.removeprefix(folder).split("/")[0] for file in inside if "/" in file.removeprefix(folder)}
        )
        return self.send([{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders] + files)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        if repository := self.repository(kind, name):
            json_body = self.headers.get("Content-Type", "").startswith("application/json")
            wanted = json.loads(self.body)["paths"] if json_body else parse_qs(self.body.decode())["paths"]
            self.send([repository.entry(path) for path in wanted if path in repository.files])

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        if not (repository := self.repository(kind or "models", name)):
            return None
        if path not in repository.files:
            return self.fail(404, "EntryNotFound", f"no file {path}")
        content = repository.files[path]
        tag = f'"{(hashlib.sha256 if path in repository.lfs else hashlib.sha1)(content).hexdigest()}"'
        headers = {"X_Repo_Commit": repository.commits[-1], "ETag": tag, "Accept_Ranges": "bytes"}
        if path in repository.lfs:
            headers |= {"X_Linked_ETag": tag, "X_Linked_Size": str(len(content))}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            part = content[start : end + 1]
            return self.send(
                part, 206, Content_Range=f"bytes {start}-{start + len(part) - 1}/{len(content)}", **headers
            )
        return self.send(content, **headers)


_REPO = r"(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/api/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"/api/{_REPO}/paths-info/(?P<revision>.+)", _Handler.paths_info),
    ("POST", r"/(?:datasets/|spaces/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs-put/(?P<oid>\w+)", _Handler.lfs_put),
    ("POST", r"/lfs-verify/(?P<oid>\w+)", _Handler.lfs_verify),
    ("GET", rf"/api/{_REPO}", _Handler.info),
    ("GET", rf"/api/{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/{_REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _Handler.tree),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
"""Method, path, and handler; the first match answers."""
