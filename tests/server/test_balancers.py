"""What the balancers of docs/deploy/fleet do with requests that a server does not answer."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.balancers import BALANCERS
from support.ports import reserve_server_port
from support.upstreams import Upstream, running_upstream

ROUNDS = 6
"""How many requests reach each of three servers at least once."""

Balance = Callable[[list[str]], str]


@pytest.fixture(params=BALANCERS)
def balance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balance]:
    """Run a balancer in front of three addresses, and return its URL."""
    with ExitStack() as stack:
        yield lambda addresses: stack.enter_context(
            BALANCERS[request.param](tmp_path / "balancer", addresses)
        )


@pytest.fixture
def gone() -> Iterator[list[str]]:
    """Three addresses where nobody listens."""
    with ExitStack() as stack:
        holders = [stack.enter_context(reserve_server_port()) for _ in range(3)]
        yield [f"127.0.0.1:{holder.getsockname()[1]}" for holder in holders]


@pytest.fixture
def dying() -> Iterator[list[Upstream]]:
    """Three servers that hang up on each request."""
    with ExitStack() as stack:
        yield [stack.enter_context(running_upstream(dies=True)) for _ in range(3)]


@pytest.fixture
def healthy() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


def status_of(url: str, method: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=30)
    with closing(connection):
        connection.request(method, "/a", b"a body" if method in ("POST", "PATCH", "PUT") else None)
        return connection.getresponse().status


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_change_that_a_server_may_have_made_is_not_sent_again(
    balance: Balance, dying: list[Upstream], method: str
) -> None:
    url = balance([each.address for each in dying])
    assert status_of(url, method) == 503
    assert [request for each in dying for request in each.requests] == [method]


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("balance", ["nginx"], indirect=True)
def test_nginx_sends_what_may_be_repeated_to_another_server(
    balance: Balance, dying: list[Upstream], healthy: Upstream, method: str
) -> None:
    url = balance([dying[0].address, dying[1].address, healthy.address])
    assert [status_of(url, method) for _ in range(ROUNDS)] == [200] * ROUNDS
    assert [each.requests[:1] for each in dying[:2]] == [[method], [method]]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT"])
def test_a_request_that_no_server_has_got_goes_to_one_that_is_there(
    balance: Balance, gone: list[str], healthy: Upstream, method: str
) -> None:
    url = balance([*gone[:2], healthy.address])
    assert [status_of(url, method) for _ in range(ROUNDS)] == [200] * ROUNDS
    assert healthy.requests == [method] * ROUNDS


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE"])
def test_while_all_servers_are_gone_the_answer_is_to_wait(
    balance: Balance, gone: list[str], method: str
) -> None:
    url = balance(gone)
    assert {status_of(url, method) for _ in range(ROUNDS)} == {503}


@pytest.mark.parametrize("status", [403, 404, 409, 500, 503])
def test_the_answers_of_servers_arrive_as_they_are(balance: Balance, status: int) -> None:
    with running_upstream(status=status) as upstream:
        url = balance([upstream.address] * 3)
        assert status_of(url, "GET") == status
    assert upstream.requests == ["GET"]
