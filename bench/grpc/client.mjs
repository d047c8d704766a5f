// The official client's speed. usage: node client.mjs FOLDER-OF-CLIENTS PORT WHAT COUNT
// append COUNT: so many events of 200 bytes, 64 at a time; prints how many a second.
// one COUNT: the same one after the other; prints p50 and p99 in ms.
// read COUNT: sequential reads of a stream of 10 events; prints p50 and p99 in ms.
import {createRequire} from 'node:module';
import {randomUUID} from 'node:crypto';

const [folder, port, what, number] = process.argv.slice(2);
const k = createRequire(folder + '/package.json')('@kurrent/kurrentdb-client');
const client = k.KurrentDBClient.connectionString(
  `kurrentdb://127.0.0.1:${port}?tls=false&discoveryInterval=1`);
const count = Number(number);
const pad = 'x'.repeat(180);
const event = n => k.jsonEvent({type: 'test', data: {n, pad}});
const now = () => Number(process.hrtime.bigint()) / 1e6;

async function each(times, work) {
  const took = [];
  for (let i = 0; i < times; i++) {
    const began = now();
    await work(i);
    took.push(now() - began);
  }
  return took;
}

function show(took) {
  took.sort((a, b) => a - b);
  console.log(took[took.length >> 1], took[Math.floor(took.length * 0.99)]);
}

async function append(times) {
  let at = 0;
  const began = now();
  await Promise.all(Array.from({length: 64}, async (_, worker) => {
    while (at++ < times)
      await client.appendToStream(`client-${worker}`, event(at));
  }));
  return times * 1000 / (now() - began);
}

const stream = `read-${randomUUID()}`;
if (what === 'append') {
  await append(2000); // until the code is compiled
  console.log(await append(count));
} else if (what === 'one') {
  await each(500, i => client.appendToStream(stream, event(i)));
  show(await each(count, i => client.appendToStream(stream, event(i))));
} else {
  await client.appendToStream(stream, Array.from({length: 10}, (_, n) => event(n)));
  const read = async () => {
    let seen = 0;
    for await (const _ of client.readStream(stream))
      seen++;
    if (seen !== 10)
      throw new Error(`${seen} events`);
  };
  await each(100, read);
  show(await each(count, read));
}
process.exit(0);
