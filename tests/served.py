"""adaflow's servers as processes of their own, as people start them, which note every address that they connect to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

START = """
import pathlib, socket, sys
log, former = pathlib.Path(sys.argv[1]), socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
        with log.open("a") as file:
            print(address, file=file)
        raise OSError("no network in this test")
    return former(self, address)
socket.socket.connect = connect
from adaflow.cli import main
main(sys.argv[2:])
"""


class Served:
    """A server on a free port; `stop` ends it as Ctrl+C does, `kill` as a power cut does.

    Args:
        root: Where it keeps its cache and says what it has to say.
        words: The command, without its port.
    """

    def __init__(self, root: Path, *words: str) -> None:
        self.root, self.words = root, words
        self.elsewhere = root / "elsewhere.txt"
        root.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "ADAFLOW_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(self.elsewhere), *self.words, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=(self.root / "server.txt").open("ab"),
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, (self.root / "server.txt").read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


class Studio(Served):
    """`adaflow studio`, whose folder is `root`'s `studio`."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, "studio", "--folder", str(root / "studio"), *options)
