"""Authorization: who can send requests at all, see the deployments, and retry them. No I/O here."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


@dataclass(frozen=True)
class Access:
    """`token` grants everything; without a token nothing is shown, unless `is_public` opens it for reading."""

    token: str | None = field(default=None, repr=False)
    is_public: bool = False
    allowed_cidrs: Networks = ()  # empty: every address

    def may_connect(self, address: str | None) -> bool:
        """Returns whether a client at this address can use anything but the health checks."""
        if not self.allowed_cidrs:
            return True
        try:
            client = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        client = getattr(client, "ipv4_mapped", None) or client
        return any(client in network for network in self.allowed_cidrs)

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
