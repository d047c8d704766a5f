"""What the lints share: which files there are, comments blanked out, and the report."""
import os
import re
import subprocess
import sys

SKIPPED = re.compile(r'(^|/)(build[^/]*|\.git|__pycache__)(/|$)')


def files(root, tops=('',)):
    """Paths below root, relative: what git tracks or would add, else what lies there."""
    # Inside a hook these name the repository that commits, not the tree asked for.
    env = {k: v for k, v in os.environ.items() if k not in ('GIT_DIR', 'GIT_INDEX_FILE')}
    git = subprocess.run(['git', '-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others',
                          '--exclude-standard', '--', *[t or '.' for t in tops]],
                         cwd=root, env=env, capture_output=True, text=True)
    if git.returncode == 0:
        found = set(git.stdout.split('\0')) - {''}
    else:
        found = {os.path.relpath(os.path.join(folder, name), root)
                 for top in tops for folder, _, names in os.walk(os.path.join(root, top))
                 for name in names}
    return sorted(p for p in found
                  if not SKIPPED.search(p) and os.path.isfile(os.path.join(root, p)))


def c_files(root, tops=('src', 'include', 'sim', 'tests', 'bench', 'examples', 'tools')):
    return [p for p in files(root, tops) if p.endswith(('.c', '.h'))]


def read(root, path):
    with open(os.path.join(root, path), encoding='utf-8', errors='replace') as f:
        return f.read()


def without_comments(text):
    """Comments become blanks and strings stay; line numbers stay true."""
    def blank(match):
        token = match.group(0)
        return token if token[0] in '"\'' else re.sub(r'[^\n]', ' ', token)
    return re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', blank, text,
                  flags=re.S)


def main(name, check):
    """Runs check(root, report); each report is a line, and any makes the status 1."""
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), '../..')
    count = 0

    def report(path, line, text):
        nonlocal count
        count += 1
        print(f'{path}:{line}: {text} [{name}]')
    check(os.path.abspath(root), report)
    return 1 if count else 0
