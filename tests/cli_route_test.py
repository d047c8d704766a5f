"""Old and new software side by side on the command line, links as a surgery, and what an imported log
has of all that; held against a program that derives the targets from an export."""
import json
import unittest

from cli_test import Case, event
from surgery_check import check

SPLIT = ('stream', 'split', 'truck-*', '--to', 'vehicle-{key}', '--old-writers', 'route')


def by_type(e):
    key = e['stream'].split('-', 1)[1]
    return [('engine-' if e['type'] == 'EngineOn' else 'vehicle-') + key]


class Route(Case):
    def routed(self, *where):
        for i in range(3):
            self.oxbow('append', f'truck-{i}', *where, stdin=event('Drive') + event('EngineOn'))
        rules = self.write('rules.yaml', '- when: {type: EngineOn}\n  route: "engine-{key}"\n')
        done = self.oxbow(*SPLIT, '--transform', rules, '--name', 's1', *where).lines[0]
        self.assertEqual((done['state'], done['streams'], done['copies']), ('DONE', 3, 6))
        self.oxbow('append', 'truck-1', *where, stdin=event('EngineOn', {'old': 1}))
        self.oxbow('append', 'vehicle-1', '--expect', '1', *where, stdin=event('Drive', {'new': 1}))
        self.oxbow('append', 'truck-1', '--expect', '3', *where, stdin=event('Drive', {'old': 2}))

    def lines(self, *where):
        return [json.loads(line) for line in self.oxbow('log', 'export', *where).out.splitlines()]

    def types(self, stream, *more):
        return [e['type'] for e in self.oxbow('read', stream, *more).lines]

    def check_routed(self, *where):
        self.assertEqual(self.types('truck-1', *where), ['Drive', 'EngineOn', 'EngineOn', '$>', 'Drive'])
        self.assertEqual(self.types('truck-1', '--resolve', *where),
                         ['Drive', 'EngineOn', 'EngineOn', 'Drive', 'Drive'])
        self.assertEqual(self.types('vehicle-1', *where), ['MigratedFrom', 'Drive', 'Drive', 'Drive'])
        self.assertTrue(self.oxbow('stream', 'info', 'truck-1', *where).lines[0]['routed'])
        member = self.oxbow('stream', 'metadata', 'truck-1', *where).lines[0]
        self.assertIn('vehicle-1', json.dumps(member))

    def test_folder(self):
        self.routed()
        self.check_routed()
        self.assertEqual(check(self.lines(), 's1', by_type), ([], 8))
        audit = self.oxbow('stream', 'audit', 's1').lines[0]
        self.assertEqual((audit['clean'], audit['copies'], audit['newer']), (True, 8, 1))
        skipped = self.types('$all', '--moved', 'skip', '--links', 'ignore')
        self.assertEqual(sorted(skipped), ['Drive'] * 5 + ['EngineOn'] * 4)
        done = self.oxbow('stream', 'unroute', 's1').lines[0]
        self.assertEqual((done['state'], done['streams']), ('CLOSED', 3))
        self.refused('append', 'truck-1', stdin=event('Drive'), says=r'moved to \["vehicle-1","engine-1"\]')
        self.assertEqual(check(self.lines(), 's1', by_type)[0], [])
        self.oxbow('stream', 'audit', 's1')

    def test_server(self):
        with self.server() as (url, _):
            self.routed('--server', url)
            self.check_routed('--server', url)
            audit = self.oxbow('stream', 'audit', 's1', '--server', url).lines[0]
            self.assertEqual((audit['clean'], audit['copies'], audit['newer']), (True, 8, 1))

    def test_import(self):
        """An imported log refuses, follows and routes as the one that it was made of."""
        self.routed()
        self.oxbow('append', 'a-1', stdin=event('A') + event('B'))
        self.oxbow('stream', 'copy', 'a-1', '--to', 'b-1', '--name', 'c1')
        self.oxbow('append', 'd-1', stdin=event('A') + event('B'))
        self.oxbow('stream', 'copy', 'd-1', '--to', 'e-1', '--name', 'c2')
        self.oxbow('stream', 'drop', 'c2')
        self.oxbow('stream', 'metadata', 'b-1', '{"$maxCount":5,"owner":"me"}')
        self.oxbow('append', 'f-1', stdin=event('A') + event('B'))
        self.oxbow('stream', 'truncate', 'f-1', '1')
        self.oxbow('stream', 'close', 'f-1')
        self.oxbow('append', 'g-1', stdin=event('A'))
        self.oxbow('stream', 'tombstone', 'g-1')
        export = self.oxbow('log', 'export').out
        there = ('--data', self.path('there'))
        self.oxbow('log', 'import', *there, stdin=export)
        again = self.oxbow('log', 'export', *there).out

        def states(text):
            return [line for line in text.splitlines() if line.startswith('{"state"')]

        self.assertEqual(states(again), states(export))
        self.refused('append', 'a-1', *there, stdin=event('A'), says=r'moved to \["b-1"\]')
        self.oxbow('append', 'a-1', '--follow-moves', *there, stdin=event('C'))
        self.assertEqual(self.types('b-1', *there), ['MigratedFrom', 'A', 'B', 'C'])
        self.refused('append', 'd-1', *there, stdin=event('A'), says=r'moved to \["e-1"\]')
        self.assertEqual(self.types('d-1', *there), ['StreamMovedTo'])
        self.refused('append', 'f-1', *there, stdin=event('A'), says='takes no more events')
        self.refused('append', 'g-1', *there, stdin=event('A'), says='deleted for good')
        self.assertEqual(self.oxbow('stream', 'metadata', 'b-1', *there).lines,
                         self.oxbow('stream', 'metadata', 'b-1').lines)
        self.check_routed(*there)
        self.oxbow('append', 'truck-2', *there, stdin=event('Drive'))
        self.assertEqual(self.types('vehicle-2', *there), ['MigratedFrom', 'Drive', 'Drive'])
        self.assertEqual(check(self.lines(*there), 's1', by_type)[1], 9)

    def test_subjects(self):
        """What is under a subject's key stays JSON, moved and routed."""
        self.oxbow('append', 'truck-1', stdin=event('Drive', {'driver': 'A'}, subject='bob'))
        rules = self.write('rules.yaml', '- when: {type: EngineOn}\n  route: "engine-{key}"\n')
        self.oxbow(*SPLIT, '--transform', rules, '--name', 's1')
        self.oxbow('append', 'truck-1', stdin=event('Drive', {'driver': 'B'}, subject='bob'))
        self.assertEqual([e.get('data') for e in self.oxbow('read', 'vehicle-1').lines[1:]],
                         [{'driver': 'A'}, {'driver': 'B'}])
        self.assertEqual(check(self.lines(), 's1', by_type), ([], 2))
        self.assertTrue(self.oxbow('stream', 'audit', 's1').lines[0]['clean'])
        self.oxbow('subject', 'erase', 'bob')
        self.assertEqual([e.get('data') for e in self.oxbow('read', 'vehicle-1').lines[1:]], [None, None])

    def test_plan_of_two(self):
        for i in range(4):
            self.oxbow('append', f'truck-{i}', stdin=event('Drive') + event('Engine') + event('Noise'))
        change = self.write('change.yaml', '- when: {type: Noise}\n  drop: true\n'
                                           '- when: {type: Engine}\n  rename: EngineOn\n')
        split = self.write('split.json', json.dumps({
            'kind': 'split', 'to': 'vehicle-{key}',
            'transform': [{'when': {'type': 'EngineOn'}, 'route': 'engine-{key}'}]}))
        plan = self.oxbow('stream', 'plan', 'rewrite', 'truck-*', '--transform', change, '--then', split).lines[0]
        self.assertEqual((plan['streams'], plan['events_before'], plan['events_after']), (4, 12, 8))
        self.assertEqual([plan['then'][k] for k in ('kind', 'streams', 'targets', 'events_before', 'events_after')],
                         ['split', 4, 8, 8, 8])
        join = self.write('join.json', '{"kind":"join","prefix":"new-","to":"all"}')
        plan = self.oxbow('stream', 'plan', 'copy', 'truck-*', '--to', 'new-{key}', '--then', join).lines[0]
        self.assertEqual([plan['then'][k] for k in ('streams', 'targets', 'events_after', 'skipped')], [4, 1, 12, 0])
        bad = self.write('bad.json', '{"kind":"split","transform":[{"when":{"type":"Drive"},"route":"x-{key}"}]}')
        plan = self.oxbow('stream', 'plan', 'copy', 'truck-1', '--to', 'new-{key}', '--then', bad).lines[0]
        self.assertEqual((plan['refused'], plan['then']['refused']), (0, 1))
        self.assertEqual(self.types('truck-1'), ['Drive', 'Engine', 'Noise'])
        self.refused('stream', 'plan', 'copy', 'truck-1', '--to', 'x', '--then', change, says='JSON|character')

    def test_links(self):
        self.oxbow('append', 'a-1', stdin=event('A') + event('B'))
        done = self.oxbow('stream', 'link', 'a-*', '--to', 'b-{key}', '--name', 'l1').lines[0]
        self.assertEqual((done['kind'], done['copies']), ('link', 2))
        self.assertEqual(self.types('b-1'), ['MigratedFrom', '$>', '$>'])
        self.assertEqual(self.types('b-1', '--resolve'), ['MigratedFrom', 'A', 'B'])
        self.refused('append', 'a-1', stdin=event('A'), says=r'moved to \["b-1"\]')
        self.oxbow('stream', 'audit', 'l1')
        self.refused('stream', 'drop', 'l1', says='links need the originals')
        rules = self.write('rules.yaml', '- when: {type: A}\n  route: "x-{key}"\n')
        self.oxbow('append', 'c-1', stdin=event('A') + event('B'))
        plan = self.oxbow('stream', 'plan', 'link', 'c-*', '--to', 'y-{key}', '--transform', rules).lines[0]
        self.assertEqual((plan['kind'], plan['targets'], plan['events_after']), ('link', 2, 2))
        self.oxbow('stream', 'link', 'c-*', '--to', 'y-{key}', '--transform', rules, '--name', 'l2')
        self.assertEqual(self.types('x-1', '--resolve'), ['MigratedFrom', 'A'])
        self.oxbow('stream', 'audit', 'l2')
        self.oxbow('stream', 'link', 'mine', '0@c-1')
        self.assertEqual(self.types('mine', '--resolve'), ['A'])


if __name__ == '__main__':
    unittest.main()
