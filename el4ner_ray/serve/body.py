"""The body of a request, read as JSON so that a client is told what is wrong with it, and where."""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException

from el4ner_ray.errors import UsageError
from el4ner_ray.keys import RepeatedKeyError, keys_once

SEND_TEXTS = 'send an object with texts, as {"texts": ["Ben met her in Rome."]}'


class JsonRequest(Request):
    """A request whose body is an object in JSON."""

    async def json(self) -> dict[str, Any]:
        """The body. Raises UsageError, and HTTPException where it is compressed."""
        if self.headers.get("content-encoding", "identity") != "identity":
            # Few bytes could become any number of them.
            raise HTTPException(
                415,
                "the body has a Content-Encoding; send it uncompressed, without this header",
                {"Accept-Encoding": "identity"},
            )
        return parsed(await self.body())


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises UsageError."""
    try:
        value = json.loads(body, object_pairs_hook=keys_once)
    except RepeatedKeyError as error:
        raise UsageError(f"{error.key!r} stands {error.times} times in one object of the body; give it once") from None
    except json.JSONDecodeError as error:
        problem = f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}; {SEND_TEXTS}"
    except UnicodeDecodeError as error:
        problem = f"is not in UTF-8 at byte {error.start}, counted from 0: {error.reason}; encode it in UTF-8"
    except RecursionError:
        problem = f"nests arrays or objects too deep; {SEND_TEXTS}"
    except ValueError:  # of longer integers, which Python does not convert
        most = sys.get_int_max_str_digits()
        problem = f"has an integer of more than {most} digits; its only numbers are the start and end of entities"
    else:
        if isinstance(value, dict):
            return value
        problem = f"is not an object; {SEND_TEXTS}"
    raise UsageError(f"the body {problem}")
