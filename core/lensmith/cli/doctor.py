"""`lensmith doctor`: whether this installation and machine are what was tested."""

from __future__ import annotations

from dataclasses import asdict

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json


def doctor(as_json: JsonOption = False) -> None:
    """Look at versions, hardware, disk, plugins and what Lensmith needs of other libraries; paste it into a bug report.

    Exit code 1 where something will not work (FAILED); warnings and notes leave it 0.
    """
    from lensmith.doctor import Finding, examine

    findings: list[Finding] = []
    section = ""
    for finding in examine():
        findings.append(finding)
        if as_json:
            continue
        if finding.section != section:
            section = finding.section
            print(("\n" if len(findings) > 1 else "") + section)
        print(f"  {finding.state.ljust(7)}  {finding.name}: {finding.value}".rstrip(), flush=True)
        if finding.cure:
            print(f"           {finding.cure}")
    failed = sum(finding.state == "FAILED" for finding in findings)
    warned = sum(finding.state == "warning" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        print(f"\n{failed} failed, {warned} warnings" if failed or warned else "\neverything is as it was tested")
    raise typer.Exit(1 if failed else 0)
