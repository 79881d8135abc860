// A session of ioredis with a router: one Redis, whatever is behind it. Argument: the router's port.

const assert = require('node:assert');
const Redis = require('ioredis');

async function manySlots(redis) {
  assert.equal(await redis.flushall(), 'OK');
  const pairs = Object.fromEntries(Array.from({ length: 300 }, (_, number) => [`key:${number}`, `${number}`]));
  assert.equal(await redis.mset(pairs), 'OK');
  assert.deepEqual(await redis.mget(...Object.keys(pairs), 'nobody'), [...Object.values(pairs), null]);
  assert.equal(await redis.del(...Object.keys(pairs).slice(0, 50)), 50);
  assert.equal(await redis.dbsize(), 250);
  const seen = new Set();
  for await (const keys of redis.scanStream({ count: 20 })) keys.forEach((key) => seen.add(key));
  assert.equal(seen.size, 250);
  // One connection, many requests on their way: replies come to those who asked.
  const numbers = Array.from({ length: 2000 }, (_, number) => number);
  await Promise.all(numbers.map((number) => redis.set(`many:${number}`, number)));
  const values = await Promise.all(numbers.map((number) => redis.get(`many:${number}`)));
  assert.deepEqual(values, numbers.map(String));
}

async function main() {
  const port = Number(process.argv[2]);
  for (const protocol of [2, 3]) {
    const redis = new Redis({ port, protocol, connectionName: 'a-name', maxRetriesPerRequest: 0 });
    await manySlots(redis);
    const run = await redis.multi().set('{t}a', 1).incr('{t}a').get('{t}a').exec();
    assert.deepEqual(run, [[null, 'OK'], [null, 2], [null, '2']]);
    await assert.rejects(redis.multi().get('a').get('b').exec(), /CROSSSLOT/);
    assert.match(await redis.info(), /\r\ncluster_enabled:0\r\n/);
    await assert.rejects(redis.call('CLUSTER', 'SLOTS'), /cluster support disabled/);
    const big = Buffer.alloc(16 << 20, 'x');
    assert.equal(await redis.set('big', big), 'OK');
    assert((await redis.getBuffer('big')).equals(big));
    await redis.quit();
  }
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
