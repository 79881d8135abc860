// ioredis' Cluster, unchanged, while slots move and a primary is killed. Arguments: the client ports. Each line
// that is printed asks for something, or whether it is done, and is answered with a line.

const assert = require('node:assert');
const readline = require('node:readline');
const Redis = require('ioredis');

const KEYS = 300;
const lines = readline.createInterface({ input: process.stdin });
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

function asked(line) {
  const answer = new Promise((resolve) => lines.once('line', resolve));
  console.log(line);
  return answer;
}

// Writes every key again and again; what was acknowledged must be read.
class Workload {
  constructor(cluster) {
    this.cluster = cluster;
    this.round = 0;
    this.failures = 0;
    // What each key may hold: what was acknowledged last, and what was sent since.
    this.may = Array.from({ length: KEYS }, () => new Set([null]));
  }

  async onceMore(patient) {
    this.round += 1;
    const value = String(this.round);
    await Promise.all(this.may.map(async (_, number) => {
      this.may[number].add(value);
      await this.attempt(() => this.cluster.set(`key:${number}`, value), patient);
      this.may[number] = new Set([value]);
    }));
    await this.check(patient);
  }

  async check(patient) {
    await Promise.all(this.may.map(async (may, number) => {
      const found = await this.attempt(() => this.cluster.get(`key:${number}`), patient);
      assert(may.has(found), `key:${number} is ${found}, not one of ${[...may]}`);
    }));
  }

  async attempt(ask, patient) {
    const deadline = Date.now() + 60000;
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (!patient || Date.now() > deadline) throw error;
        this.failures += 1;
        await sleep(20);
      }
    }
  }
}

async function main() {
  const nodes = process.argv.slice(2).map((port) => ({ host: '127.0.0.1', port: Number(port) }));
  const cluster = new Redis.Cluster(nodes);
  cluster.on('error', () => {});
  const load = new Workload(cluster);
  await load.onceMore(false);
  assert.equal(await asked('move slots'), 'moving');
  await load.onceMore(false);
  while (await asked('are they moved') !== 'moved') await load.onceMore(false);
  // Without a failure until here: moves are redirects, which the library follows.
  assert.equal(load.failures, 0);
  assert.equal(await asked('kill a primary'), 'killed');
  for (let round = 0; round < 3; round += 1) await load.onceMore(true);
  console.error(`${load.round} rounds, ${load.failures} failures`);
  cluster.disconnect();
  lines.close();
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
