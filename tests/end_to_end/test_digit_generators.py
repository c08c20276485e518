"""The walk-through's digit generators: trained, deployed to the local stack as custom services, and queried."""

from __future__ import annotations

import numpy as np
import pytest
import requests

from support.deployed_services import deployed, post, service_of, train

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]


def test_the_plain_generator_draws_digits(local_stack: dict[str, str]) -> None:
    uri = train("digit_generator", "digit-generator", 3)

    with deployed("digits", uri, {"service": service_of("digit_generator")}) as url:
        answers = [post(f"{url}/generate_image", {}).json() for _ in range(2)]

    drawn = [np.array(answer["digit_generated"]) for answer in answers]
    assert [one.shape for one in drawn] == [(28, 28)] * 2
    assert 0 <= min(one.min() for one in drawn) <= max(one.max() for one in drawn) <= 1
    assert not np.array_equal(*drawn)


def test_the_conditional_generator_draws_the_requested_digit(local_stack: dict[str, str]) -> None:
    uri = train("conditional_digit_generator", "conditional-digits", 40)

    with deployed("digits", uri, {"service": service_of("conditional_digit_generator")}) as url:
        route = f"{url}/generate_conditional_image"
        ones = np.mean([post(route, {"number": 1}).json()["digit_generated"] for _ in range(8)], axis=0)
        zeros = np.mean([post(route, {"number": 0}).json()["digit_generated"] for _ in range(8)], axis=0)
        refused = [post(route, body).status_code for body in ({"number": 10}, {"number": "seven"}, {})]
        docs = requests.get(f"{url}/docs.json", timeout=10).json()
        page = requests.get(f"{url}/", timeout=10).text
        healthy = [requests.get(url + path, timeout=10).status_code for path in ("/ping", "/health", "/readyz")]
        nothing = requests.get(f"{url}/wp-admin", timeout=10)

    middle = slice(11, 17)
    assert ones.shape == (28, 28)
    assert ones[middle, middle].mean() > zeros[middle, middle].mean() + 0.2  # a zero has a hole there
    assert refused == [400, 400, 400]
    assert "/generate_conditional_image" in docs["paths"]
    assert "googletagmanager" not in page
    assert healthy == [200, 200, 200]
    assert (nothing.status_code, nothing.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
