"""A hub id, from a hub of a few lines on 127.0.0.1 that serves the embedded model's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[2] / "llava_nb" / "tiny" / "weights"
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one public repository, somebody/small-llava."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.split("?")[0]
        if not path.startswith(("/somebody/small-llava/", "/api/models/somebody/small-llava")):
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in WEIGHTS.iterdir()
            ]
            return self.reply(200, json.dumps(files).encode(), {})
        if path.startswith("/api/"):
            siblings = [{"rfilename": file.name} for file in WEIGHTS.iterdir()]
            about = {"id": "somebody/small-llava", "sha": COMMIT, "siblings": siblings}
            return self.reply(200, json.dumps(about).encode(), {})
        file = WEIGHTS / path.split("/resolve/")[1].split("/", 1)[1]
        if not file.is_file():
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        self.reply(200, file.read_bytes(), {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def reply(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def ask_hub(tmp_path):
    """Runs Python with that hub and a stranger's token in the environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_strangers",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(WEIGHTS.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }

    def ask(code):
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )

    yield ask
    server.shutdown()


def test_a_hub_id_is_fetched_without_any_token(ask_hub):
    run = ask_hub(
        "from llava_nb import load, example_picture\n"
        "llava = load('somebody/small-llava')\n"
        "print(llava.name, llava.caption_image(example_picture())[1])"
    )
    assert run.stdout.startswith("somebody/small-llava From left to right"), run.stderr[-2000:]
    tokens = {token for _, token in Hub.asked}
    assert Hub.asked and tokens == {None}, tokens


def test_a_private_model_gets_the_token_given(ask_hub):
    ask_hub("from llava_nb import load; load('somebody/small-llava', token='hf_mine')")
    assert "Bearer hf_mine" in {token for _, token in Hub.asked}


def test_an_id_that_the_hub_does_not_know(ask_hub):
    run = ask_hub("from llava_nb import load; load('somebody/no-such-llava')")
    assert "ModelError: somebody/no-such-llava could not be fetched" in run.stderr
    assert "Check the spelling and the network; a private model needs load(" in run.stderr
