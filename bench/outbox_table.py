"""An outbox table in PostgreSQL, and npm's pg-transactional-outbox over one of its own: what two benchmarks share."""
import os
import shutil
import subprocess

import harness as h

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = 'pg-transactional-outbox@0.5.7'
AMQP = 'amqplib@0.10.9'
FILL = """INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
SELECT 'order', (i % 1000)::text, 'OrderPlaced', jsonb_build_object('number', i, 'note', repeat('x', 100))
FROM generate_series({0}, {1}) i"""


def connection(server):
    return f'host=127.0.0.1 port={server.port} user=postgres dbname=postgres'


def schema(server):
    h.sql(server, 'DROP TABLE IF EXISTS outbox, oxbow_proof; DROP FUNCTION IF EXISTS outbox_notify, '
                  'oxbow_lifetime, oxbow_token')
    h.sql(server, h.run([h.program('src/cli/oxbow'), 'outbox', 'sql', '--for', 'postgres']))


def fill(server, rows):
    """Transactions of 100 rows."""
    h.sql(server, 'DO $$ BEGIN FOR k IN 0..' + str(rows // 100 - 1) + ' LOOP '
          + FILL.format('k * 100 + 1', 'k * 100 + 100') + '; COMMIT; END LOOP; END $$')
    h.sql(server, 'ANALYZE outbox')


def peer(folder, server, rows, *amqp):
    """Its process, once its rows are there: messages that may go in parallel, in batches of 100, none
    protected against poison, as its documentation advises for throughput. With the URL of a RabbitMQ and a
    queue its handler publishes to that, else it does nothing. None: npm is out of reach."""
    path = folder.new('npm')
    done = subprocess.run(['npm', 'install', '--no-audit', '--no-fund', '--prefix', path, PEER, AMQP],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=path)
    if done.returncode != 0:
        h.note('npm cannot be reached: no peer')
        return None
    program = shutil.copy(os.path.join(HERE, 'outbox', 'peer.cjs'), path)
    url = f'postgresql://postgres@127.0.0.1:{server.port}/postgres'
    h.sql(server, h.run(['node', program, 'setup', url, '100']))
    h.sql(server, "INSERT INTO peer_outbox (id, aggregate_type, aggregate_id, message_type, concurrency, payload) "
          "SELECT gen_random_uuid(), 'order', (i % 1000)::text, 'OrderPlaced', 'parallel', jsonb_build_object("
          f"'number', i, 'note', repeat('x', 100)) FROM generate_series(1, {rows}) i; ANALYZE peer_outbox")
    return subprocess.Popen(['node', program, 'run', url, '100', *amqp], stdout=subprocess.PIPE)
