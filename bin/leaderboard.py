#!/usr/bin/env python
"""Compare networks after equal minutes of training: bin/leaderboard.py --data digits --minutes 1 5."""

from rgen.commands import run

if __name__ == "__main__":
    run("leaderboard")
