// What an official client sees of a server: each check is one behaviour, named.
// usage: node conformance.mjs FOLDER-OF-CLIENTS PORT kurrent|eventstore [CA-FILE]
import {createRequire} from 'node:module';
import {randomUUID} from 'node:crypto';
import net from 'node:net';

const [folder, port, which, ca] = process.argv.slice(2);
const k = createRequire(folder + '/package.json')(
  which === 'kurrent' ? '@kurrent/kurrentdb-client' : '@eventstore/db-client');
const isNew = which === 'kurrent';
const Client = isNew ? k.KurrentDBClient : k.EventStoreDBClient;
const scheme = isNew ? 'kurrentdb' : 'esdb';
const secure = ca ? `tls=true&tlsCaFile=${ca}` : 'tls=false';
const url = `${scheme}://127.0.0.1:${port}?${secure}&discoveryInterval=1`;
const urlOf = to => url.replace(`:${port}?`, `:${to}?`);
const client = Client.connectionString(url);

let passed = 0;
const failed = [];
const show = value => JSON.stringify(value, (_, v) => typeof v === 'bigint' ? `${v}n` : v);
function ok(holds, name) {
  if (holds)
    passed++;
  else
    failed.push(name);
}
function same(got, want, name) {
  ok(show(got) === show(want), `${name}: ${show(got)} is not ${show(want)}`);
}
async function throws(promise, kind, name, look = () => true) {
  try {
    await promise;
    failed.push(`${name}: nothing was thrown`);
    return undefined;
  } catch (error) {
    ok(error.constructor.name === kind, `${name}: ${error.constructor.name} ${error.message}`);
    ok(error.constructor.name === kind && look(error), `${name}: ${show({...error})}`);
    return error;
  }
}

const fresh = what => `${what}-${randomUUID()}`;
const json = (n, more = {}) => k.jsonEvent({type: 'test', data: {n}, ...more});
const many = (count, more) => Array.from({length: count}, (_, n) => json(n, more));
const at = state => isNew ? {streamState: state} : {expectedRevision: state};
const exists = k.STREAM_EXISTS;
const append = (stream, events, options) => client.appendToStream(stream, events, options);
async function all(events, limit = Infinity) {
  const out = [];
  for await (const e of events) {
    out.push(e);
    if (out.length === limit)
      break;
  }
  return out;
}
const read = (stream, options) => all(client.readStream(stream, options));
const revisions = events => events.map(e => e.event.revision);

async function appending() {
  const stream = fresh('append');
  const event = json(7, {metadata: {m: 'ü'}});
  const done = await append(stream, event, at(k.NO_STREAM));
  ok(done.success, 'append succeeds');
  same(done.nextExpectedRevision, 0n, 'first revision');
  ok(done.position.commit > 0n, 'append has a position');
  const [{event: got, commitPosition}] = await read(stream);
  same([got.id, got.type, got.data, got.metadata, got.revision, got.streamId, got.isJson],
       [event.id, 'test', {n: 7}, {m: 'ü'}, 0n, stream, true], 'event as it was sent');
  ok(Math.abs(got.created - Date.now()) < 600000, 'created');
  ok(commitPosition === done.position.commit || got.position?.commit === done.position.commit,
     'position of the event');
  const again = await append(stream, event, at(k.NO_STREAM));
  same(again.nextExpectedRevision, 0n, 'the same again');
  same((await read(stream)).length, 1, 'not twice');
  const bytes = Uint8Array.from([0, 255, 1]);
  await append(stream, k.binaryEvent({type: 'raw', data: bytes, metadata: bytes}));
  const [raw] = await read(stream, {fromRevision: 1n});
  same([...raw.event.data], [0, 255, 1], 'binary data');
  same([...raw.event.metadata], [0, 255, 1], 'binary metadata');
  same(raw.event.isJson, false, 'binary is no JSON');
  const batch = await append(stream, many(500));
  same(batch.nextExpectedRevision, 501n, 'many at once');
  const big = 'x'.repeat(4 << 20);
  const large = await append(stream, k.jsonEvent({type: 'big', data: {big}}));
  const [back] = await read(stream, {fromRevision: large.nextExpectedRevision});
  ok(back.event.data.big === big, 'an event of 4 MiB');
  const together = await Promise.all(many(200).map(e => append(fresh('many'), e)));
  ok(together.every(r => r.success && r.nextExpectedRevision === 0n), '200 appends at once');
  const order = fresh('order');
  const inOrder = await Promise.all(many(100).map(e => append(order, e)));
  same(inOrder.map(r => Number(r.nextExpectedRevision)), [...Array(100).keys()],
       'appends of one stream keep their order');
}

