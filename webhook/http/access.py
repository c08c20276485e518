"""Who may see what is deployed, and who may say retry. No I/O here."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Access:
    """`token` opens everything; without one nothing is shown, unless `is_public` lets everybody look."""

    token: str | None = field(default=None, repr=False)
    is_public: bool = False

    def may_look(self, told: str | None) -> bool:
        """Whether someone who shows `told` may see the page, the status and the metrics."""
        return self.is_public or self._is_token(told)

    def may_act(self, told: str | None) -> bool:
        """Whether someone who shows `told` may change anything; looking in public does not extend to this."""
        return self._is_token(told)

    def _is_token(self, told: str | None) -> bool:
        if self.token is None or told is None:
            return False
        return hmac.compare_digest(told.encode("utf-8", "replace"), self.token.encode())
