"""A Hugging Face Hub of this machine: what ``huggingface_hub`` and ``datasets`` ask of one, over folders.

``datasets/OWNER/NAME`` is the repository of a data set, ``models/OWNER/NAME`` that of a model.
"""

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = "5" * 40


class _Asked(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_GET(self) -> None:
        """Files, and what the API knows of a repository."""
        words = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        if words == [""]:
            self._send(b"")
        elif words[0] == "api" and len(words) > 3:
            self._api(words[1], self.root / words[1] / words[2] / words[3], words[4:])
        else:
            kind = words.pop(0) if words[0] == "datasets" else "models"
            self._resolve(self.root / kind / "/".join(words[:2]), words[2:])

    do_HEAD = do_POST = do_GET

    def _api(self, kind: str, place: Path, words: list[str]) -> None:
        if not place.is_dir():
            self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        elif len(words) > 1 and words[1] not in ("main", COMMIT):
            self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        elif words[:1] == ["tree"]:
            folder = place / "/".join(words[2:])
            if not folder.is_dir():
                self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return
            folders = [path for path in folder.iterdir() if path.is_dir()]
            within = [{"type": "directory", "path": str(p.relative_to(place)), "oid": COMMIT} for p in folders]
            self._json(
                [*within, *(file for file in self._files(place, folder) if (place / file["path"]).parent == folder)]
            )
        elif words[:1] == ["paths-info"]:
            asked = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._json([file for file in self._files(place, place) if file["path"] in asked.get("paths", [])])
        else:
            siblings = [{"rfilename": file["path"]} for file in self._files(place, place)]
            name = f"{place.parent.name}/{place.name}"
            self._json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "tags": []})

    def _files(self, place: Path, folder: Path) -> list[dict[str, Any]]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": str(p.relative_to(place)), "size": p.stat().st_size, "oid": _digest(p)}
            for p in files
        ]

    def _resolve(self, place: Path, words: list[str]) -> None:
        path = place / "/".join(words[2:])
        if not place.is_dir():
            self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        elif words[1] not in ("main", COMMIT):
            self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        elif not path.is_file():
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._send(path.read_bytes(), 200, {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT})

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def hub_of(root: Path) -> Iterator[str]:
    """The address of a Hub of the repositories in ``root``, as ``HF_ENDPOINT`` takes it."""
    handler = type("Handler", (_Asked,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