// Of deletes and tombstones; the clients have no way to say "exists" there.
async function expectedOfDeletes(states) {
  for (const method of ['deleteStream', 'tombstoneStream']) {
    for (const [name, state] of Object.entries(states).filter(([name]) => name !== 'exists')) {
      const stream = fresh('expected');
      await append(stream, json(0));
      const what = `${method} of one event, expected ${name}`;
      const attempt = client[method](stream, {expectedRevision: state});
      if (['any', 'zero'].includes(name))
        ok((await attempt.catch(() => ({}))).position?.commit > 0n, what);
      else
        await throws(attempt, 'WrongExpectedVersionError', what, e => e.streamName === stream);
    }
  }
}

async function expectedVersions() {
  const states = {any: k.ANY, none: k.NO_STREAM, exists, zero: 0n, three: 3n};
  const passes = {missing: ['any', 'none'], one: ['any', 'exists', 'zero'],
                  deleted: ['any', 'none', 'zero']};
  for (const kind of Object.keys(passes)) {
    for (const [name, state] of Object.entries(states)) {
      for (const credentials of [undefined, {username: 'a', password: 'b'}]) {
        const stream = fresh('expected');
        if (kind !== 'missing')
          await append(stream, json(0));
        if (kind === 'deleted')
          await client.deleteStream(stream);
        const what = `${kind} stream, expected ${name}, ${credentials ? 'Append' : 'BatchAppend'}`;
        const attempt = append(stream, json(1), {...at(state), credentials});
        if (passes[kind].includes(name)) {
          const done = await attempt.catch(error => ({error}));
          same(done.nextExpectedRevision, kind === 'missing' ? 0n : 1n, what);
          continue;
        }
        await throws(attempt, 'WrongExpectedVersionError', what, e => e.streamName === stream);
      }
    }
  }
  for (const [name, state] of Object.entries(states)) {
    for (const credentials of [undefined, {username: 'a', password: 'b'}]) {
      const stream = fresh('expected');
      await append(stream, json(0));
      await client.tombstoneStream(stream);
      await throws(append(stream, json(1), {...at(state), credentials}), 'StreamDeletedError',
                   `tombstone, expected ${name}, ${credentials ? 'Append' : 'BatchAppend'}`,
                   e => e.streamName === stream);
    }
  }
  await expectedOfDeletes(states);
  const stream = fresh('soft');
  await append(stream, json(0));
  const lenient = Client.connectionString(`${url}&throwOnAppendFailure=false`);
  const soft = await lenient.appendToStream(stream, json(1), at(5n));
  same(soft.success, false, 'a failure as a result');
  await lenient.dispose();
}

