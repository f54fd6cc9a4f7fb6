"""A hub of a few lines on 127.0.0.1, for the fixture `ask_hub`."""

from __future__ import annotations

import io
import json
import shutil
from http.server import BaseHTTPRequestHandler
from pathlib import Path

WEIGHTS = Path(__file__).parents[2] / "llava_nb" / "tiny" / "weights"
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for a few public repositories."""

    repositories: dict[str, Path] = {"somebody/small-llava": WEIGHTS}
    asked: list[tuple[str, str | None]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.split("?")[0].removeprefix("/api/models").lstrip("/")
        name = "/".join(path.split("/")[:2])
        folder = self.repositories.get(name)
        if folder is None:
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        if "/tree/" in path:
            files = [
                {"type": "file", "path": file, "size": size, "oid": file}
                for file, size in sizes.items()
            ]
            return self.reply(200, json.dumps(files).encode(), {})
        if self.path.startswith("/api/"):
            siblings = [{"rfilename": file, "size": size} for file, size in sizes.items()]
            about = {"id": name, "sha": COMMIT, "siblings": siblings}
            return self.reply(200, json.dumps(about).encode(), {})
        file = folder / path.split("/resolve/")[1].split("/", 1)[1]
        if not file.is_file():
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        self.reply(200, file, {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def reply(self, status, body, headers):
        """Send bytes, or a file piece by piece."""
        is_file = isinstance(body, Path)
        size = body.stat().st_size if is_file else len(body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with body.open("rb") if is_file else io.BytesIO(body) as source:
            shutil.copyfileobj(source, self.wfile)

    def log_message(self, *arguments):
        pass
