// ioredis and a server that wants a password. Arguments: the port, the password.

const assert = require('node:assert');
const Redis = require('ioredis');

async function main() {
  const [port, password] = process.argv.slice(2);
  for (const protocol of [2, 3]) {
    const redis = new Redis({ port: Number(port), password, protocol });
    assert.equal(await redis.set('a', '1'), 'OK');
    await redis.quit();
    const stranger = new Redis({ port: Number(port), password: 'wrong', protocol, retryStrategy: null });
    stranger.on('error', () => {});
    await assert.rejects(stranger.get('a'));
    stranger.disconnect();
  }
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
