"""What the pages of the local stack and of the webhook service share with the service's: a stylesheet; and a script.

The stylesheet belongs to `service_template/`, because images contain only that.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

# `script` refreshes the page; if a text ever gets past the escaping, it cannot run, load or send anything elsewhere.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:; "
    "connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
)


def template_folder() -> Path:
    """Returns the folder of service_template: inside the package once installed, next to it in a checkout."""
    package = Path(__file__).parent
    inside = package / "service_template"
    return inside if inside.is_dir() else package.parent / "service_template"


@cache
def page_files() -> dict[str, str]:
    """Returns `style` and `script`, for the templates."""
    style = template_folder() / "fargate_service" / "http" / "page.css"
    script = Path(__file__).with_name("page_refresh.js")
    return {"style": style.read_text(encoding="utf-8"), "script": script.read_text(encoding="utf-8")}
