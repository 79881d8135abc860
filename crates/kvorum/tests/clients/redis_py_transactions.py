"""Transactions as redis-py sends them, against anything that looks like one Redis."""

import redis


def transactions(client):
    pipe = client.pipeline()
    assert pipe.set("{t}a", 1).incr("{t}a").get("{t}a").execute() == [True, 2, b"2"]
    pipe = client.pipeline().set("{t}text", "x").incr("{t}text").get("{t}text")
    replies = pipe.execute(raise_on_error=False)
    assert isinstance(replies[1], redis.ResponseError) and replies[2] == b"x", replies
    with client.pipeline() as pipe:
        pipe.watch("{t}a")
        value = int(pipe.get("{t}a"))
        pipe.multi()
        assert pipe.set("{t}a", value * 10).execute() == [True]
        # What is set and deleted meanwhile has changed.
        pipe.watch("{t}a", "{t}nobody")
        assert client.set("{t}nobody", 1) and client.delete("{t}nobody") == 1
        pipe.multi()
        pipe.set("{t}a", 0)
        try:
            raise AssertionError(f"carried out: {pipe.execute()}")
        except redis.WatchError:
            pass
    assert client.get("{t}a") == b"20"

    def add_one(pipe):
        number = int(pipe.get("{t}n") or 0)
        pipe.multi()
        pipe.set("{t}n", number + 1)

    for _ in range(10):
        client.transaction(add_one, "{t}n")
    assert client.get("{t}n") == b"10"
    assert client.delete("{t}a", "{t}n", "{t}text") == 3
