"""A running nginx with a configuration of the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from pair import eventually

_CONFIGURATION = """
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  {temporary}
  {http}
}}
"""


class Nginx:
    """`http` is what stands in the block `http`, with `{port}` and `{folder}` for the port and the folder of this nginx."""

    def __init__(self, folder: Path, http: str) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.configure(http)
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "nginx is not there: apt-get install nginx-light"
        self.process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually("nginx accepts connections", accepts)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, http: str) -> None:
        kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
        temporary = " ".join(f"{kind}_temp_path {self.folder};" for kind in kinds)
        http = http.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
        # A worker of another user could not read the folder of the test.
        user = "user root;" if os.geteuid() == 0 else ""
        text = _CONFIGURATION.format(user=user, folder=self.folder, temporary=temporary, http=http)
        (self.folder / "nginx.conf").write_text(text)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
