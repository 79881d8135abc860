"""A session of redis-py's RedisCluster on a cluster of three shards, which goes on when the primary of one of
them is killed. Arguments: the client ports. The line "kill the primary" asks for just that, and is answered
with a line."""

import sys
import time

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

KEYS = 3000


def size(client):
    """By itself the library asks one node only."""
    return client.dbsize(target_nodes=RedisCluster.PRIMARIES)


def everything(client):
    """What concerns all keys concerns those of all shards."""
    assert size(client) == KEYS, size(client)
    found = sorted(client.scan_iter(count=100))
    assert found == sorted(b"key:%d" % number for number in range(KEYS)), len(found)
    found = set(client.scan_iter(match="key:1*", count=1000))
    assert len(found) == 1111, len(found)


def session(client):
    flushed = client.flushall()
    # One answer, or one of each primary, as the version of the library has it.
    answers = list(flushed.values()) if isinstance(flushed, dict) else [flushed]
    assert all(answer is True for answer in answers), flushed
    assert size(client) == 0, size(client)
    pipe = client.pipeline()
    for number in range(KEYS):
        pipe.set(f"key:{number}", number)
    assert pipe.execute() == [True] * KEYS
    everything(client)
    pipe = client.pipeline()
    for number in range(KEYS):
        pipe.incr(f"key:{number}")
    assert pipe.execute() == [number + 1 for number in range(KEYS)]
    assert client.cluster_info()["cluster_size"] == 3 or client.cluster_info()["cluster_size"] == "3"


def patiently(ask):
    """Nothing is retried by itself: each failure is seen here, and the next call finds its way."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except (redis.RedisError, RedisClusterException) as error:
            assert time.monotonic() < deadline, error
            time.sleep(0.05)


def spread(client):
    """Waits until each node is primary of something: then none is named as a replica."""
    deadline = time.monotonic() + 60
    while len(client.get_primaries()) < 3:
        assert time.monotonic() < deadline, client.get_primaries()
        time.sleep(0.1)
        client.nodes_manager.initialize()


def main():
    ports = [int(port) for port in sys.argv[1:]]
    nodes = [ClusterNode("127.0.0.1", port) for port in ports]
    for protocol in (2, 3):
        with RedisCluster(startup_nodes=nodes, protocol=protocol) as client:
            spread(client)
            session(client)
    with RedisCluster(startup_nodes=nodes, cluster_error_retry_attempts=0) as client:
        print("kill the primary", flush=True)
        assert sys.stdin.readline().strip() == "killed"
        for number in range(KEYS):
            value = patiently(lambda: client.get(f"key:{number}"))
            assert value == b"%d" % (number + 1), "acknowledged, and lost"
        for number in range(0, KEYS, 100):
            assert patiently(lambda: client.set(f"key:{number}", "new"))
        everything(client)
    print("done", flush=True)


main()
