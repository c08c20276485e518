"""The page at `/`: which model this is, what it takes and returns, and how to call it. Plain HTML, without a script.

Names come from the model's author: all are escaped. Every reference is relative, so the page works below any prefix.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse

from fargate_service.http.openapi_document import encode_document
from fargate_service.http.signature_schema import describe_signature
from fargate_service.settings import ServiceDescription

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_EXAMPLE_CHARACTERS = 2000  # a longer one does not help on the page
_KEY = "Requests need the deployment's API key, in API_KEY below. To get it: mlflow-fargate key -t TARGET --name {name}"


def make_model_page(
    description: ServiceDescription,
    *,
    needs_key: bool,
    prefix: str,
    metadata: Mapping[str, Any],
    example: object | None,
) -> HTMLResponse:
    """Returns the page; `metadata` is the MLmodel file, `example` a body that works, None if there is none."""
    facts = {
        "Model": description.model_uri,
        "Version": description.model_version,
        "Run": description.run_id,
        "Flavor": description.flavor,
    }
    shown = [(name, value) for name, value in facts.items() if value]
    key = f"<p>{escape(_KEY.format(name=prefix.strip('/') or 'NAME'))}</p>" if needs_key else ""
    signature = describe_signature(metadata) or [("inputs", "The model has no signature.")]
    calls = "".join(
        f"<h3>{title}</h3><pre><code>{escape(code)}</code></pre>"
        for title, code in _calls(description, example, needs_key=needs_key).items()
    )
    body = (
        f"<h1>{escape(description.title)}</h1>"
        '<p class="soft">An MLflow model. <a href="./swagger">Try it in Swagger</a> · '
        '<a href="./docs.json">OpenAPI</a> · <a href="./metrics">Metrics</a></p>'
        f'<section class="card"><table>{_rows(shown)}</table></section>'
        f'<section class="card"><h2>Signature</h2><table><thead><tr><th scope="col">Part</th><th scope="col">Name and '
        f"type</th></tr></thead><tbody>{_rows(signature)}</tbody></table>"
        f'</section><section class="card"><h2>Call it</h2>'
        f"<p>URL is the address of this page, without the slash at its end.</p>{key}{calls}</section>"
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(description.title)}</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body><main>{body}</main></body></html>'
    )
    # A name can contain half of a surrogate pair, which UTF-8 does not have.
    return HTMLResponse(
        page.encode("utf-8", "replace"), headers={"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    )


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<tr><th scope="row" class="tight">{escape(name)}</th><td class="mono">{escape(str(value))}</td></tr>'
        for name, value in pairs
    )


def _calls(description: ServiceDescription, example: object | None, *, needs_key: bool) -> dict[str, str]:
    if description.template == "image_classifier":
        path, sent, argument = "predict_image", "-F image=@picture.png", 'files={"image": open("picture.png", "rb")}'
    else:
        text = encode_document({"inputs": []} if example is None else example).decode()
        text = text if len(text) <= _EXAMPLE_CHARACTERS else '{"inputs": []}'
        quoted = text.replace("'", "'\\''")
        path, sent = "invocations", f"-H 'Content-Type: application/json' \\\n  -d '{quoted}'"
        argument = f'data={text!r}, headers={{"Content-Type": "application/json"}}'
    key = ' \\\n  -u ":$API_KEY"' if needs_key else ""
    auth = ', auth=("", os.environ["API_KEY"])' if needs_key else ""
    return {
        "curl": f'curl "$URL/{path}"{key} \\\n  {sent}',
        "Python": f'import os, requests\n\nanswer = requests.post(os.environ["URL"] + "/{path}", {argument}{auth})\n'
        "print(answer.json())",
    }
