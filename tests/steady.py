"""Run tests; what fails is run once more, by itself, so that a machine's bad moment is told from a broken change.

    python -m tests.steady [options and paths of pytest]

A test that passes the second time is unsteady. That is a bug too, and is said so that nobody overlooks it; it does not
keep a change away that has nothing to do with it. When more than a few tests fail, nothing is tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOST = 3


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments; return its exit code, or that of the second try."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={folder}", *arguments]
        code = subprocess.run(command, check=False).returncode
        if code != 1:  # they passed, or could not be run
            return code
        failed = sorted(json.loads(Path(folder, "v/cache/lastfailed").read_bytes()))
        if len(failed) > MOST:
            return code
        print(f"== once more, by themselves: {', '.join(failed)}", flush=True)
        code = subprocess.run([*command, "--last-failed", "--last-failed-no-failures=none"], check=False).returncode
    if code == 0:
        stars = "*" * 100
        told = "\n".join(f"  {one}" for one in failed)
        print(f"{stars}\n  UNSTEADY: failed, then passed. Find out why and mend it.\n{told}\n{stars}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
