"""The pages that people read, taken apart, and what is in them run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
TESTS: Final = ROOT / "tests" / "README.md"
SCRIPTS: Final = ROOT / "scripts" / "README.md"
DEPLOY: Final = ROOT / "scripts" / "deploy" / "README.md"
GATEWAY: Final = ROOT / "scripts" / "gateway" / "README.md"
CONTRIBUTING: Final = ROOT / ".github" / "CONTRIBUTING.md"
PAGES: Final = [README, TESTS, SCRIPTS, DEPLOY, GATEWAY, CONTRIBUTING]


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, what stands in it, and in which section."""

    section: str
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    found, section = [], ""
    pattern = r"^## ([^\n]*)|^```(\w*)\n(.*?)^```$"
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        if match[3] is None:
            section = match[1]
        else:
            found.append(Block(section, match[2], match[3]))
    return found


def block(section: str, kind: str, number: int = 0, page: Path = README) -> str:
    return [b.text for b in blocks(page) if (b.section, b.kind) == (section, kind)][number]


def table(page: Path, heading: str) -> list[list[str]]:
    """Give the rows of the table whose header begins with a heading."""
    _, _, rest = page.read_text().partition(f"\n| {heading}")
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"{page.name} has no table that begins with {heading}"
    return rows


def quoted(text: str) -> list[str]:
    """Give what stands between backquotes, outside of fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", prose)


def run(*command: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_python(code: str, **more: str) -> str:
    return run("python", "-c", code, code=0, **more).stdout


def run_shell(code: str) -> str:
    """Run a block of commands; the keys and the host that it exports are the test's own."""
    export = 'export() { [[ $1 == LANGFUSE_* ]] || builtin export "$@"; }'
    return run("bash", "-ec", f"{export}\n{code}").stdout


def drain() -> None:
    """Send what a program has left."""
    run("python", "-m", "spool", "drain")
