"""What surgeries should have made, derived from the lines of oxbow log export alone.

For each stream that a surgery closed: its events, in order, are in the targets that a rule names, once
each, unchanged, in the order that they had in the log, and say where they come from; nothing else
stands between a target's marks and what was appended to it later.

For each stream that it routed, and that goes on: the same up to its end; what the targets got by
themselves stands in it as a link, and in both in one order."""
import json
import sys

MARKS = ('MigratedFrom', 'Invalidated', 'StreamMovedTo')


def is_mark(line):
    return line['type'] in MARKS and isinstance(line.get('data'), dict) and 'surgery' in line['data']


def streams_of(lines):
    found = {}
    for line in lines:
        if 'version' in line and 'type' in line:
            found.setdefault(line['stream'], []).append(line)
    return found


def origins(line):
    """The first originals that an event stands for."""
    carried = (line.get('metadata') or {}).get('$copiedFrom')
    return carried or [{k: line[k] for k in ('stream', 'type', 'version', 'position', 'created', 'id')}]


def copy_of(line):
    metadata = {k: v for k, v in (line.get('metadata') or {}).items() if k != '$copiedFrom'}
    metadata['$copiedFrom'] = origins(line)
    return {'type': line['type'], 'id': line['id'], 'created': line['created'],
            'data': line.get('data'), 'metadata': metadata}


def targets_of(streams, surgery, rule, routed):
    """{target: (from which position on, the copies that it should have)}; rule(event) names an
    event's targets."""
    moved = [lines for stream, lines in streams.items() if stream not in routed and
             any(is_mark(e) and e['type'] == 'StreamMovedTo' and e['data']['surgery'] == surgery
                 for e in lines)]
    should, since = {}, {}
    for lines in moved:
        end = max(i for i, e in enumerate(lines) if is_mark(e) and e['type'] == 'StreamMovedTo' and
                  e['data']['surgery'] == surgery)
        for target in lines[end]['data']['streams']:
            should.setdefault(target, [])
            # In stages: what stands in front of the first one is of a try that had no end.
            since[target] = lines[end]['data'].get('staged', 0)
        for e in lines[:end]:
            for target in [] if is_mark(e) else rule(e):
                should.setdefault(target, []).append(e)
    return {t: (since[t], [copy_of(e) for e in sorted(events, key=lambda e: e['position'])])
            for t, events in should.items()}


def routed_by(lines, surgery):
    """{stream: the streams that it is or was routed to}, by its metadata."""
    found = {}
    for line in lines:
        if line.get('stream', '').startswith('$$') and isinstance(line.get('data'), dict):
            member = line['data'].get('$routed', {})
            if member.get('surgery') == surgery:
                found[line['stream'][2:]] = member['to']
    return found


def link_of(line):
    """(version, stream) that a link leads to."""
    version, _, stream = line['data'].partition('@')
    return int(version), stream


def begun(lines, surgery):
    """The target from where it was begun for the last time: before that stages may stand that had no
    end; a mark of what was read on names versions behind those of the mark before it."""
    begin, before = 0, None
    for n, e in enumerate(lines):
        if is_mark(e) and e['type'] == 'MigratedFrom' and e['data']['surgery'] == surgery:
            if before is None or e['data']['first'] <= before:
                begin = n
            before = e['data']['last']
    return lines[begin:]


def check_routed(streams, stream, targets, rule, surgery):
    """The same for a stream whose old name goes on, or went on up to its end."""
    should, copies, wrong, end = {t: [] for t in targets}, 0, [], None
    for e in streams[stream]:
        if is_mark(e):
            end = e['position']
            break
        if e['type'] == '$>':
            version, target = link_of(e)
            should.setdefault(target, []).append((version, None))
            continue
        for target in rule(e):
            should.setdefault(target, []).append((None, copy_of(e)))
            copies += 1
    for target, wants in should.items():
        there = [e for e in begun(streams.get(target, []), surgery)
                 if not is_mark(e) and (end is None or e['position'] < end)]
        if len(there) != len(wants):
            wrong.append(f'{target}: has {len(there)} events, {stream} says {len(wants)}')
        for got, (version, copy) in zip(there, wants):
            if copy is None and (got['version'] != version or '$copiedFrom' in (got.get('metadata') or {})):
                wrong.append(f'{target}, {got["version"]}: {stream} has a link to {version} here')
            for key, value in (copy or {}).items():
                if got.get(key) != value:
                    wrong.append(f'{target}, {got["version"]}: {key} is {got.get(key)}, should be {value}')
                    break
    return wrong, copies


def check(lines, surgery, rule):
    """The differences, as texts; and how many copies there are."""
    streams = streams_of(lines)
    wrong, copies = [], 0
    routed = routed_by(lines, surgery)
    for stream, targets in routed.items():
        more, count = check_routed(streams, stream, targets, rule, surgery)
        wrong += more
        copies += count
    for target, (since, should) in targets_of(streams, surgery, rule, routed).items():
        lines = [e for e in streams.get(target, []) if e['position'] >= since]
        begin = next((i for i, e in enumerate(lines) if is_mark(e) and e['type'] == 'MigratedFrom' and
                      e['data']['surgery'] == surgery), None)
        if begin is None:
            wrong.append(f'{target}: has no MigratedFrom of {surgery}')
            continue
        while begin < len(lines) and is_mark(lines[begin]):
            begin += 1
        # In stages, what was read later has marks of its own.
        there = [e for e in lines[begin:] if not (is_mark(e) and e['data']['surgery'] == surgery)]
        there = there[:len(should)]
        for n, want in enumerate(should):
            got = there[n] if n < len(there) else {}
            for key, value in want.items():
                if got.get(key) != value:
                    wrong.append(f'{target}, copy {n}: {key} is {got.get(key)}, should be {value}')
                    break
            if got and list(got.get('metadata') or {'': 0})[-1] != '$copiedFrom':
                wrong.append(f'{target}, copy {n}: $copiedFrom is not the last member')
        copies += len(should)
    return wrong, copies


def main():
    """usage: surgery_check.py SURGERY FALLBACK [TYPE=TARGET…] < EXPORT; {key} in targets."""
    rules = dict(word.split('=', 1) for word in sys.argv[3:])

    def rule(e):
        return [rules.get(e['type'], sys.argv[2]).replace('{key}', e['stream'].split('-', 1)[-1])]

    wrong, copies = check([json.loads(line) for line in sys.stdin], sys.argv[1], rule)
    for text in wrong[:20]:
        print(text)
    print(f'{copies} copies, {len(wrong)} wrong')
    return 1 if wrong or copies == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
