"""A session of redis-py with one node, in each protocol. Argument: the primary's port."""

import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_py_transactions import transactions


def refusal(call, *words):
    """What the server refuses a call with."""
    try:
        result = call()
    except redis.ResponseError as error:
        text = str(error)
        for word in words:
            assert word in text, text
        return error
    raise AssertionError(f"accepted: {result!r}")


def eventually(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def handshake(port, protocol):
    client = redis.Redis(port=port, protocol=protocol, client_name="a-name")
    assert client.ping() is True
    assert client.client_getname() in (b"a-name", "a-name")
    info = client.client_info()
    assert info["name"] == "a-name", info
    assert info["lib-name"].startswith("redis-py"), info
    assert info["resp"] == str(protocol), info
    assert client.client_id() == int(info["id"])
    assert len(client.client_list()) >= 1
    client.close()

    raw = redis.Redis(port=port, protocol=3)
    hello = raw.execute_command("HELLO", 3)
    assert hello[b"proto"] == 3 and hello[b"mode"] == b"cluster", hello
    refusal(lambda: raw.execute_command("HELLO", 9), "NOPROTO")
    refusal(lambda: raw.execute_command("NOSUCH", "a"), "unknown command 'NOSUCH'")
    refusal(lambda: raw.execute_command("GET"), "wrong number of arguments")
    refusal(lambda: raw.select(1), "")
    raw.close()


def strings(client):
    assert client.flushall() is True
    assert client.set("a", "1") is True
    assert client.get("a") == b"1"
    assert client.set("a", "2", nx=True) is None
    assert client.set("b", "2", xx=True) is None
    assert client.set("a", "2", xx=True, get=True) == b"1"
    assert client.set("n", "10", ex=100) is True and 0 < client.ttl("n") <= 100
    assert client.set("n", "11", keepttl=True) and client.ttl("n") > 0
    assert client.set("n", "12") and client.ttl("n") == -1
    assert client.pttl("nobody") == -2
    assert client.incr("n") == 13 and client.decrby("n", 3) == 10
    assert float(client.incrbyfloat("n", 0.5)) == 10.5
    refusal(lambda: client.incr("n"), "value is not an integer or out of range")
    assert client.append("a", "xyz") == 4 and client.strlen("a") == 4
    assert client.getrange("a", 1, 2) == b"xy"
    assert client.setrange("a", 6, "!") == 7 and client.get("a") == b"2xyz\0\0!"
    assert client.getdel("a") == b"2xyz\0\0!" and client.get("a") is None
    assert client.setnx("a", "1") is True and client.setnx("a", "1") is False
    assert client.getset("a", "2") == b"1"
    assert client.exists("a", "{a}b") == 1 and client.type("a") in (b"string", "string")
    assert client.touch("a") == 1 and client.unlink("a") == 1 and client.delete("a") == 0


def expiry(client):
    assert client.set("short", "1", px=50)
    eventually(lambda: client.get("short") is None)
    assert client.set("key", "1") and client.expire("key", 100) and client.ttl("key") > 90
    assert client.persist("key") is True and client.persist("key") is False
    at = int(time.time()) + 500
    assert client.expireat("key", at) and client.expiretime("key") == at
    assert client.getex("key", persist=True) == b"1" and client.ttl("key") == -1
    assert client.pexpire("key", 30)
    eventually(lambda: client.exists("key") == 0)


def many_keys(client):
    assert client.mset({"{t}a": "1", "{t}b": "2"}) is True
    assert client.mget("{t}a", "{t}nobody", "{t}b") == [b"1", None, b"2"]
    assert client.msetnx({"{t}a": "1", "{t}c": "2"}) in (False, 0)
    error = refusal(lambda: client.mget("a", "b"))
    assert "Keys in request don't hash to the same slot" in str(error), error
    refusal(lambda: client.mset({"a": "1", "b": "2"}), "hash to the same slot")

    pipe = client.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"key:{number}", number)
        pipe.get(f"key:{number}")
    replies = pipe.execute()
    assert replies[0::2] == [True] * 1000
    assert replies[1::2] == [str(number).encode() for number in range(1000)]
    pipe = client.pipeline(transaction=False)
    pipe.set("text", "x")
    pipe.incr("text")
    pipe.get("text")
    replies = pipe.execute(raise_on_error=False)
    assert isinstance(replies[1], redis.ResponseError) and replies[2] == b"x", replies
    refusal(lambda: client.pipeline().get("a").get("b").execute(), "hash to the same slot")

    keys = set(client.scan_iter(match="key:*", count=17))
    assert keys == {f"key:{number}".encode() for number in range(1000)}, len(keys)
    assert client.dbsize() == 1004, client.dbsize()
    assert client.flushall() is True and client.dbsize() == 0
    assert list(client.scan_iter()) == []


def bytes_of_all_kinds(client):
    value = bytes(range(256)) * 3 + b"\r\n$-1\r\n"
    assert client.set(value, value) and client.get(value) == value
    assert list(client.scan_iter()) == [value]
    assert client.set("empty", b"") and client.get("empty") == b""
    for megabytes in (1, 20):
        value = bytes(range(256)) * (megabytes << 12)
        assert client.set("big", value)
        assert client.get("big") == value
    refusal(lambda: client.set("k" * 100_000, "x"), "key")
    assert client.delete("big") == 1


def about_the_server(client):
    info = client.info()
    assert info["redis_mode"] == "cluster" and info["role"] == "master", info
    assert info["cluster_enabled"] == 1 and info["loading"] == 0
    assert info["db0"]["keys"] == client.dbsize(), info["db0"]
    assert set(client.info("keyspace")) == {"db0"}
    commands = client.command()
    assert "get" in commands and commands["get"]["first_key_pos"] == 1, commands["get"]
    assert client.command_count() == len(commands)
    assert client.command_getkeys("mset", "a", "1", "b", "2") in (["a", "b"], [b"a", b"b"])
    assert isinstance(client.config_get("maxmemory"), dict)
    seconds, _ = client.time()
    assert abs(seconds - time.time()) < 60
    assert client.role()[0] in (b"master", "master")
    assert client.wait(0, 10) >= 0
    assert client.echo("said") == b"said"


def once(client):
    token = client.execute_command("KVORUM.SESSION")
    words = ("KVORUM.ONCE", token, 1, "INCR", "counter")
    assert client.execute_command(*words) == 1
    assert client.execute_command(*words) == 1
    assert client.get("counter") == b"1"
    other = ("KVORUM.ONCE", token, 1, "INCRBY", "counter", 5)
    refusal(lambda: client.execute_command(*other), "belongs to another command")
    refusal(lambda: client.execute_command("KVORUM.ONCE", "1-2", 1, "INCR", "a"))


def text(port, protocol):
    client = redis.Redis(port=port, protocol=protocol, decode_responses=True)
    assert client.set("grüße", "héllo ✓") and client.get("grüße") == "héllo ✓"
    assert list(client.scan_iter(match="gr*e")) == ["grüße"]
    client.close()


def main():
    port = int(sys.argv[1])
    for protocol in (2, 3):
        handshake(port, protocol)
        client = redis.Redis(port=port, protocol=protocol, retry=Retry(NoBackoff(), 0))
        strings(client)
        expiry(client)
        many_keys(client)
        bytes_of_all_kinds(client)
        transactions(client)
        about_the_server(client)
        once(client)
        text(port, protocol)
        client.close()
    with redis.Redis(port=port) as defaults:
        assert defaults.set("by", "default") and defaults.get("by") == b"default"
    print("done")


main()
