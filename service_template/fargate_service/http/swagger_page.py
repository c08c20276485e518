"""The Swagger page, from the files in BentoML, without the tracker that BentoML's page loads.

Every reference is relative, so the page works below any prefix.
"""

from __future__ import annotations

from starlette.responses import HTMLResponse

ASSETS = (
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="stylesheet" href="./static_content/swagger-ui.css">
    <meta name="color-scheme" content="light dark">
    <style>
      body {{ margin: 0; }} .topbar {{ display: none; }}
      @media (prefers-color-scheme: dark) {{
        html {{ background: #0f151c; }}
        .swagger-ui {{ filter: invert(88%) hue-rotate(180deg); }}
        .swagger-ui .highlight-code, .swagger-ui .microlight {{ filter: invert(100%) hue-rotate(180deg); }}
      }}
    </style>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <main id="swagger-ui"></main>
    <script src="./static_content/swagger-ui-bundle.js" charset="utf-8"></script>
    <script src="./static_content/swagger-ui-standalone-preset.js" charset="utf-8"></script>
    <script src="./static_content/swagger-initializer.js" charset="utf-8"></script>
  </body>
</html>
"""
# Swagger styles its own elements and loads icons from data: URLs; other scripts and framing are blocked.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'"
)


def make_swagger_page(title: str) -> HTMLResponse:
    """Returns the page; its script reads ./docs.json."""
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return HTMLResponse(_PAGE.format(title=escaped), headers=headers)
