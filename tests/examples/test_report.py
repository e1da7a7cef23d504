from pathlib import Path

import pytest
import torch
from papers.claims import CLAIMS, Finding, check
from papers.report import draw_overview, draw_run, write_report
from papers.runs import Run

from tests.examples.runs import decay, run_of, spindle


def made_up_runs() -> list[Run]:
    times = torch.linspace(0.5, 4, 8)[:, None]
    training, test = [1 / (1 + time) for time in range(8)], [1.0, 0.8, 0.6, 0.5, 0.6, 0.7, 0.8, 0.9]
    phases = [1, 1, 1, 2, 2, 3, 3, 3]
    return [
        run_of(
            times * decay(), times.square() * spindle(), training, test, training, phases=phases, random_labels=random_labels
        )
        for random_labels in (False, True)
    ]


@pytest.mark.slow
def test_the_report_names_every_claim_with_its_outcomes(tmp_path: Path) -> None:
    runs = made_up_runs()
    findings: list[Finding] = [found for run in runs for claim in CLAIMS if (found := check(claim, run)) is not None]
    draw_overview(runs, findings, tmp_path / "papers.png")
    draw_run(runs[0], tmp_path / "figures")
    write_report(runs, findings, tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for claim in CLAIMS:
        assert f"**{claim.label}**: {claim.sentence}" in text
        rows = [line for line in text.splitlines() if line.startswith(f"| {claim.label} ")]
        assert len(rows) == sum(finding.claim is claim for finding in findings)
    assert "1 with random labels" in text
    drawn = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    of_run = {f"figures/{runs[0].setting.file_name}/{name}.png" for name in ("phases", "orders", "shape", "theory")}
    assert drawn == {"papers.png", *of_run}
    assert all(f"({path})" in text for path in of_run)
