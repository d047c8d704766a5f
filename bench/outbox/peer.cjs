// The peer: npm's pg-transactional-outbox over an outbox of its own, with a handler that does nothing, or
// that publishes to a queue and waits for the confirm.
// usage: node peer.cjs setup|run CONNECTION BATCH [AMQP-URL QUEUE]   (run: a line for each 100 messages)
const {DatabaseSetup, getDisabledLogger, initializePollingMessageListener} = require('pg-transactional-outbox');

const [, , what, connection, batch, amqp, queue] = process.argv;
const config = {outboxOrInbox: 'outbox', database: 'postgres', schema: 'public', table: 'peer_outbox',
  listenerRole: 'postgres', handlerRole: 'postgres', nextMessagesName: 'next_peer_messages',
  nextMessagesSchema: 'public'};

if (what === 'setup') {
  console.log(DatabaseSetup.dropAndCreateTable(config));
  console.log(DatabaseSetup.createPollingFunction(config));
  console.log(DatabaseSetup.setupPollingIndexes(config));
} else {
  run();
}

async function channel() {
  const link = await require('amqplib').connect(amqp);
  return link.createConfirmChannel();
}

async function run() {
  const to = amqp === undefined ? null : await channel();
  let count = 0;
  const publish = (message) => new Promise((resolve, reject) => to.sendToQueue(queue,
    Buffer.from(JSON.stringify(message.payload)), {persistent: true, messageId: message.id},
    (error) => error ? reject(error) : resolve()));
  initializePollingMessageListener({
    outboxOrInbox: 'outbox',
    dbListenerConfig: {connectionString: connection, max: 20},
    settings: {dbSchema: 'public', dbTable: 'peer_outbox', nextMessagesFunctionSchema: 'public',
      nextMessagesFunctionName: 'next_peer_messages', nextMessagesBatchSize: Number(batch),
      nextMessagesPollingIntervalInMs: 10, enableMaxAttemptsProtection: false,
      enablePoisonousMessageProtection: false, messageCleanupIntervalInMs: 0},
  }, {handle: async (message) => {
    if (to !== null)
      await publish(message);
    if (++count % 100 === 0)
      console.log(count);
  }}, getDisabledLogger(), {batchSizeStrategy: async () => Number(batch)});
}
