"""What the calls of a request take where each is nothing but gRPC: the least that `serve_load.py` could say here.

    python -m benchmarks.bare_calls --clients 50 --latency-ms 2000 --seconds 30

Three processes wait out the latency and answer. A request asks them as `el4ner serve` asks three models for a sentence
without a pool, in four rounds: all, two, the third (its vote is open for the sentences of `serve_load.py`), the
verifier. No HTTP, no Ray, no stages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import struct
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import grpc

from benchmarks.serve_load import Took, closed, percentiles

_MODELS = 3
_METHOD = "/engine/generate"
# Which models are asked at once, round by round: for what they extract, for two votes, for the third, for the verdict.
_ROUNDS = ((0, 1, 2), (0, 1), (2,), (0,))
_PAYLOAD = bytes(2000)  # a call of a sentence, and its prompt


def main() -> None:
    """Start the processes, ask them, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50, help="at once")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--latency-ms", type=float, default=2000.0, help="of every call")
    arguments = parser.parse_args()
    latency = arguments.latency_ms / 1000
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(_MODELS)]
    engines = [spawn.Process(target=_engine, args=(told, latency), daemon=True) for _, told in pipes]
    for engine in engines:
        engine.start()
    try:
        ports = [heard.recv() for heard, _ in pipes]
        began = time.perf_counter()
        took = asyncio.run(_measured(ports, arguments.clients, arguments.seconds, 3 * latency))
        seconds = time.perf_counter() - began
    finally:
        for engine in engines:
            engine.terminate()
    print(json.dumps(figures(took, seconds, latency)))


def figures(took: list[Took], seconds: float, latency: float) -> dict[str, Any]:
    """As `serve_load.py` has them; `seconds` are those until the last answer, `latency` those of a call."""
    above = [1000 * (one.client - one.engines) for one in took]
    late = [1000 * (one.client - one.calls * latency) for one in took]
    return {
        "requests": len(took),
        "requests_per_second": round(len(took) / seconds, 1),
        "overhead_ms": percentiles(above),
        "beyond_latency_ms": percentiles(late),
    }


def _engine(port: Connection, latency: float) -> None:
    async def answer(request: bytes, _: Any) -> bytes:
        arrived = time.perf_counter()
        await asyncio.sleep(latency)
        return struct.pack("d", time.perf_counter() - arrived) + request

    class Engine(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    async def serve() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Engine(),))
        port.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


async def _measured(ports: list[int], clients: int, seconds: float, spread: float) -> list[Took]:
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
    models = [channel.unary_unary(_METHOD) for channel in channels]

    async def ask(_: int) -> Took:
        began = time.perf_counter()
        engines = [max(await asyncio.gather(*(_asked(models[i]) for i in asked))) for asked in _ROUNDS]
        took = time.perf_counter() - began
        return Took(took, took, sum(engines), len(engines))

    try:
        return await closed(ask, clients, seconds, spread)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _asked(model: Callable[[bytes], Awaitable[bytes]]) -> float:
    """How long the engine took by itself, in seconds."""
    seconds: float = struct.unpack_from("d", await model(_PAYLOAD))[0]
    return seconds


if __name__ == "__main__":
    main()
