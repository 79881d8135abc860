"""Counts up three keys over a connection that loses the first reply to each. Argument: the port."""

import sys

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def main():
    port = int(sys.argv[1])
    # With the settings it comes with the library repeats it, and says nothing.
    client = redis.Redis(port=port)
    assert client.incr("by-default") == 2
    # Told not to, it says that it does not know.
    careful = redis.Redis(port=port, retry=Retry(NoBackoff(), 0), retry_on_error=[])
    try:
        careful.incr("as-advised")
        raise AssertionError("a reply that was lost")
    except redis.ConnectionError:
        pass
    # Through a session repeating is harmless.
    token = client.execute_command("KVORUM.SESSION")
    assert client.execute_command("KVORUM.ONCE", token, 1, "INCR", "by-session") == 1
    print("done")


main()
