"""A session of redis-py's RedisCluster, which goes on when the primary is killed. Arguments: the
client ports. The line "kill the primary" asks for just that, and is answered with a line."""

import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry


def session(client):
    assert len(client.get_primaries()) == 1, client.get_primaries()
    assert client.flushall() is True
    for number in range(300):
        assert client.set(f"key:{number}", number)
    assert client.dbsize() == 300, client.dbsize()
    assert len(set(client.scan_iter(count=50))) == 300
    assert client.mset_nonatomic({"a": "1", "b": "2", "c": "3"})
    assert client.mget_nonatomic("a", "b", "c") == [b"1", b"2", b"3"]
    try:
        client.mget("a", "b")
        raise AssertionError("keys of two slots were accepted")
    except RedisClusterException as error:
        assert "slot" in str(error), error
    pipe = client.pipeline()
    for number in range(300):
        pipe.incr(f"key:{number}")
    assert pipe.execute() == [number + 1 for number in range(300)]
    pipe = client.pipeline(transaction=True)
    pipe.set("{t}a", 1)
    pipe.incr("{t}a")
    assert pipe.execute() == [b"OK", 2]
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("{t}a")
        value = int(pipe.get("{t}a"))
        pipe.multi()
        pipe.set("{t}a", value * 10)
        assert pipe.execute() == [b"OK"]
        pipe.watch("{t}a")
        assert client.set("{t}a", 7)
        pipe.multi()
        pipe.set("{t}a", 0)
        try:
            raise AssertionError(f"carried out: {pipe.execute()}")
        except redis.WatchError:
            pass
    assert client.get("{t}a") == b"7" and client.delete("{t}a") == 1
    assert client.cluster_info()["cluster_state"] == "ok"
    assert client.cluster_keyslot("foo") == 12182
    # Three as primaries, two of them as replicas too.
    assert len(client.cluster_nodes()) == 5, client.cluster_nodes()


def follow(client):
    """Nothing is retried by itself: each failure is seen here, and the next call finds its way."""
    assert client.set("before", "1")
    print("kill the primary", flush=True)
    assert sys.stdin.readline().strip() == "killed"
    deadline = time.monotonic() + 60
    while True:
        try:
            assert client.get("before") == b"1", "acknowledged, and lost"
            assert client.set("after", "2")
            break
        except (redis.RedisError, RedisClusterException) as error:
            assert time.monotonic() < deadline, error
            time.sleep(0.05)
    assert client.get("after") == b"2"
    assert client.dbsize() > 300


def main():
    ports = [int(port) for port in sys.argv[1:]]
    nodes = [ClusterNode("127.0.0.1", port) for port in ports]
    for protocol in (2, 3):
        with RedisCluster(startup_nodes=nodes, protocol=protocol) as client:
            session(client)
    for port in ports:
        with RedisCluster(host="127.0.0.1", port=port) as client:
            assert client.set("by", "default") and client.get("by") == b"default"
    follow(RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0)))
    print("done")


main()
