// The peer: npm's pg-transactional-outbox over an outbox of its own, with a handler that does nothing.
// usage: node peer.cjs setup|run CONNECTION BATCH   (run: a line for each 1,000 messages)
const {DatabaseSetup, getDisabledLogger, initializePollingMessageListener} = require('pg-transactional-outbox');

const [, , what, connection, batch] = process.argv;
const config = {outboxOrInbox: 'outbox', database: 'postgres', schema: 'public', table: 'peer_outbox',
  listenerRole: 'postgres', handlerRole: 'postgres', nextMessagesName: 'next_peer_messages',
  nextMessagesSchema: 'public'};

if (what === 'setup') {
  console.log(DatabaseSetup.dropAndCreateTable(config));
  console.log(DatabaseSetup.createPollingFunction(config));
  console.log(DatabaseSetup.setupPollingIndexes(config));
} else {
  let count = 0;
  initializePollingMessageListener({
    outboxOrInbox: 'outbox',
    dbListenerConfig: {connectionString: connection, max: 20},
    settings: {dbSchema: 'public', dbTable: 'peer_outbox', nextMessagesFunctionSchema: 'public',
      nextMessagesFunctionName: 'next_peer_messages', nextMessagesBatchSize: Number(batch),
      nextMessagesPollingIntervalInMs: 10, enableMaxAttemptsProtection: false,
      enablePoisonousMessageProtection: false, messageCleanupIntervalInMs: 0},
  }, {handle: async () => {
    if (++count % 100 === 0)
      console.log(count);
  }}, getDisabledLogger(), {batchSizeStrategy: async () => Number(batch)});
}
