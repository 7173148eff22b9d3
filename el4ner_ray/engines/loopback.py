"""Ray Serve's gRPC servers, kept to the machine that they are on.

Each replica opens one on all addresses (Ray 2.60, `ray/serve/_private/replica.py`, `_on_initialized`). It asks for no
token, unlike Ray's own ports, and unpickles what it is sent: whoever reaches it runs code there. Nothing here calls a
replica that way.
"""

from __future__ import annotations

from typing import Any

from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def keep_grpc_local() -> None:
    """To be called while a replica starts. Raises AttributeError where another version of Ray opens it otherwise."""
    if not hasattr(replica, "add_port_to_grpc_server"):
        raise AttributeError("ray.serve: a replica opens its gRPC server in another way; see engines/loopback.py")
    replica.add_port_to_grpc_server = _on_loopback


def _on_loopback(server: Any, address: str) -> int:
    port: int = add_port_to_grpc_server(server, f"127.0.0.1:{address.rpartition(':')[2]}")
    return port
