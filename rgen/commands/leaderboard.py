"""`rgen leaderboard`: networks compared after equal minutes of training."""

import json
from dataclasses import asdict

from rgen.config import LeaderboardConfig
from rgen.errors import InputError
from rgen.host.files import check_results, is_foreign, write
from rgen.leaderboard import table
from rgen.leaderboard.cells import Row, Runner, chosen, finished


def main(config: LeaderboardConfig) -> None:
    """`rgen leaderboard`."""
    runner, files = Runner(config), [config.out / f"leaderboard.{kind}" for kind in ("md", "json", "png")]
    runner.check(cells := chosen(config))
    config.out.mkdir(parents=True, exist_ok=True)
    check_results([("--out", file) for file in files], config.overwrite)

    def publish() -> list[Row]:
        if rows := finished(config.out):
            numbers = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
            for file, content in zip(files, (table.markdown(rows, runner.failed).encode(), numbers.encode(), table.picture(rows))):
                if config.overwrite or not is_foreign(file):
                    write(file, content, config.overwrite)
        return rows

    runner.run(cells, publish)
    rows = publish()
    if not rows:
        raise InputError(f"No run of the leaderboard was finished. {next(iter(runner.failed.values()), '')}")
    print(f"{table.markdown(rows, runner.failed)}\n{', '.join(map(str, files))}")
    check_results([("--out", file) for file in files], config.overwrite)  # one that the user changed meanwhile is as the user left it
    if runner.failed:
        raise InputError(f"{len(runner.failed)} of {len(cells)} runs failed; why stands below the table.")
