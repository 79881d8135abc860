// A session of ioredis' Cluster, which goes on when the primary is killed. Arguments: the client ports.
// The line "kill the primary" asks for just that, and is answered with a line.

const assert = require('node:assert');
const readline = require('node:readline');
const Redis = require('ioredis');

const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

async function session(cluster) {
  assert.equal(await cluster.flushall(), 'OK');
  for (let number = 0; number < 300; number += 1) assert.equal(await cluster.set(`key:${number}`, number), 'OK');
  assert.equal(cluster.nodes('master').length, 1);
  const [primary] = cluster.nodes('master');
  assert.equal(await primary.dbsize(), 300);
  const seen = new Set();
  for await (const keys of primary.scanStream({ count: 40 })) keys.forEach((key) => seen.add(key));
  assert.equal(seen.size, 300);
  assert.equal(await cluster.mset('{t}a', '1', '{t}b', '2'), 'OK');
  await assert.rejects(cluster.mget('a', 'b'), /CROSSSLOT/);
  const replies = await cluster.pipeline().incr('{t}a').incr('{t}b').exec();
  assert.deepEqual(replies, [[null, 2], [null, 3]]);
  const run = await cluster.multi().set('{t}a', 1).incr('{t}a').get('{t}a').exec();
  assert.deepEqual(run, [[null, 'OK'], [null, 2], [null, '2']]);
  const token = await cluster.call('KVORUM.SESSION');
  assert.equal(await cluster.call('KVORUM.ONCE', token, 1, 'INCR', 'counter'), 1);
  assert.equal(await cluster.call('KVORUM.ONCE', token, 1, 'INCR', 'counter'), 1);
}

async function follow(cluster) {
  assert.equal(await cluster.set('before', '1'), 'OK');
  const lines = readline.createInterface({ input: process.stdin });
  console.log('kill the primary');
  const [line] = await new Promise((resolve) => lines.once('line', (text) => resolve([text])));
  assert.equal(line, 'killed');
  lines.close();
  const deadline = Date.now() + 60000;
  for (;;) {
    try {
      assert.equal(await cluster.get('before'), '1');
      assert.equal(await cluster.set('after', '2'), 'OK');
      break;
    } catch (error) {
      if (error instanceof assert.AssertionError || Date.now() > deadline) throw error;
      await sleep(50);
    }
  }
  assert.equal(await cluster.get('after'), '2');
}

async function main() {
  const nodes = process.argv.slice(2).map((port) => ({ host: '127.0.0.1', port: Number(port) }));
  for (const node of nodes) {
    const cluster = new Redis.Cluster([node]);
    await session(cluster);
    await cluster.quit();
  }
  const once = { maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false };
  const cluster = new Redis.Cluster(nodes, { redisOptions: once });
  cluster.on('error', () => {});
  await follow(cluster);
  cluster.disconnect();
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
