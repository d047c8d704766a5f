// What official clients see of a server that knows users: each check is one behaviour, named.
// usage: node access.mjs FOLDER-OF-CLIENTS PORT kurrent|eventstore CA-FILE
// Users: admin, changeit (KurrentDB's preset); reader, writer, auditor with the password "password".
import {createRequire} from 'node:module';
import {randomUUID} from 'node:crypto';

const [folder, port, which, ca] = process.argv.slice(2);
const k = createRequire(folder + '/package.json')(
  which === 'kurrent' ? '@kurrent/kurrentdb-client' : '@eventstore/db-client');
const Client = which === 'kurrent' ? k.KurrentDBClient : k.EventStoreDBClient;
const scheme = which === 'kurrent' ? 'kurrentdb' : 'esdb';
const clients = [];
function as(name, password = 'password') {
  const who = name === undefined ? '' : `${name}:${password}@`;
  const client = Client.connectionString(
    `${scheme}://${who}127.0.0.1:${port}?tls=true&tlsCaFile=${ca}&discoveryInterval=1`);
  clients.push(client);
  return client;
}

let passed = 0;
const failed = [];
function same(got, want, name) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  if (a === b)
    passed++;
  else
    failed.push(`${name}: ${a} is not ${b}`);
}
// The class of what is thrown; "fine": nothing is.
async function outcome(work) {
  try {
    await work();
    return 'fine';
  } catch (error) {
    return error.constructor.name;
  }
}
const DENIED = 'AccessDeniedError';
const may = yes => yes ? 'fine' : DENIED;
const event = () => k.jsonEvent({type: 'test', data: {}});
async function all(events) {
  const out = [];
  for await (const e of events)
    out.push(e);
  return out;
}
const fresh = what => `${what}-${randomUUID()}`;

const admin = as('admin', 'changeit');
const people = {admin, reader: as('reader'), writer: as('writer'), auditor: as('auditor')};
const strangers = {nobody: as(undefined), wrong: as('admin', 'guess'), unknown: as('who', 'changeit')};
const stream = fresh('open'), kept = fresh('kept');

await admin.appendToStream(stream, event());
await admin.appendToStream(kept, event());
await admin.setStreamMetadata(kept, {acl: {readRoles: ['auditors'], writeRoles: ['auditor'],
                                           deleteRoles: [], metaReadRoles: ['auditors'],
                                           metaWriteRoles: ['$admins']}});
same((await admin.getStreamMetadata(kept)).metadata.acl.readRoles, ['auditors'], 'acl comes back');

for (const [name, client] of Object.entries(strangers)) {
  same(await outcome(() => client.appendToStream(stream, event())), DENIED, `${name} appends`);
  same(await outcome(() => all(client.readStream(stream))), DENIED, `${name} reads`);
  if (name !== 'nobody') // a wrong password is looked at each time
    continue;
  same(await outcome(() => all(client.readAll())), DENIED, `${name} reads $all`);
  same(await outcome(() => client.deleteStream(stream)), DENIED, `${name} deletes`);
  same(await outcome(async () => { for await (const _ of client.subscribeToStream(stream)) break; }),
       DENIED, `${name} subscribes`);
}
const can = {[stream]: {read: ['admin', 'reader'], write: ['admin', 'writer']},
             [kept]: {read: ['admin', 'auditor'], write: ['admin', 'auditor']}};
for (const [name, client] of Object.entries(people)) {
  for (const [where, {read, write}] of Object.entries(can)) {
    const what = `${name} ${where.split('-')[0]}`;
    const reads = may(read.includes(name)), writes = may(write.includes(name));
    same(await outcome(() => client.appendToStream(where, event())), writes, `${what} appends`);
    same(await outcome(() => client.appendToStream(where, event(), {
      credentials: {username: 'reader', password: 'password'}})), DENIED, `${what} as another`);
    same(await outcome(() => all(client.readStream(where, {maxCount: 1}))), reads, `${what} reads`);
    same(await outcome(() => client.getStreamMetadata(where)), reads, `${what} reads metadata`);
    same(await outcome(async () => {
      for await (const _ of client.subscribeToStream(where)) break;
    }), reads, `${what} subscribes`);
    if (name !== 'admin')
      same(await outcome(() => client.setStreamMetadata(where, {acl: {readRoles: ['$all']}})),
           may(where === stream && name === 'writer'),
           `${what} sets metadata`);
    if (name === 'writer' && where === stream)
      await admin.setStreamMetadata(stream, {});
  }
  const seen = new Set((await all(client.readAll())).map(e => e.event?.streamId));
  same([seen.has(stream), seen.has(kept)],
       [can[stream].read.includes(name), can[kept].read.includes(name)], `${name} sees in $all`);
  const group = fresh('group');
  same(await outcome(() => client.createPersistentSubscriptionToStream(
    stream, group, k.persistentSubscriptionToStreamSettingsFromDefaults())),
       may(name === 'admin'), `${name} makes a group`);
}
same(await outcome(() => strangers.nobody.appendToStream(stream, event(), {
  credentials: {username: 'writer', password: 'password'}})), 'fine', 'credentials of a call');
same(await outcome(() => people.auditor.deleteStream(kept)), DENIED, 'deletes against $d');
same(await outcome(() => admin.deleteStream(kept)), 'fine', 'admin deletes');

for (const client of clients)
  await client.dispose();
for (const name of failed)
  console.log(`not ok: ${name}`);
console.log(`${which}: ${passed} ok, ${failed.length} failed`);
process.exit(failed.length === 0 ? 0 : 1);