async function reading() {
  const stream = fresh('read');
  await append(stream, many(10));
  same(revisions(await read(stream, {maxCount: 3})), [0n, 1n, 2n], 'limit');
  same(revisions(await read(stream, {fromRevision: 8n})), [8n, 9n], 'from a revision');
  same(revisions(await read(stream, {direction: k.BACKWARDS, fromRevision: k.END, maxCount: 2})),
       [9n, 8n], 'backwards from the end');
  same(revisions(await read(stream, {direction: k.BACKWARDS, fromRevision: 1n})), [1n, 0n],
       'backwards from a revision');
  same(await read(stream, {fromRevision: 100n}), [], 'beyond the end');
  await throws(read(fresh('none')), 'StreamNotFoundError', 'a stream that is not there',
               e => e.streamName.startsWith('none-'));
  const everything = await all(client.readAll());
  const mine = everything.filter(e => e.event?.streamId === stream);
  same(revisions(mine), [...Array(10).keys()].map(BigInt), '$all in order');
  const {position} = mine[4].event;
  const later = await all(client.readAll({fromPosition: position}));
  same(later.filter(e => e.event?.streamId === stream).length, 6, '$all from a position');
  const before = await all(client.readAll({direction: k.BACKWARDS, fromPosition: position}));
  same(before.filter(e => e.event?.streamId === stream).map(e => e.event.revision),
       [3n, 2n, 1n, 0n], '$all backwards from a position');
  const last = await all(client.readAll({direction: k.BACKWARDS, fromPosition: k.END,
                                         maxCount: 1}));
  same(last.length, 1, '$all backwards from the end');
  for (const [filter, name] of !isNew ? [] : [ // the older client reads without filters
    [k.streamNameFilter({prefixes: [stream]}), 'by prefix of streams'],
    [k.streamNameFilter({regex: `^${stream}$`}), 'by expression of streams'],
    [k.eventTypeFilter({prefixes: ['nothing', 'tes']}), 'by prefix of types'],
    [k.eventTypeFilter({regex: '^[^$].*'}), 'without system events']]) {
    const got = await all(client.readAll({filter}));
    ok(got.filter(e => e.event?.streamId === stream).length === 10, `$all ${name}`);
    ok(got.every(e => !e.event.type.startsWith('$')), `$all ${name}, nothing else`);
  }
}

async function links() {
  const stream = fresh('target'), into = fresh('links');
  await append(stream, many(2));
  const link = target => k.binaryEvent({type: '$>', data: Buffer.from(target)});
  await append(into, [link(`1@${stream}`), link(`9@${stream}`)]);
  const resolved = await read(into, {resolveLinkTos: true});
  same([resolved[0].event.streamId, resolved[0].link.streamId, resolved[0].link.revision],
       [stream, into, 0n], 'a link is followed');
  same(resolved[1].event, undefined, 'a link that leads nowhere');
  same((await read(into))[0].event.type, '$>', 'a link itself');
  const category = `c${randomUUID().replaceAll('-', '')}`;
  await append(`${category}-1`, many(2));
  await append(`${category}-2`, json(0));
  const events = await read(`$ce-${category}`, {resolveLinkTos: true});
  same(events.map(e => e.event.streamId), [`${category}-1`, `${category}-1`, `${category}-2`],
       '$ce- resolved');
  same((await read(`$ce-${category}`))[2].event.type, '$>', '$ce- is of links');
}

async function deleting() {
  const stream = fresh('delete');
  await append(stream, many(3));
  await throws(client.deleteStream(stream, {expectedRevision: 9n}), 'WrongExpectedVersionError',
               'delete at a wrong revision');
  const done = await client.deleteStream(stream, {expectedRevision: 2n});
  ok(done.position.commit > 0n, 'delete has a position');
  await throws(read(stream), 'StreamNotFoundError', 'a deleted stream');
  await append(stream, json(3));
  same(revisions(await read(stream)), [3n], 'a deleted stream comes back');
  const gone = fresh('tombstone');
  await append(gone, json(0));
  await throws(client.tombstoneStream(gone, {expectedRevision: 4n}), 'WrongExpectedVersionError',
               'tombstone at a wrong revision');
  ok((await client.tombstoneStream(gone)).position.commit > 0n, 'tombstone has a position');
  await throws(read(gone), 'StreamDeletedError', 'read of a tombstone');
  await throws(append(gone, json(1)), 'StreamDeletedError', 'append to a tombstone',
               e => e.streamName === gone);
  await throws(append(gone, json(1), {credentials: {username: 'a', password: 'b'}}),
               'StreamDeletedError', 'Append to a tombstone');
  await throws(client.deleteStream(gone), 'StreamDeletedError', 'delete of a tombstone');
  await throws(client.tombstoneStream(gone), 'StreamDeletedError', 'tombstone twice');
}

