"""The package and `make install`: put in place, run as an operator would, taken away again with
nothing left. As root the package is installed into the system where no oxbow is; otherwise it is
unpacked into a folder. usage: package_test.py BUILD"""
import configparser
import glob
import gzip
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cli_test  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(sys.argv.pop(1) if len(sys.argv) > 1 else os.path.join(ROOT, 'build'))
PLACES = ('/etc/oxbow', '/var/lib/oxbow', '/usr/bin/oxbow')


def run(*args, **more):
    done = subprocess.run(args, capture_output=True, check=False, text=True,
                          stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        raise AssertionError(f'{args}: {done.stdout}{done.stderr}')
    return done.stdout


def dpkg(*args):
    """Another dpkg may hold the lock for a while."""
    until = time.monotonic() + cli_test.PATIENCE
    while True:
        try:
            return run('dpkg', *args)
        except AssertionError as e:
            if 'lock' not in str(e) or time.monotonic() > until:
                raise
            time.sleep(0.5)


class Case(cli_test.Case):
    def works(self, binary, *args, env=None):
        """Serves, takes events, gives them, stops; and has them afterwards."""
        cli_test.OXBOW = binary
        self.env.update(env or {})
        with self.server(*args) as (url, _):
            said = self.oxbow('append', 'a-1', '--server', url, stdin=cli_test.event('X', {'n': 1}) * 3)
            self.assertIn('3 events appended', said.out)
            got = self.oxbow('read', 'a-1', '--server', url).lines
            self.assertEqual([x['version'] for x in got], [0, 1, 2])
        self.assertIn('stopped', self.server_log())

    def looks_after_itself(self, root):
        """What stands beside the program, below `root`."""
        man = gzip.decompress(self.bytes_of(root, '/usr/share/man/man1/oxbow.1.gz')).decode()
        help_text = self.oxbow('--help').out
        for name in re.findall(r'^  ([a-z]+(?: [a-z]+)?)\b', help_text, re.M):
            self.assertIn(f'.SS "{name}', man)
        if shutil.which('man'):
            page = run('man', '-l', '--warnings', root + '/usr/share/man/man1/oxbow.1.gz',
                       env={**os.environ, 'MANWIDTH': '100', 'LC_ALL': 'C.UTF-8'})
            self.assertIn('stream truncate STREAM BEFORE', page)
            self.assertIn('--listen HOST:PORT', page)
        run('bash', '-n', root + '/usr/share/bash-completion/completions/oxbow')
        zsh = self.bytes_of(root, '/usr/share/zsh/vendor-completions/_oxbow').decode()
        self.assertTrue(zsh.startswith('#compdef oxbow\n'))
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read_string(self.bytes_of(root, '/usr/lib/systemd/system/oxbow.service').decode())
        self.assertEqual(unit['Service']['ExecStart'], '/usr/bin/oxbow serve -c /etc/oxbow/oxbow.yaml')
        self.assertEqual(unit['Service']['User'], 'oxbow')
        pc = self.bytes_of(root, *glob.glob(root + '/usr/lib/*/pkgconfig/oxbow.pc')).decode()
        self.assertIn('prefix=/usr\n', pc)

    def bytes_of(self, root, path):
        with open(path if path.startswith(root + '/') else root + path, 'rb') as f:
            return f.read()


class Package(Case):
    @classmethod
    def setUpClass(cls):
        cls.deb = max(glob.glob(BUILD + '/oxbow_*.deb'), key=os.path.getmtime)

    def test_installed(self):
        if os.geteuid() != 0 or any(os.path.exists(x) for x in PLACES):
            self.skipTest('not root, or there is an oxbow in this system')
        files = [x for x in dpkg('-c', self.deb).split('\n') if x and not x.startswith('d')]
        paths = [x.split()[5].removeprefix('.') for x in files]
        self.addCleanup(subprocess.run, ['dpkg', '--purge', 'oxbow'], capture_output=True)
        dpkg('-i', self.deb)
        owner = pwd.getpwnam('oxbow')
        self.assertEqual(os.stat('/var/lib/oxbow').st_uid, owner.pw_uid)
        self.assertEqual(os.stat('/var/lib/oxbow').st_mode & 0o777, 0o750)
        self.assertEqual(os.stat('/etc/oxbow/oxbow.yaml').st_gid, owner.pw_gid)
        cli_test.OXBOW = '/usr/bin/oxbow'
        self.looks_after_itself('')
        self.env.pop('OXBOW_DATA')
        os.chmod(self.folder, 0o755)
        starter = self.write('as-oxbow', '#!/bin/sh\nexec setpriv --reuid oxbow --regid oxbow '
                             '--clear-groups /usr/bin/oxbow "$@"\n')
        os.chmod(starter, 0o755)
        self.works(starter, '-c', '/etc/oxbow/oxbow.yaml')
        self.assertTrue(os.listdir('/var/lib/oxbow'))
        dpkg('--remove', 'oxbow')
        self.assertTrue(os.listdir('/var/lib/oxbow'), 'removing takes no data')
        self.assertTrue(os.path.exists('/etc/oxbow/oxbow.yaml'))
        dpkg('--purge', 'oxbow')
        for path in (*paths, *PLACES, '/usr/share/doc/oxbow', '/usr/share/oxbow'):
            self.assertFalse(os.path.lexists(path), path)
        self.assertRaises(KeyError, pwd.getpwnam, 'oxbow')

    def test_unpacked(self):
        root = self.path('root')
        dpkg('-x', self.deb, root)
        cli_test.OXBOW = root + '/usr/bin/oxbow'
        self.looks_after_itself(root)
        self.works(root + '/usr/bin/oxbow', '-c', root + '/etc/oxbow/oxbow.yaml', '--data', self.data)
        version = self.oxbow('--version').out.split()[1]
        said = run('dpkg-deb', '-f', self.deb)
        self.assertIn(f'Version: {version}\n', said)
        self.assertRegex(said, r'Depends: .*libc6 .*libuv1')


class Install(Case):
    def test_installed_and_taken_away(self):
        """`make install` and `make uninstall`, with what Meson notes put back afterwards."""
        notes = BUILD + '/meson-logs/install-log.txt'
        kept = None
        if os.path.exists(notes):
            with open(notes, 'rb') as f:
                kept = f.read()
        root = self.path('root')
        try:
            run('meson', 'install', '-C', BUILD, '--no-rebuild', '--quiet',
                env={**os.environ, 'DESTDIR': root})
            binary = glob.glob(root + '/**/bin/oxbow', recursive=True)
            self.assertEqual(len(binary), 1)
            self.works(binary[0])
            self.assertTrue(glob.glob(root + '/**/man1/oxbow.1', recursive=True))
            self.assertTrue(glob.glob(root + '/**/system/oxbow.service', recursive=True))
            run('make', '-C', ROOT, 'uninstall', 'BUILD=' + BUILD)
            self.assertEqual([x for x in glob.glob(root + '/**/*', recursive=True)
                              if os.path.lexists(x)], [])
        finally:
            if kept is not None:
                with open(notes, 'wb') as f:
                    f.write(kept)
            elif os.path.exists(notes):
                os.unlink(notes)


if __name__ == '__main__':
    unittest.main(verbosity=2)
