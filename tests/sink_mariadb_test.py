"""The sink mariadb against a real server: rows and checkpoint together, through kill -9 on either
side, a deadlock, a lock, a constraint; and statements of the configuration's own."""
import json
import subprocess
import unittest

import brokers
from sink_case import Seen, SinkCase


class MariadbSink(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Mariadb()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()

    def setUp(self):
        super().setUp()
        self.server.sql('DROP DATABASE IF EXISTS shop; CREATE DATABASE shop')

    def sql(self, text):
        return self.server.sql(text, 'shop')

    def configure_with(self, **more):
        self.configure('    type: mariadb\n'
                       f'    url: mariadb://root@127.0.0.1:{self.server.port}/shop\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def seen(self):
        return [Seen(stream, int(version), id) for stream, version, id in
                self.sql('SELECT stream, version, id FROM events ORDER BY position')]

    def count(self):
        return int(self.sql('SELECT count(*) FROM events')[0][0])

    def append_conf(self):
        # Without a key, so that what came twice is there twice.
        self.sql('CREATE TABLE events(position BIGINT, id UUID, stream VARCHAR(255), version BIGINT,'
                 'type VARCHAR(255), created DATETIME(6), data JSON, meta JSON) ENGINE=InnoDB')
        self.configure_with(table='events', mode='append')

    def test_killed(self):
        self.append_conf()
        self.start()
        for at in (500, 1500):
            self.fill(30, 40)
            self.until(lambda n=at: self.count() >= n, 'nothing comes')
            self.kill()
            self.start()
        self.delivered()
        self.came(self.seen(), doubles=False)

    def test_server_killed(self):
        self.append_conf()
        self.start()
        self.fill(30, 40)
        self.until(lambda: self.count() >= 500, 'nothing comes')
        self.server.kill()
        self.server.start()
        self.fill(30, 40)
        self.delivered()
        self.came(self.seen(), doubles=False)
        self.assertEqual(self.show()['parked'], 0)

    def test_upsert(self):
        """Every type as the column has it; only the fields that an event has."""
        self.sql('CREATE TABLE t(id INT PRIMARY KEY, n DECIMAL(30, 2), f DOUBLE, b BOOLEAN, j JSON,'
                 " at DATETIME(3), u UUID, s TEXT DEFAULT 'kept', bits VARCHAR(20)) ENGINE=InnoDB")
        self.configure_with(table='shop.t', key='id')
        self.start()
        self.append('order-1', data={'n': 1, 's': 'x'})
        self.append('order-2', data={'n': 5})
        answer = self.ask('POST', '/v1/streams/order-1', [{'type': 'Updated', 'data': {
            'n': 12345678901234567890, 'f': 0.5, 'b': True, 'j': {'a': [1, None]},
            'at': '2026-11-30T01:02:03.5Z', 'u': '0af76519-16cd-43dd-8448-eb211c80319c',
            'bits': "a'b\\\"\u00fc"}}])
        self.end_of_log = answer['position']
        self.delivered()
        row, = self.sql("SELECT n, s, f, b, JSON_VALUE(j, '$.a[0]'), at, u IS NOT NULL, bits FROM t "
                        'WHERE id = 1')
        self.assertEqual(row, ['12345678901234567890.00', 'x', '0.5', '1', '1',
                               '2026-11-30 01:02:03.500', '1', "a'b\\\\\"\u00fc"])
        self.assertEqual(self.sql('SELECT s FROM t WHERE id = 2'), [['kept']])
        self.ask('POST', '/v1/streams/order-1', [{'type': 'Deleted', 'data': {}}])
        self.until(lambda: self.sql('SELECT id FROM t') == [['2']], 'not deleted')

    def test_create(self):
        self.configure_with(table='made', create='true', columns='{amount: data.total, who: by}')
        self.start()
        self.append('order-a`b', data={'data': {'total': 1.50}, 'by': 'Zo\u00eb'})
        self.append('order-c', data={'data': {'total': 2}, 'by': None})
        self.delivered()
        self.assertEqual([[k, float(a), w] for k, a, w in
                          self.sql('SELECT `key`, amount, who FROM made ORDER BY 1')],
                         [['a`b', 1.5, 'Zo\u00eb'], ['c', 2.0, None]])

    def test_refused(self):
        """A constraint parks its event; the others of the transaction arrive, once."""
        self.sql('CREATE TABLE t(`key` VARCHAR(50) PRIMARY KEY, n INT CHECK (n <> 7)) ENGINE=InnoDB')
        self.configure_with(table='t')
        self.start()
        for i in range(20):
            self.append(f'order-{i}', data={'n': i})
        self.append('order-x', data={'n': 'no number'})
        self.append('order-y', data={'other': 1})
        self.append('order-z', data={'n': 99999999999})
        self.delivered()
        self.assertEqual(self.show()['parked'], 4)
        self.assertEqual(self.sql('SELECT count(*), sum(n = 7) FROM t'), [['19', '0']])
        reasons = [json.loads(line)['reason'] for line in
                   self.oxbow('sink', 'parked', 'list', 'out').splitlines()]
        self.assertTrue(any('constraint' in r for r in reasons), reasons)
        self.assertFalse(any('no number' in r for r in reasons), reasons)

    def test_statements(self):
        """What a type does is the configuration's; a type without a statement is parked."""
        self.sql('CREATE TABLE total(name VARCHAR(50) PRIMARY KEY, n BIGINT, last VARCHAR(50), at '
                 'DATETIME(6)) ENGINE=InnoDB')
        self.configure_with(statements='\n      Updated: >-\n'
                            '        INSERT INTO total VALUES ({category}, {data.n}, {data.by}, '
                            '{created}) ON DUPLICATE KEY UPDATE n = n + {data.n}, last = {data.by}\n'
                            '      Gone: "DELETE FROM total WHERE name = {category}"')
        self.start()
        for i in range(10):
            self.append(f'order-{i}', data={'n': i, 'by': "o'x"})
            self.append(f'sale-{i}', data={'n': 1})
        self.append('order-9', type='Else')
        self.append('sale-9', type='Gone')
        self.delivered()
        self.assertEqual(self.sql('SELECT name, n, last, at IS NULL FROM total'),
                         [['order', '45', "o'x", '0']])
        self.assertEqual(self.show()['parked'], 1)

    def test_deadlock(self):
        """Another transaction holds what this one wants, and wants what it holds."""
        self.sql('CREATE TABLE t(`key` VARCHAR(50) PRIMARY KEY, n INT) ENGINE=InnoDB;'
                 "INSERT INTO t VALUES ('1', 0), ('2', 0)")
        self.configure_with(table='t')
        self.start()
        other = subprocess.Popen(
            ['mariadb', '--no-defaults', '-u', 'root', '-S', self.server.socket, '-N', '-B', '-n',
             '--force', 'shop'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(other.stdout.close)
        other.stdin.write("BEGIN; UPDATE t SET n = -1 WHERE `key` = '2'; SELECT 'held';\n")
        other.stdin.flush()
        self.assertEqual(other.stdout.readline(), 'held\n')
        # One transaction: it has 1, and waits for 2.
        self.oxbow('sink', 'pause', 'out')
        self.append('order-1', data={'n': 1})
        self.append('order-2', data={'n': 2})
        self.oxbow('sink', 'resume', 'out')
        waiting = 'SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = "LOCK WAIT"'
        self.until(lambda: self.sql(waiting) == [['1']], 'nobody waits')
        other.stdin.write("UPDATE t SET n = -1 WHERE `key` = '1'; COMMIT;\n")
        other.communicate()
        self.delivered()
        self.assertEqual(self.sql('SELECT `key`, n FROM t ORDER BY 1'), [['1', '1'], ['2', '2']])
        self.assertEqual(self.show()['parked'], 0)

    def test_table_missing(self):
        self.configure_with(table='late')
        self.start()
        self.append('order-1', data={'n': 1})
        self.complains('missing')
        self.sql('CREATE TABLE late(`key` VARCHAR(50) PRIMARY KEY, n INT) ENGINE=MyISAM')
        self.complains('no transactions')
        self.sql('ALTER TABLE late ENGINE=InnoDB')
        self.delivered()
        self.assertEqual(self.sql('SELECT n FROM late'), [['1']])


if __name__ == '__main__':
    brokers.skip_without(brokers.Mariadb)
    unittest.main(verbosity=2)
