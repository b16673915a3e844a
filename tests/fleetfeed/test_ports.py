from __future__ import annotations

import random
import socket

import pytest

from fleetfeed.errors import PortTaken
from fleetfeed.ports import BLOCK, REPLICA_PORTS, Ports, choose_ports, is_free
from fleetfeed.settings import StackSettings


def listener() -> socket.socket:
    """As servers do it: with SO_REUSEADDR."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def test_ports_that_nobody_asked_for_share_one_free_block() -> None:
    ports = choose_ports(StackSettings(), randomness=random.Random(1))
    numbers = list(ports.model_dump().values())
    assert len(set(numbers)) == len(Ports.model_fields)
    assert max(numbers) + REPLICA_PORTS <= min(numbers) + BLOCK
    assert all(is_free(number) for number in (*numbers, ports.admin_grpc))


def test_a_port_that_was_asked_for_is_taken_as_it_is() -> None:
    free = listener()
    port = free.getsockname()[1]
    free.close()
    assert choose_ports(StackSettings(http_port=port), randomness=random.Random(1)).http == port


def test_a_taken_port_is_named_with_its_setting() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127.0.0.1:{port} is taken .* set s3_port \(FLEETFEED_STACK_S3_PORT\)"):
            choose_ports(StackSettings(s3_port=port), randomness=random.Random(1))


def test_a_block_in_which_somebody_listens_is_passed_over() -> None:
    first = choose_ports(StackSettings(), randomness=random.Random(1))
    with socket.socket() as server:
        server.bind(("127.0.0.1", first.filer))
        server.listen()
        second = choose_ports(StackSettings(), randomness=random.Random(1))
    assert set(first.model_dump().values()).isdisjoint(second.model_dump().values())


def test_a_port_is_free_while_old_connections_to_it_time_out() -> None:
    with listener() as server:
        address = server.getsockname()
        client = socket.create_connection(address)
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is the one left in TIME_WAIT
        client.close()
    assert is_free(address[1])
