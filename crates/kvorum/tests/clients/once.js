// Counts up three keys over a connection that loses the first reply to each. Argument: the port.

const assert = require('node:assert');
const Redis = require('ioredis');

async function main() {
  const port = Number(process.argv[2]);
  // With the settings it comes with the library repeats it, and says nothing.
  const client = new Redis(port);
  assert.equal(await client.incr('by-default'), 2);
  // Told not to, it says that it does not know.
  const careful = new Redis(port, { maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false });
  careful.on('error', () => {});
  await assert.rejects(careful.incr('as-advised'));
  // Through a session repeating is harmless.
  const token = await client.call('KVORUM.SESSION');
  assert.equal(await client.call('KVORUM.ONCE', token, 1, 'INCR', 'by-session'), 1);
  client.disconnect();
  careful.disconnect();
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
