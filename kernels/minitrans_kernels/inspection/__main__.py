"""Compiles every kernel for every architecture without a GPU: python -m minitrans_kernels.inspection."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import triton

from minitrans_kernels.availability import interpreting
from minitrans_kernels.inspection.cases import documented, every_case
from minitrans_kernels.inspection.survey import launches, survey
from minitrans_kernels.inspection.table import table, write
from minitrans_kernels.runtime import ARCHITECTURES


def main() -> int:
    """Prints the faults as they turn up, then the table; 1 where there are faults."""
    parser = argparse.ArgumentParser(prog="python -m minitrans_kernels.inspection", description=__doc__)
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this in it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--faults-only", action="store_true", help="print the faults and not the table")
    parser.add_argument("--write-table", metavar="README", type=Path, help="put the documented rows in this file")
    chosen = parser.parse_args()
    if interpreting():
        parser.error("TRITON_INTERPRET=1 leaves nothing to compile: unset it")

    work = launches((case for case in every_case() if chosen.only in case[0]), chosen.architectures)
    print(f"triton {triton.__version__}: {len(work)} binaries", flush=True)
    findings = []
    for finding in survey(work, chosen.processes):
        findings.append(finding)
        if finding.faults:
            head = f"{finding.launch.architecture} {finding.launch.name} {finding.launch.tile} ({finding.case})"
            print(f"{head}: {'; '.join(finding.faults)}", flush=True)
    if not chosen.faults_only:
        print(table(findings, tuple(chosen.architectures)))
    faulty = sum(bool(finding.faults) for finding in findings)
    print(f"triton {triton.__version__}: {faulty} of {len(work)} binaries have a fault")
    if chosen.write_table:
        write(table(filter(documented, findings), tuple(chosen.architectures)), chosen.write_table)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
