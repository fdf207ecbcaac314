"""The project speaks of itself only: not of the machines it was made on, nor of work that is left open.

The words stand here in two halves, so that this file does not hold them.
"""

import re
from pathlib import Path

import pytest
from conftest import ROOT, tracked, write

SAMPLES = {  # pattern -> a line on which it must object
    r"\bpypi" + r"\.org|files\.python" + r"hosted": "https://" + "pypi" + ".org/simple",
    r"registry-1" + r"\.|\bhub\.docker" + r"\.com": "registry-1" + ".docker.io",
    r"\b(deb|security)\.debian" + r"\.org": "http://" + "deb" + ".debian.org/debian",
    r"registry\.npm" + r"js": "registry.npm" + "js.org",
    r"galaxy\.ansible" + r"\.com": "https://galaxy.ansible" + ".com",
    r"(?<![\w.}])/wo" + r"rk/": "cd /wo" + "rk/main",
    r"(?<![\w.}])/ro" + r"ot/(?!\.docker)": "/ro" + "ot/x",
    r"(?i)\bissue #?" + r"\d": "see Issue " + "#12",
    r"(?i)\bsession #?" + r"\d": "made in session " + "3",
    r"shared/[A-Z]+\." + r"md": "../shared/DESIGN" + ".md",
    r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b": "# TO" + "DO: later",
    r"^(<{7}|={7}|>{7})( |$)": "<" * 7 + " HEAD",
}
WORDS = [re.compile(pattern, re.M) for pattern in SAMPLES]
LOCKED = re.compile(r"^.*--hash=sha256:.*$", re.M)


def bad_words(root: Path) -> list[str]:
    wrong = []
    for path in tracked(root):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path.name.startswith("requirements") and path.suffix == ".txt":
            text = LOCKED.sub("", text)
        for pattern in WORDS:
            wrong += [f"{path.relative_to(root)}:{text.count(chr(10), 0, m.start()) + 1}: {m[0]}" for m in pattern.finditer(text)]
    return wrong


def test_project():
    assert bad_words(ROOT) == []


def test_the_project_is_looked_at():
    names = {str(path.relative_to(ROOT)) for path in tracked(ROOT)}
    assert {"ansible.cfg", "bin/lab", ".ansible-lint", "tests/policy/test_words.py"} < names
    assert not any(name.startswith((".venv/", ".git/", ".lab/")) for name in names)


@pytest.mark.parametrize("line", SAMPLES.values())
def test_control(line, tmp_path):
    assert bad_words(write(tmp_path, {".gitignore": "", "docs/x.md": f"fine\n{line}\n"})) != []


@pytest.mark.parametrize(
    "line", ["dest: /root/.docker/config.json", "{{ x }}/work/y", "docker.io", "the issue is 3 words", "session token"]
)
def test_what_may_stand(line, tmp_path):
    assert bad_words(write(tmp_path, {".gitignore": "", "x.md": f"{line}\n"})) == []


def test_ignored_files_are_left_alone(tmp_path):
    line = SAMPLES[next(iter(SAMPLES))]
    assert bad_words(write(tmp_path, {".gitignore": ".lab/\napp/.env\n", ".lab/x": line, "app/.env": line})) == []
