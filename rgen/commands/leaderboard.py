"""bin/leaderboard.py: networks compared after equal minutes of training."""

import json
from dataclasses import asdict

from rgen.config import LeaderboardConfig
from rgen.errors import InputError
from rgen.host.files import check_results, write
from rgen.host.signals import interruptible
from rgen.leaderboard import table
from rgen.leaderboard.cells import Runner, chosen, finished


def main(config: LeaderboardConfig) -> None:
    """bin/leaderboard.py."""
    runner, files = Runner(config), {kind: config.out / f"leaderboard.{kind}" for kind in ("md", "json", "png")}
    runner.check(cells := chosen(config))
    config.out.mkdir(parents=True, exist_ok=True)
    check_results([("--out", file) for file in files.values()], config.overwrite)
    try:
        with interruptible():
            runner.run(cells)
    finally:
        if rows := finished(config.out):
            write(files["md"], table.markdown(rows, runner.failed).encode(), config.overwrite)
            write(files["json"], (json.dumps([asdict(row) for row in rows], indent=2) + "\n").encode(), config.overwrite)
            write(files["png"], table.picture(rows), config.overwrite)
    if not rows:
        raise InputError(f"No run of the leaderboard was finished. {next(iter(runner.failed.values()), '')}")
    print(f"{files['md'].read_text()}\n{', '.join(map(str, files.values()))}")