async function metadata() {
  const stream = fresh('meta');
  await append(stream, many(5));
  const none = await client.getStreamMetadata(stream);
  same(none.metadata, undefined, 'no metadata');
  await client.setStreamMetadata(stream, {maxCount: 2, own: 'x'});
  same((await client.getStreamMetadata(stream)).metadata, {maxCount: 2, own: 'x'}, 'metadata');
  same(revisions(await read(stream)), [3n, 4n], 'maxCount holds');
  await client.setStreamMetadata(stream, {truncateBefore: 4});
  same(revisions(await read(stream)), [4n], 'truncateBefore holds');
  await throws(append('$audit', json(1)), 'AccessDeniedError', 'a system stream, BatchAppend');
  await throws(append('$audit', json(1), {credentials: {username: 'a', password: 'b'}}),
               'AccessDeniedError', 'a system stream, Append');
}

async function take(subscription, count) {
  const out = [];
  for await (const e of subscription) {
    out.push(e);
    if (out.length === count)
      break;
  }
  return out;
}

async function subscriptions() {
  const stream = fresh('sub');
  await append(stream, many(3));
  let sub = client.subscribeToStream(stream);
  let caught = 0;
  sub.on('caughtUp', () => caught++);
  const first = [];
  for await (const e of sub) {
    first.push(e.event.revision);
    if (first.length === 3)
      await append(stream, json(3));
    if (first.length === 4)
      break;
  }
  same(first, [0n, 1n, 2n, 3n], 'history, then live');
  same(caught, isNew ? 1 : caught, 'caught up once');
  same(revisions(await take(client.subscribeToStream(stream, {fromRevision: 1n}), 2)), [2n, 3n],
       'after a revision');
  sub = client.subscribeToStream(stream, {fromRevision: k.END});
  const confirmed = new Promise(resolve => sub.once('confirmation', resolve));
  const end = take(sub, 1);
  await confirmed;
  await append(stream, json(4));
  same(revisions(await end), [4n], 'from the end');
  const waits = fresh('waits');
  sub = client.subscribeToStream(waits);
  const soon = take(sub, 1);
  await append(waits, json(0));
  same(revisions(await soon), [0n], 'before its stream');
  const gone = fresh('gone');
  await append(gone, json(0));
  sub = client.subscribeToStream(gone);
  let error;
  try {
    for await (const _ of sub)
      await client.tombstoneStream(gone);
  } catch (e) {
    error = e;
  }
  same(error?.constructor.name, 'StreamDeletedError', 'a tombstone ends a subscription');
  const filter = k.streamNameFilter({prefixes: [stream], checkpointInterval: 1, maxSearchWindow: 32});
  let checkpoints = 0;
  const filtered = client.subscribeToAll({
    filter: {...filter, checkpointReached: () => checkpoints++}});
  same(revisions(await take(filtered, 5)), [0n, 1n, 2n, 3n, 4n], 'filtered $all');
  ok(checkpoints > 0, 'checkpoints');
  const [start] = await all(client.readAll({direction: k.BACKWARDS, fromPosition: k.END,
                                            maxCount: 1}));
  const fromHere = client.subscribeToAll({fromPosition: start.event.position});
  const next = take(fromHere, 1);
  await append(stream, json(5));
  same(revisions(await next), [5n], '$all after a position');
  const slow = fresh('slow');
  const pad = 'x'.repeat(10000);
  await append(slow, many(300).map(e => ({...e, data: {pad}})));
  let seen = 0n, inOrder = true;
  for await (const e of client.subscribeToStream(slow)) {
    inOrder &&= e.event.revision === seen++;
    if (seen % 50n === 0n)
      await new Promise(resolve => setImmediate(resolve));
    if (seen === 300n)
      break;
  }
  ok(inOrder, 'a slow subscriber misses nothing');
}

