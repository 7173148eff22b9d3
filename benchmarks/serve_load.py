"""What `el4ner serve` adds to the engines, with many clients at once and scripted engines of a known latency.

    benchmarks/serve_load.py --clients 50 --requests 10 --latency-ms 500

Each client sends one sentence after another. The engines alone would take the latency of every stage's calls, which
follow each other; what a request takes longer is the overhead: HTTP, Ray Serve's proxy and handles, the stages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

LABELS = {"person": "named people", "place": "cities and rivers"}


def main() -> None:
    """Start a server, load it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=10, help="of each client, after two that do not count")
    parser.add_argument("--latency-ms", type=float, default=500.0, help="of every call to an engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "job.yaml"
        config.write_text(f"fake: {{latency_ms: {arguments.latency_ms}}}\n", "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "el4ner_ray", "serve", "--profile", "fake", "--config", str(config)]
        server = subprocess.Popen(
            [*command, "--port", str(port)], stderr=subprocess.PIPE, env=os.environ | {"EL4NER_API_KEY": ""}
        )
        assert server.stderr
        try:
            for line in server.stderr:
                if b"listening" in line:
                    break
            took = asyncio.run(
                load(f"http://127.0.0.1:{port}", arguments.clients, arguments.requests, arguments.latency_ms)
            )
        finally:
            server.terminate()
            server.communicate(timeout=60)
    print(json.dumps(figures(took, arguments.latency_ms), indent=2))


async def load(url: str, clients: int, requests: int, latency_ms: float) -> list[tuple[float, float, int]]:
    """Seconds at the client, seconds that the server says the stages took, and rounds of calls of each request."""
    took: list[tuple[float, float, int]] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as session:

        async def client(number: int) -> None:
            # Clients that start as one would go on as one: every engine call of all 50 would end at the same time.
            await asyncio.sleep(number / clients * 3 * latency_ms / 1000)
            for turn in range(-2, requests):
                text = f"Anna{number} met Ben{turn + 2} in Oslo."
                began = time.perf_counter()
                answer = await session.post("/v1/annotate", json={"texts": [text], "labels": LABELS})
                seconds = time.perf_counter() - began
                answer.raise_for_status()
                if turn >= 0:
                    took.append((seconds, answer.json()["seconds"], rounds(answer.json()["stages"])))

        await asyncio.gather(*map(client, range(clients)))
    return took


def rounds(stages: dict[str, dict[str, dict[str, float]]]) -> int:
    """How many calls followed each other: one a stage, and another where the last model had to vote, too."""
    asked = sum(any(usage["requests"] for usage in models.values()) for models in stages.values())
    return asked + bool(stages["classify"].get("fake-c", {}).get("requests"))


def figures(took: list[tuple[float, float, int]], latency_ms: float) -> dict[str, float]:
    """Percentiles in ms of the overhead above the engines; `in_stages_p95` is the part of it that the stages see."""
    above = sorted(1000 * seconds - calls * latency_ms for seconds, _, calls in took)
    inside = sorted(1000 * seconds - calls * latency_ms for _, seconds, calls in took)
    return {
        "requests": len(took),
        "overhead_p50_ms": round(above[len(above) // 2], 1),
        "overhead_p95_ms": round(above[int(0.95 * len(above))], 1),
        "in_stages_p50_ms": round(inside[len(inside) // 2], 1),
        "in_stages_p95_ms": round(inside[int(0.95 * len(inside))], 1),
        "request_p95_ms": round(1000 * sorted(seconds for seconds, _, _ in took)[int(0.95 * len(took))], 1),
    }


if __name__ == "__main__":
    main()
