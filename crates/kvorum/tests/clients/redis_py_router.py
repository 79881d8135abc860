"""A session of redis-py with a router, in each protocol: one Redis, whatever is behind it.

Argument: the router's port. Asks for the primary behind it to be killed.
"""

import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_py_transactions import transactions


def handshake(port, protocol):
    client = redis.Redis(port=port, protocol=protocol, client_name="a-name", db=0)
    assert client.ping() is True
    info = client.client_info()
    assert info["name"] == "a-name" and info["resp"] == str(protocol), info
    info = client.info()
    assert info["redis_mode"] == "standalone" and info["cluster_enabled"] == 0, info
    assert info["role"] == "master" and client.role()[0] in (b"master", "master")
    assert isinstance(client.config_get("maxmemory"), dict)
    assert client.command()["get"]["first_key_pos"] == 1
    seconds, _ = client.time()
    assert abs(seconds - time.time()) < 60
    client.close()


def many_slots(client):
    assert client.flushall() is True and client.dbsize() == 0
    pairs = {f"key:{number}": str(number) for number in range(300)}
    assert client.mset(pairs) is True
    keys = list(pairs)
    assert client.mget(keys + ["nobody"]) == [value.encode() for value in pairs.values()] + [None]
    assert client.exists(*keys, "nobody") == 300 and client.touch("key:1", "nobody") == 1
    assert client.delete(*keys[:100]) == 100 and client.unlink(*keys[:101]) == 1
    assert client.dbsize() == 199
    assert set(client.scan_iter(count=7)) == {key.encode() for key in keys[101:]}

    pipe = client.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"pipe:{number}", number)
        pipe.incr(f"pipe:{number}")
        pipe.get(f"pipe:{number}")
    replies = pipe.execute()
    assert replies[1::3] == [number + 1 for number in range(1000)]
    assert replies[2::3] == [str(number + 1).encode() for number in range(1000)]
    # Behind each other on one key, and a count of all keys in between.
    pipe = client.pipeline(transaction=False)
    pipe.set("one", 1)
    for _ in range(50):
        pipe.incr("one")
    pipe.dbsize()
    pipe.get("one")
    assert pipe.execute()[-2:] == [1200, b"51"]


def values(client):
    for length in (0, 1, 100_000, 20 << 20):
        value = bytes(range(256)) * (length // 256) + b"\r\n" * (length % 256 // 2)
        assert client.set("value", value) and client.get("value") == value
    assert client.set("short", "1", px=50)
    while client.get("short") is not None:
        time.sleep(0.02)
    try:
        client.set("n", "x")
        client.incr("n")
        raise AssertionError("accepted")
    except redis.ResponseError as error:
        assert "not an integer" in str(error), error
    token = client.execute_command("KVORUM.SESSION")
    for _ in range(3):
        assert client.execute_command("KVORUM.ONCE", token, 1, "INCR", "counted") == 1
        token_one = client.get("counted")
    assert token_one == b"1"
    assert client.delete("counted") == 1


def through_a_failover(port):
    """Writes are answered or unknown, and nothing else; reads are answered."""
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
    assert client.set("through", 0)
    print("kill the primary", flush=True)
    assert sys.stdin.readline() == "killed\n"
    done = unknown = 0
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            client.incr("through")
            done += 1
        except redis.ResponseError as error:
            assert str(error).startswith("UNKNOWN"), error
            unknown += 1
        assert done <= int(client.get("through")) <= done + unknown
    assert done > 10, (done, unknown)
    client.close()


def main():
    port = int(sys.argv[1])
    for protocol in (2, 3):
        handshake(port, protocol)
        client = redis.Redis(port=port, protocol=protocol, retry=Retry(NoBackoff(), 0))
        many_slots(client)
        values(client)
        transactions(client)
        client.close()
    through_a_failover(port)
    print("done")


main()
