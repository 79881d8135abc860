// A session of ioredis with one node. Argument: the primary's port.

const assert = require('node:assert');
const Redis = require('ioredis');

const refused = (promise, pattern) => assert.rejects(promise, pattern);
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

async function eventually(condition) {
  const deadline = Date.now() + 30000;
  while (!(await condition())) {
    assert(Date.now() < deadline, 'waited in vain');
    await sleep(20);
  }
}

async function strings(redis) {
  assert.equal(await redis.flushall(), 'OK');
  assert.equal(await redis.set('a', '1'), 'OK');
  assert.equal(await redis.get('a'), '1');
  assert.equal(await redis.set('a', '2', 'NX'), null);
  assert.equal(await redis.set('a', '2', 'EX', 100, 'XX'), 'OK');
  assert((await redis.ttl('a')) > 90);
  assert.equal(await redis.set('a', '3', 'GET'), '2');
  assert.equal(await redis.incrby('n', 5), 5);
  assert.equal(await redis.incrbyfloat('n', 0.25), '5.25');
  await refused(redis.incr('n'), /ERR value is not an integer or out of range/);
  assert.equal(await redis.set('short', '1', 'PX', 50), 'OK');
  await eventually(async () => (await redis.get('short')) === null);
  assert.equal(await redis.getdel('a'), '3');
  assert.equal(await redis.exists('a'), 0);
}

async function manyKeys(redis) {
  assert.equal(await redis.mset('{t}a', '1', '{t}b', '2'), 'OK');
  assert.deepEqual(await redis.mget('{t}a', '{t}x', '{t}b'), ['1', null, '2']);
  await refused(redis.mget('a', 'b'), /^ReplyError: CROSSSLOT Keys in request don't hash to the same slot$/);
  const pipeline = redis.pipeline();
  for (let number = 0; number < 1000; number += 1) pipeline.set(`key:${number}`, number);
  for (const [error, reply] of await pipeline.exec()) assert.deepEqual([error, reply], [null, 'OK']);
  const seen = new Set();
  for await (const keys of redis.scanStream({ match: 'key:*', count: 30 })) keys.forEach((key) => seen.add(key));
  assert.equal(seen.size, 1000);
  assert.equal(await redis.dbsize(), 1003);
  const mixed = await redis.pipeline().set('text', 'x').incr('text').get('text').exec();
  assert.match(mixed[1][0].message, /not an integer/);
  assert.equal(mixed[2][1], 'x');
}

async function transactions(redis) {
  const run = await redis.multi().set('{t}a', 1).incr('{t}a').get('{t}a').exec();
  assert.deepEqual(run, [[null, 'OK'], [null, 2], [null, '2']]);
  await redis.watch('{t}a', '{t}nobody');
  assert.equal(await redis.set('{t}a', 5), 'OK');
  assert.equal(await redis.multi().set('{t}a', 6).exec(), null);
  await redis.watch('{t}a');
  assert.deepEqual(await redis.multi().get('{t}a').del('{t}a').exec(), [[null, '5'], [null, 1]]);
  await refused(redis.multi().get('a').get('b').exec(), /CROSSSLOT/);
}

async function bytes(redis) {
  const value = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  assert.equal(await redis.set(value, value), 'OK');
  assert((await redis.getBuffer(value)).equals(value));
  const big = Buffer.alloc(16 << 20, value);
  assert.equal(await redis.set('big', big), 'OK');
  assert((await redis.getBuffer('big')).equals(big));
  assert.equal(await redis.set('grüße', '✓'), 'OK');
  assert.equal(await redis.get('grüße'), '✓');
}

async function server(redis) {
  assert.match(await redis.info(), /\r\nloading:0\r\n/);
  assert.match(await redis.client('INFO'), / lib-name=ioredis/);
  assert.equal(await redis.client('GETNAME'), 'a-name');
  assert((await redis.command('COUNT')) > 40);
  await refused(redis.call('NOSUCH', 'x'), /ERR unknown command 'NOSUCH'/);
  const token = await redis.call('KVORUM.SESSION');
  assert.equal(await redis.call('KVORUM.ONCE', token, 1, 'INCR', 'counter'), 1);
  assert.equal(await redis.call('KVORUM.ONCE', token, 1, 'INCR', 'counter'), 1);
  assert.equal(await redis.get('counter'), '1');
}

async function main() {
  const port = Number(process.argv[2]);
  for (const protocol of [2, 3]) {
    const redis = new Redis({ port, protocol, connectionName: 'a-name', maxRetriesPerRequest: 0 });
    await strings(redis);
    await manyKeys(redis);
    await transactions(redis);
    await bytes(redis);
    await server(redis);
    await redis.quit();
  }
  const defaults = new Redis(port);
  assert.equal(await defaults.set('by', 'default'), 'OK');
  await defaults.quit();
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
