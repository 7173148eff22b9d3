"""`python -m benchmarks.recording ARGUMENTS…`: el4ner with every request that reaches a model kept.

Each replica appends to a file of its own in the folder that the environment variable names.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from el4ner_ray import cli
from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.engines import serving
from el4ner_ray.engines.base import Request

FOLDER = "EL4NER_RECORD_IN"
_LENGTH = struct.Struct("<Q")
_decode = msgspec.msgpack.Decoder(list[Request]).decode


class RecordingReplica(serving.EngineReplica):
    """A replica that writes down what it is asked before it answers."""

    async def __init__(self, config: JobConfig, model: ModelConfig, prefix: str) -> None:
        folder = Path(os.environ[FOLDER])
        folder.mkdir(parents=True, exist_ok=True)
        self._record = (folder / f"{model.name}.{os.getpid()}").open("ab", buffering=0)
        await super().__init__(config, model, prefix)

    async def generate(self, requests: bytes) -> bytes:
        self._record.write(_LENGTH.pack(len(requests)) + requests)
        return await super().generate(requests)


def recorded(folder: Path, model: str) -> Iterator[Request]:
    """What a model was asked, in the order in which the calls reached it."""
    for file in sorted(folder.glob(f"{model}.*")):
        content = file.read_bytes()
        at = 0
        while at < len(content):
            start = at + _LENGTH.size
            at = start + _LENGTH.unpack_from(content, at)[0]
            yield from _decode(content[start:at])


if __name__ == "__main__":
    # By the module's own name, which processes of Ray can import; as part of `__main__` they cannot.
    from benchmarks import recording

    serving.EngineReplica = recording.RecordingReplica
    cli.main()
