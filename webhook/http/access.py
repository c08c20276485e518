"""Authorization: who can see the deployments, and who can retry them. No I/O here."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Access:
    """`token` grants everything; without a token nothing is shown, unless `is_public` opens it for reading."""

    token: str | None = field(default=None, repr=False)
    is_public: bool = False

    def may_look(self, given: str | None) -> bool:
        """Returns whether a request with token `given` can see the page, the status and the metrics."""
        return self.is_public or self._is_token(given)

    def may_act(self, given: str | None) -> bool:
        """Returns whether a request with token `given` can change anything; `is_public` does not extend to this."""
        return self._is_token(given)

    def _is_token(self, given: str | None) -> bool:
        if self.token is None or given is None:
            return False
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())
