"""Of damaged and edited files only the project's own errors come, and one of them does not end a report."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fuzz import fuzz
from fuzz_kinds import KINDS, Seed, make_runs
from stagetune.report.commands import show_best, show_report

CASES = 100  # of each kind; python -m tests.fuzz tries as many as are wanted


@pytest.fixture(scope="session")
def runs() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        make_runs(Path(folder))
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_only_our_own_errors_come_of_a_damaged_file(kind: str, runs: Path) -> None:
    report = fuzz(kind, CASES, runs)
    assert not report.wrong, (report.wrong, report.messages)
    assert report.counts["tried"] == CASES
    assert report.counts["accepted"] < CASES or kind in ("result", "metrics", "predictions", "sweep", "config")


@pytest.fixture
def sweep(runs: Path) -> Seed:
    (seed,) = KINDS["result"].seeds(runs)
    return seed


def report_of(seed: Seed, folder: Path, capsys: pytest.CaptureFixture[str], **changed: bytes) -> str:
    """What the report of a sweep prints of which one run was changed."""
    for name, content in seed.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed.get(path.stem, content) if "wd-0.1/seed-1" in name else content)
    show_report(folder, [])
    show_best(folder)
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("result.json", b'"units":', b'"unit":', "result.json is damaged (classification.units: is missing)"),
        ("result.json", b'"recall":', b'"recall": "x", "r":', "classes[0].recall: expects a number, got 'x'"),
        ("result.json", b'"stages": [', b'"stages": [5, ', "damaged (stages[0]: expects keys and values, got 5"),
        ("result.json", b'"value":', b'"value": NaN, "v":', "is no finite number"),
        ("result.json", b"{", b"", "result.json is not readable JSON"),
        ("metrics.csv", b"epoch", b"epoc", "metrics.csv is damaged (it has no column epoch)"),
        ("metrics.csv", b"\r\n", b",x\r\n0\r\n", "metrics.csv is damaged (row 2 has another length than the first)"),
        ("predictions.csv", b"split", b"spli", "predictions.csv is damaged (it has no column split)"),
        ("config.yaml", b"task:", b"task: [", "config.yaml cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_a_sweep_is_listed_and_the_rest_reported(
    file: str, before: bytes, after: bytes, said: str, sweep: Seed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = sweep.files[f"wd-0.1/seed-1/{file}"]
    assert before in content
    changed = {Path(file).stem: content.replace(before, after, 1)}
    printed = report_of(sweep, tmp_path, capsys, **changed)
    assert f"Results that cannot be read: {tmp_path}/wd-0.1/seed-1/" in printed
    assert said in printed
    assert "Best on validation: optimizer.weight_decay=0.1" in printed
