"""The checklist's look at the age of backups notices one that is late, one that never was, and a proof that is too old."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def look():
    spec = importlib.util.spec_from_file_location("verify_backups", ROOT / "roles/verify/library/verify_backups.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(place: Path, **ages: float) -> Path:
    """Metrics as the jobs write them: `node`: a backup so many seconds old; `node_restore`: a proof of one."""
    for name, age in ages.items():
        node, _, proof = name.partition("_")
        labels = f'host="a",node="{node}"' if proof else f'node="{node}"'
        metric = "holdfast_backup_verified_restore_last_success" if proof else "holdfast_backup_last_success"
        text = f"# TYPE {metric}_timestamp_seconds gauge\n{metric}_timestamp_seconds{{{labels}}} {NOW - age:.0f}\n"
        (place / f"holdfast_backup_{name}.prom").write_text(text)
    return place


@pytest.mark.parametrize(
    ("ages", "passed", "said"),
    [
        ({"n1": 60, "n2": 600}, True, "n1 1 min ago, n2 10 min ago"),
        ({"n1": 60, "n2": 901}, False, "n2 15 min ago"),
        ({"n1": 60}, False, "n2 never"),
        ({}, False, "n1 never, n2 never"),
    ],
)
def test_age_of_backups(look, tmp_path, ages, passed, said):
    item = look.backups(look.samples(written(tmp_path, **ages)), ["n1", "n2"], NOW)
    assert (item["passed"], item["evidence"]) == (passed, said)


@pytest.mark.parametrize(
    ("ages", "passed", "said"),
    [
        ({"n1_restore": 7 * 86400, "n2_restore": 3600}, True, "7.0 days ago"),
        ({"n1_restore": 9 * 86400, "n2_restore": 3600}, False, 'host="a",node="n1": 9.0 days ago'),
        ({"n1": 60}, False, "no restore was ever proven"),
    ],
)
def test_age_of_proofs(look, tmp_path, ages, passed, said):
    item = look.restores(look.samples(written(tmp_path, **ages)), NOW)
    assert item["passed"] == passed and said in item["evidence"]
