"""The leaderboard as a table in Markdown, and as a picture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from rgen.choices import BoardData, BoardEntry
from rgen.host import plots
from rgen.leaderboard.cells import Cell, Row
from rgen.leaderboard.entries import DATA, ENTRIES

COLOURS = dict(zip(ENTRIES, (plots.PALE, "#5aa9c9", plots.ACCENT, "#e9a15b", "#4f9d69", plots.INK)))

Group = Mapping[tuple[BoardData, BoardEntry, float], list[Row]]


def grouped(rows: Iterable[Row]) -> Group:
    """The seeds of each (data set, entry, minutes)."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.data, row.entry, row.minutes].append(row)
    return groups


def markdown(rows: list[Row], failed: Mapping[Cell, str] | None = None) -> str:
    """A row for each data set and network, a column for each number of minutes: test score, and outer steps in brackets.

    Several seeds are shown as mean and range. Bold: the least of its data set and minutes, where there are several.
    """
    groups, minutes = grouped(rows), sorted({row.minutes for row in rows})
    titles = "".join(f" {number:g} minute{'s' * (number != 1)} |" for number in minutes)
    lines = [f"| data | network | parameters |{titles}", "|---|---|---|" + "---|" * len(minutes)]
    for data, about in DATA.items():
        first = f"{about.title}: {about.unit}"
        for entry, title in ENTRIES.items():
            mine = [row for row in rows if (row.data, row.entry) == (data, entry)]
            if not mine:
                continue
            cells = "".join(f" {_cell(groups, data, entry, number)} |" for number in minutes)
            lines.append(f"| {first} | {title} | {mine[0].parameters / 1000:,.0f} K |{cells}")
            first = ""
    notes = [f"*{machine}.*" for machine in sorted({row.machine for row in rows})]
    notes += [f"{cell}: failed. {sentence}" for cell, sentence in (failed or {}).items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def _cell(groups: Group, data: BoardData, entry: BoardEntry, minutes: float) -> str:
    mine = groups.get((data, entry, minutes))
    if not mine:
        return ""
    scores, digits = [row.score for row in mine], 2 if DATA[data].key == "nats_per_sequence" else 3
    means = [_mean(seeds) for (d, _, m), seeds in groups.items() if (d, m) == (data, minutes)]
    shown = f"{np.mean(scores):.{digits}f}"
    shown = f"**{shown}**" if len(means) > 1 and _mean(mine) == min(means) else shown
    if len(scores) > 1:
        shown += f" ({min(scores):.{digits}f}–{max(scores):.{digits}f})"
    return f"{shown} ({np.mean([row.steps for row in mine]):,.0f} steps)"


def _mean(rows: list[Row]) -> float:
    return float(np.mean([row.score for row in rows]))


def picture(rows: list[Row]) -> bytes:
    """Test score against minutes, as PNG: a panel for each data set, a line for each network through the means of its seeds."""
    groups, minutes = grouped(rows), sorted({row.minutes for row in rows})
    names: list[BoardData] = [data for data in DATA if any(row.data == data for row in rows)]
    figure, panels = plots.subplots(1, len(names), figsize=(3.2 * len(names) + 2.6, 3.6), squeeze=False)
    for panel, data in zip(panels[0], names):
        for entry, title in ENTRIES.items():
            points = [(number, groups[data, entry, number]) for number in minutes if (data, entry, number) in groups]
            if points:
                at, means = zip(*((number, _mean(seeds)) for number, seeds in points))
                panel.plot(at, means, "o-", ms=4, color=COLOURS[entry], label=title)
                for number, seeds in points:
                    scores = [row.score for row in seeds]
                    panel.plot([number, number], [min(scores), max(scores)], color=COLOURS[entry], lw=4, alpha=0.3)
        panel.set(xscale="log", yscale="log", title=DATA[data].title, xlabel="minutes of training", ylabel=DATA[data].unit)
        panel.set_xticks(minutes, [f"{number:g}" for number in minutes])
        panel.xaxis.set_minor_formatter("")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:.3g}")
    lines = {label: line for panel in panels[0] for line, label in zip(*panel.get_legend_handles_labels())}
    panels[0][-1].legend(lines.values(), lines.keys(), frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return plots.finish(figure)
