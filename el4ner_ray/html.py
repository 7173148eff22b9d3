"""What the report and the server's page share: one HTML file that loads nothing and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

import jinja2
from markupsafe import Markup


def environment(package: str) -> jinja2.Environment:
    """Templates in the folder `page` of a package; what they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def joined(names: tuple[str, ...], package: str) -> Markup:
    """Styles or scripts in the folder `page` of a package as one, for an inline element."""
    folder = resources.files(package) / "page"
    return Markup("\n".join((folder / name).read_text("utf-8") for name in names))


def policy_hash(content: str) -> str:
    """A Content-Security-Policy source for an inline element of exactly this content."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def embeddable(json: bytes) -> Markup:
    """JSON for a script element: in it, no `<`, `>`, `&` or JavaScript line separator stands."""
    for character, escape in _ESCAPES:
        json = json.replace(character, escape)
    return Markup(json.decode())


# JSON has these only inside strings, where an escape means the same: nothing can end the element or open another.
_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
