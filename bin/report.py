#!/usr/bin/env python
"""Compare runs on one HTML page: bin/report.py --run runs/a runs/b --out report.html."""

import tyro

from rgen import cli
from rgen.config import ReportConfig

if __name__ == "__main__":
    cli.main(lambda: tyro.cli(ReportConfig), "rgen.page", "main")
