#!/usr/bin/env python
"""Compare runs on one HTML page: bin/report.py --run runs/a runs/b --out report.html."""

from rgen.commands import run

if __name__ == "__main__":
    run("report")
