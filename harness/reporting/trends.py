# SPDX-License-Identifier: Apache-2.0
"""Past runs → how instructions, rates, costs and boot time went, as plots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from harness.reporting.charts import Chart, keys, line_chart
from harness.reporting.past import Past
from harness.reporting.words import number

_RUNS_MAX: Final = 40  # the last ones are drawn
_KERNELS_MAX: Final = 6  # a line for each; more are told by lowest, median and highest


def trends(past: Sequence[Past]) -> list[Chart]:
    """A plot for each quantity that two runs or more have, oldest run on the left."""
    runs = sorted(past, key=lambda run: run.started)[-_RUNS_MAX:]
    quantities = dict.fromkeys(name for run in runs for name in run.quantities)
    found = [_trend(name, [run for run in runs if run.quantities.get(name)]) for name in quantities]
    return [chart for chart in found if chart is not None]


def _trend(name: str, runs: Sequence[Past]) -> Chart | None:
    if len(runs) < 2:
        return None
    values = [run.quantities[name] for run in runs]
    kernels = list(dict.fromkeys(kernel for one in values for kernel in one))
    lines: dict[str, list[float | None]]
    if len(kernels) <= _KERNELS_MAX:
        lines = {kernel: [one.get(kernel) for one in values] for kernel in kernels}
    else:
        lines = {
            "highest": [max(one.values()) for one in values],
            "median": [statistics.median(one.values()) for one in values],
            "lowest": [min(one.values()) for one in values],
        }
    labels = [run.started[5:16].replace("T", " ") for run in runs]
    over = "of each kernel" if len(kernels) <= _KERNELS_MAX else f"over {len(kernels)} kernels"
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    return Chart(
        id=f"trend-{slug}", title=f"Past runs: {name}",
        caption=f"{over.capitalize()}, in the last {len(runs)} runs of this subject on this kind "
        "of accelerator.",
        keys=keys(list(lines), limits=()),
        drawings=(line_chart(labels, lines),),
        headers=("run", "commit", *lines),
        rows=tuple(
            (
                run.started, run.commit or "–",
                *("–" if (value := line[at]) is None else number(value) for line in lines.values()),
            )
            for at, run in enumerate(runs)
        ),
    )  # fmt: skip
