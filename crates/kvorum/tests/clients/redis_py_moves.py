"""redis-py's RedisCluster, unchanged, while slots move and a primary is killed. Arguments: the client ports.
Each line that is printed asks for something, or whether it is done, and is answered with a line."""

import sys
import time

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

KEYS = 300


def asked(line):
    print(line, flush=True)
    return sys.stdin.readline().strip()


class Workload:
    """Writes every key again and again; what was acknowledged must be read."""

    def __init__(self, client):
        self.client, self.round = client, 0
        # What each key may hold: what was acknowledged last, and what was sent since.
        self.may = {number: {None} for number in range(KEYS)}
        self.failures = 0

    def once_more(self, patient=False):
        self.round += 1
        for number in range(KEYS):
            value = b"%d" % self.round
            self.may[number].add(value)
            if self.attempt(lambda: self.client.set(f"key:{number}", value), patient):
                self.may[number] = {value}
        self.check(patient)

    def check(self, patient):
        for number in range(KEYS):
            found = self.attempt(lambda: (self.client.get(f"key:{number}"),), patient)
            if found:
                assert found[0] in self.may[number], (number, found, self.may[number])

    def attempt(self, ask, patient):
        deadline = time.monotonic() + 60
        while True:
            try:
                return ask()
            except (redis.RedisError, RedisClusterException) as error:
                assert patient, error
                self.failures += 1
                assert time.monotonic() < deadline, error
                time.sleep(0.02)


def main():
    nodes = [ClusterNode("127.0.0.1", int(port)) for port in sys.argv[1:]]
    with RedisCluster(startup_nodes=nodes) as client:
        load = Workload(client)
        load.once_more()
        assert asked("move slots") == "moving"
        load.once_more()
        while asked("are they moved") != "moved":
            load.once_more()
        # Without a failure until here: moves are redirects, which the library follows.
        assert load.failures == 0
        assert asked("kill a primary") == "killed"
        for _ in range(3):
            load.once_more(patient=True)
        load.check(patient=True)
        found = set(client.scan_iter(count=100, match="key:*"))
        assert len(found) == KEYS, len(found)
        print(f"{load.round} rounds, {load.failures} failures", file=sys.stderr)
    print("done", flush=True)


main()
