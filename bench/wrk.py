"""The same load by wrk, where it is installed: a second opinion on the load generator."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.generator import Job

_RATE: Final = re.compile(r"Requests/sec:\s+([0-9.]+)")


def is_here() -> bool:
    return shutil.which("wrk") is not None


def per_s(job: Job, cores: Sequence[int]) -> float:
    """Requests a second of one thread on `cores` (none for any), which sends the job's first
    request again and again and checks no answer."""
    head, _, body = job.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    script = [f"wrk.method = {json.dumps(line.split()[0])}"]
    # In decimal escapes: the body may be any bytes.
    escaped = "".join(f"\\{byte:03}" for byte in body)
    script.append(f'wrk.body = "{escaped}"')
    for header in headers:
        name, _, value = header.partition(": ")
        if name not in ("Host", "Content-Length"):
            script.append(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}")
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder) / "request.lua"
        lua.write_text("\n".join(script))
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        command = [
            "wrk",
            "-t1",
            f"-c{job.connections}",
            f"-d{max(1, round(job.seconds))}s",
            "-s",
            str(lua),
        ]
        url = f"http://127.0.0.1:{job.port}{line.split()[1]}"
        shown = subprocess.run([*pinned, *command, url], capture_output=True, text=True, check=True)
    found = _RATE.search(shown.stdout)
    if found is None:
        raise RuntimeError(f"wrk said: {shown.stdout}")
    return float(found[1])