const settings = k.persistentSubscriptionToStreamSettingsFromDefaults;

async function groups() {
  const stream = fresh('group');
  await append(stream, many(6));
  const make = (name, more) => client.createPersistentSubscriptionToStream(
    stream, name, settings({startFrom: k.START, ...more}));
  await make('g');
  await throws(make('g'), 'PersistentSubscriptionExistsError', 'a group twice',
               e => e.streamName === stream && e.groupName === 'g');
  const info = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
  same([info.eventSource, info.groupName, info.settings.maxRetryCount,
        info.settings.consumerStrategyName], [stream, 'g', 10, 'RoundRobin'], 'info');
  same(info.settings.startFrom, 'start', 'start of a group');
  const listed = await client.listPersistentSubscriptionsToStream(stream);
  same(listed.map(g => g.groupName), ['g'], 'list of a stream');
  ok((await client.listAllPersistentSubscriptions()).some(g => g.eventSource === stream),
     'list of all');
  await throws(client.listPersistentSubscriptionsToStream(fresh('none')),
               'PersistentSubscriptionDoesNotExistError', 'list of a stream without groups');
  await throws(client.getPersistentSubscriptionToStreamInfo(stream, 'none'),
               'PersistentSubscriptionDoesNotExistError', 'info of no group');
  let sub = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
  const got = [];
  for await (const e of sub) {
    got.push([e.event.revision, e.retryCount]);
    if (got.length === 1)
      await sub.nack('retry', 'once more', e);
    else if (e.event.revision === 1n)
      await sub.nack('park', 'bad', e);
    else if (e.event.revision === 2n)
      await sub.nack('skip', 'no', e);
    else
      await sub.ack(e);
    if (got.length === 7)
      break;
  }
  same(got.map(g => g[0]).sort(), [0n, 0n, 1n, 2n, 3n, 4n, 5n], 'each event, one of them again');
  ok(got.some(g => g[0] === 0n && g[1] === 1), 'the retry is counted');
  for (let i = 0; i < 4000; i++) {
    const now = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
    if (now.stats.parkedMessageCount === 1n && now.stats.totalInFlightMessages === 0)
      break;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  await sub.unsubscribe(); // leaving the loop does not end the call
  const parked = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
  same(parked.stats.parkedMessageCount, 1n, 'one is parked');
  sub = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
  await client.replayParkedMessagesToStream(stream, 'g');
  for await (const e of sub) {
    same(e.event.revision, 1n, 'what was parked comes again');
    await sub.ack(e);
    break;
  }
  await client.updatePersistentSubscriptionToStream(stream, 'g', settings({maxRetryCount: 3}));
  same((await client.getPersistentSubscriptionToStreamInfo(stream, 'g')).settings.maxRetryCount, 3,
       'an update');
  await throws(client.updatePersistentSubscriptionToStream(stream, 'none', settings()),
               'PersistentSubscriptionDoesNotExistError', 'update of no group');
  await make('one', {maxSubscriberCount: 1});
  const holder = client.subscribeToPersistentSubscriptionToStream(stream, 'one');
  await new Promise(resolve => holder.once('confirmation', resolve));
  await throws(all(client.subscribeToPersistentSubscriptionToStream(stream, 'one')),
               'PersistentSubscriptionMaximumSubscribersReachedError', 'too many members');
  const ends = new Promise(resolve => holder.once('error', resolve));
  await client.deletePersistentSubscriptionToStream(stream, 'one');
  same((await ends).constructor.name, 'PersistentSubscriptionDoesNotExistError',
       'a member of a group that is deleted');
  await throws(client.deletePersistentSubscriptionToStream(stream, 'one'),
               'PersistentSubscriptionDoesNotExistError', 'delete of no group');
  await throws(all(client.subscribeToPersistentSubscriptionToStream(stream, 'one')),
               'PersistentSubscriptionDoesNotExistError', 'a member of no group');
}

async function groupsOfAll() {
  const stream = fresh('gall'), group = fresh('g');
  await append(stream, many(3));
  const filter = k.streamNameFilter({prefixes: [stream, 'nothing']});
  await client.createPersistentSubscriptionToAll(
    group, k.persistentSubscriptionToAllSettingsFromDefaults({startFrom: k.START}), {filter});
  const sub = client.subscribeToPersistentSubscriptionToAll(group);
  const got = [];
  for await (const e of sub) {
    got.push(e.event.revision);
    await sub.ack(e);
    if (got.length === 3)
      break;
  }
  same(got, [0n, 1n, 2n], 'a group of $all with a filter');
  const info = await client.getPersistentSubscriptionToAllInfo(group);
  same(info.eventSource, '$all', 'info of a group of $all');
  ok((await client.listPersistentSubscriptionsToAll()).some(g => g.groupName === group),
     'list of $all');
  await client.deletePersistentSubscriptionToAll(group);
  await throws(client.getPersistentSubscriptionToAllInfo(group),
               'PersistentSubscriptionDoesNotExistError', 'a group of $all that is deleted');
}

async function sessions() {
  const a = fresh('v2'), b = fresh('v2');
  const record = n => k.jsonEvent({type: 'rec', data: {n}, metadata: {p: 'q'}});
  const done = await client.multiStreamAppend([
    {streamName: a, events: [record(0), record(1)], expectedState: k.NO_STREAM},
    {streamName: b, events: [record(2)], expectedState: k.ANY}]);
  ok(done.position > 0n, 'multi-stream append has a position');
  same(done.responses.map(r => [r.streamName, r.revision]), [[a, 1n], [b, 0n]], 'its revisions');
  const [{event}] = await read(a);
  same([event.type, event.data, event.metadata.p, event.metadata['$schema.name']],
       ['rec', {n: 0}, 'q', 'rec'], 'a record read back');
  await throws(client.multiStreamAppend([
    {streamName: a, events: [record(3)], expectedState: 9n},
    {streamName: b, events: [record(4)], expectedState: k.ANY}]),
  'WrongExpectedVersionError', 'a conflict', e => e.streamName === a);
  same((await read(b)).length, 1, 'all or nothing');
  await client.tombstoneStream(b);
  await throws(client.multiStreamAppend([{streamName: b, events: [record(5)],
                                          expectedState: k.ANY}]),
               'StreamTombstonedError', 'a tombstone in a session');
}

async function sessionVersions() {
  const passes = {missing: ['any', 'none'], one: ['any', 'exists', 'zero'],
                  deleted: ['any', 'none', 'zero']};
  const states = {any: k.ANY, none: k.NO_STREAM, exists, zero: 0n, three: 3n};
  for (const kind of Object.keys(passes)) {
    for (const [name, state] of Object.entries(states)) {
      const stream = fresh('session'), beside = fresh('beside');
      if (kind !== 'missing')
        await append(stream, json(0));
      if (kind === 'deleted')
        await client.deleteStream(stream);
      const what = `${kind} stream, expected ${name}, a session`;
      const attempt = client.multiStreamAppend([
        {streamName: beside, events: [json(1, {metadata: {}})], expectedState: k.NO_STREAM},
        {streamName: stream, events: [json(1, {metadata: {}})], expectedState: state}]);
      if (passes[kind].includes(name)) {
        const done = await attempt.catch(error => ({error}));
        same(done.responses?.map(r => r.revision), [0n, kind === 'missing' ? 0n : 1n], what);
      } else {
        await throws(attempt, 'WrongExpectedVersionError', what, e => e.streamName === stream);
        await throws(read(beside), 'StreamNotFoundError', `${what}, nothing beside it`);
      }
    }
  }
}

async function records() {
  const a = fresh('rec'), b = fresh('rec'), c = fresh('rec');
  const record = streamName => ({streamName, record: k.jsonEvent({type: 'r', data: {streamName}})});
  const done = await client.appendRecords([record(a), record(b), record(a)]);
  same(done.responses.map(r => [r.streamName, r.revision]), [[a, 1n], [b, 0n]], 'records interleave');
  const checked = await client.appendRecords([record(a)], [
    {type: 'streamState', streamName: b, expectedState: 0n},
    {type: 'streamState', streamName: c, expectedState: k.NO_STREAM}]);
  same(checked.responses[0].revision, 2n, 'checks of streams that are not written');
  await throws(client.appendRecords([record(a)], [
    {type: 'streamState', streamName: a, expectedState: 2n},
    {type: 'streamState', streamName: b, expectedState: 5n}]),
  'AppendConsistencyViolationError', 'a check that does not hold',
  e => e.violations.length === 1 && e.violations[0].checkIndex === 1);
  same((await read(a)).length, 3, 'nothing of it is written');
}

async function large() {
  const stream = fresh('large');
  const data = new Uint8Array((16 << 20) - 100).fill(7);
  for (const credentials of [undefined, {username: 'a', password: 'b'}]) {
    const what = credentials ? 'Append' : 'BatchAppend';
    const done = await append(stream, k.binaryEvent({type: 'big', data}), {credentials});
    const [back] = await read(stream, {fromRevision: done.nextExpectedRevision});
    ok(Buffer.compare(back.event.data, data) === 0, `an event of 16 MiB, ${what}`);
    const over = new Uint8Array((16 << 20) + 1);
    const error = await append(stream, k.binaryEvent({type: 'over', data: over}), {credentials})
      .catch(e => e);
    ok(error instanceof Error, `an event over 16 MiB, ${what}`);
  }
  const [last] = await read(stream, {direction: k.BACKWARDS, fromRevision: k.END, maxCount: 1});
  same(last.event.revision, 1n, 'what is too large is not there');
}

async function backPressure() {
  const stream = fresh('pressure');
  const pad = 'x'.repeat(50000);
  for (let i = 0; i < 2; i++)
    await append(stream, many(50).map(e => ({...e, data: {pad}})));
  const sub = client.subscribeToStream(stream);
  const first = new Promise(resolve => sub.once('data', resolve));
  await first;
  sub.pause();
  const beside = fresh('beside');
  for (let i = 0; i < 20; i++)
    await append(beside, json(i));
  same((await read(beside)).length, 20, 'others go on beside who takes nothing');
  let next = 1n, inOrder = true;
  const whole = new Promise(resolve => sub.on('data', e => {
    inOrder &&= e.event.revision === next++;
    if (next === 100n)
      resolve();
  }));
  sub.resume();
  await whole;
  ok(inOrder, 'who takes again misses nothing');
  await sub.unsubscribe();
}

// The server behind something that can cut connections.
async function reconnecting() {
  const open = new Set();
  const proxy = net.createServer(near => {
    const far = net.connect(port, '127.0.0.1');
    for (const [from, to] of [[near, far], [far, near]]) {
      open.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        open.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  });
  await new Promise(resolve => proxy.listen(0, '127.0.0.1', resolve));
  const cut = () => open.forEach(socket => socket.destroy());
  const other = Client.connectionString(urlOf(proxy.address().port));
  const stream = fresh('cut');
  const again = async work => { // as an application does
    for (let i = 0; ; i++) {
      try {
        return await work();
      } catch (error) {
        if (i === 2000)
          throw error;
        await new Promise(resolve => setTimeout(resolve, 20));
      }
    }
  };
  await other.appendToStream(stream, json(0));
  for (let round = 1; round <= 3; round++) {
    const sub = other.subscribeToStream(stream, {fromRevision: BigInt(round - 1)});
    await new Promise(resolve => sub.once('confirmation', resolve));
    const ended = new Promise(resolve => sub.once('error', resolve));
    cut();
    ok(['UnavailableError', 'CancelledError'].includes((await ended).constructor.name),
       'a cut connection ends a subscription');
    const event = json(round);
    const done = await again(() => other.appendToStream(stream, event));
    same(done.nextExpectedRevision, BigInt(round), 'an append after it, once');
    same(revisions(await again(() => take(other.subscribeToStream(
      stream, {fromRevision: BigInt(round - 1)}), 1))), [BigInt(round)], 'the subscription goes on');
    same((await again(() => all(other.readStream(stream)))).length, round + 1, 'and reads');
  }
  await other.dispose();
  cut();
  proxy.close();
}

async function deadlines() {
  const stream = fresh('deadline');
  await append(stream, json(0));
  const late = append(stream, json(1), {deadline: -1000});
  await throws(late, 'DeadlineExceededError', 'BatchAppend after its deadline');
  await throws(append(stream, json(1), {deadline: -1000, credentials: {username: 'a', password: 'b'}}),
               'DeadlineExceededError', 'Append after its deadline');
  await throws(client.deleteStream(stream, {deadline: -1000}), 'DeadlineExceededError',
               'delete after its deadline');
  same((await read(stream)).length, 1, 'nothing of it is done');
  const silent = net.createServer(socket => socket.on('error', () => {}));
  await new Promise(resolve => silent.listen(0, '127.0.0.1', resolve));
  const other = Client.connectionString(urlOf(silent.address().port));
  await throws(other.deleteStream(stream, {deadline: 100}), 'DeadlineExceededError',
               'a server that says nothing');
  await other.dispose();
  silent.close();
  silent.closeAllConnections?.();
}

async function projections() {
  for (const name of ['$by_category', '$by_event_type', '$streams']) {
    await client.enableProjection(name);
    const status = await client.getProjectionStatus(name);
    same([status.name, status.status], [name, 'Running'], `status of ${name}`);
  }
  const listed = await client.listProjections();
  ok(listed.some(p => p.name === '$by_category' && p.status === 'Running'), 'list of projections');
  same(await client.getProjectionState('$by_category'), {}, 'state of a projection');
  same(await client.getProjectionResult('$streams'), {}, 'result of a projection');
  await throws(client.disableProjection('$streams'), 'UnknownError', 'a projection that stays');
  await throws(client.enableProjection('none'), 'NotFoundError', 'a projection that is not there');
  await throws(client.getProjectionStatus('none'), 'NotFoundError', 'status of none');
  await throws(client.createProjection('mine', 'fromAll()'), 'UnknownError', 'one of one\'s own');
  await client.resetProjection('$by_category');
  await client.restartSubsystem();
  ok(true, 'reset, restart');
}

async function cancelling() {
  const other = Client.connectionString(`${url}&defaultDeadline=5000`);
  const stream = fresh('cancel');
  await other.appendToStream(stream, many(50));
  for (let i = 0; i < 20; i++) {
    const sub = other.subscribeToStream(stream);
    for await (const _ of sub)
      break;
  }
  ok(true, 'subscriptions left in the middle');
  for (let i = 0; i < 10; i++)
    for await (const _ of other.readStream(stream))
      break;
  same((await read(stream)).length, 50, 'reads left in the middle');
  await other.dispose();
  same((await read(stream)).length, 50, 'after another client has gone');
}

// Over TLS what rests on the connection; the rest is the same.
const parts = {appending, reading, subscriptions, groups, ...(isNew ? {sessions} : {}), large,
               reconnecting, cancelling,
               ...(ca ? {} : {expectedVersions, links, deleting, metadata, groupsOfAll, backPressure,
                              deadlines, projections, ...(isNew ? {sessionVersions, records} : {})})};
for (const [name, part] of Object.entries(parts)) {
  try {
    await part();
  } catch (error) {
    failed.push(`${name}: ${error.stack}`);
  }
}
await client.dispose();
for (const name of failed)
  console.log(`not ok: ${name}`);
console.log(`${which}: ${passed} ok, ${failed.length} failed`);
process.exit(failed.length === 0 ? 0 : 1);
