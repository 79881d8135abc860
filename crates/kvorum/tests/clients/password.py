"""redis-py and a server that wants a password. Arguments: the port, the password."""

import sys

import redis

port, password = int(sys.argv[1]), sys.argv[2]
for protocol in (2, 3):
    for user in (None, "default"):
        with redis.Redis(port=port, password=password, username=user, protocol=protocol) as client:
            assert client.set("a", "1") and client.get("a") == b"1"
    for wrong, kind in ((None, redis.AuthenticationError), ("wrong", redis.AuthenticationError)):
        try:
            redis.Redis(port=port, password=wrong, protocol=protocol).get("a")
            raise AssertionError("a stranger was let in")
        except kind:
            pass
print("done")
