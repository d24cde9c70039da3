# SPDX-License-Identifier: Apache-2.0
"""What the main job showed: figures, a table and a timeline. Pure functions of a Story."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

WARM_UP_STEPS = 2  # the first steps of a process fill caches; they are in the plot, not in the medians


@dataclass
class Story:
    """The four runs: per rank, the events that train.py logged. Times are of the wall clock, in seconds."""

    cluster: str
    steps: int
    seed: int
    killed_at: float
    detect_ms: float
    resumed_at: float
    lost_server: str
    power_cut_at: float
    up_ms: float  # from the power cut until the cluster was up again
    homes: list[str]  # by rank: the server before and after
    new_homes: list[str]
    whole: list[list[dict]]
    cut: list[list[dict]]
    resumed: list[list[dict]]
    returned: list[list[dict]]


def only(events: list[dict], kind: str) -> list[dict]:
    return [e for e in events if e["event"] == kind]


def losses(events: list[dict]) -> dict[int, str]:
    return {e["step"]: e["loss"] for e in only(events, "step")}


def measure(story: Story) -> dict:
    """The content of quickstart.json. ``bit_equal`` is the verdict."""
    restored = [only(events, "restored")[0] for events in story.resumed]
    slowest = max(restored, key=lambda e: e["ms"])
    step = slowest["step"]
    first_new = [only(events, "step")[0]["at"] for events in story.resumed]
    saved = [e for events in story.cut for e in only(events, "step")[WARM_UP_STEPS:]]
    trained = max(e["step"] for events in story.cut for e in only(events, "save"))
    commits = [ms for events in story.returned for e in only(events, "saves") for ms in e["commit_ms"] if ms]
    power = measure_power_cut(story)
    last = max(losses(story.resumed[0]))
    equal = is_bit_equal(story.whole, story.resumed, [e["step"] for e in restored], last)
    return {
        "bit_equal": equal and power["bit_equal"],
        "bit_equal_after_host": equal,
        "compared_steps": last - step,
        "power_cut": power,
        "steps": story.steps,
        "killed_in_save_of_step": trained,
        "save_was_unfinished": story.cut[0][-1]["event"] == "save",
        "restored_step": step,
        "steps_lost": trained - step,
        "restore_ms": slowest["ms"],
        "restore_phases_ms": {**slowest["phases"], "torch": slowest["ms"] - sum(slowest["phases"].values())},
        "restored_from": {key: sum(e["sources"].get(key, 0) for e in restored) for key in slowest["sources"]},
        "restored_on": story.new_homes,
        "lost_server": story.lost_server,
        "detect_ms": story.detect_ms,
        "kill_to_first_new_step_ms": (max(first_new) - story.killed_at) * 1e3,
        "blocked_ms_per_step": _median(e["blocked_ms"] for e in saved),
        "commit_ms": _median(commits),
        "step_ms_with": _median(e["ms"] for e in saved),
        "step_ms_without": _median(e["ms"] for r in story.whole for e in only(r, "step")[WARM_UP_STEPS:]),
        "state_bytes": sum(only(events, "step")[-1]["shard_bytes"] for events in story.resumed),
        "parameters": only(story.whole[0], "done")[0]["parameters"],
        "cluster": story.cluster,
        "seed": story.seed,
        "ranks": len(story.whole),
    }


def measure_power_cut(story: Story) -> dict:
    """The last scene: everything was killed, and the job went on from disk."""
    restored = [only(events, "restored")[0] for events in story.returned]
    slowest = max(restored, key=lambda e: e["ms"])
    killed_in = max(e["step"] for events in story.resumed for e in only(events, "save"))
    first_new = [only(events, "step")[0]["at"] for events in story.returned]
    return {
        "bit_equal": is_bit_equal(story.whole, story.returned, [e["step"] for e in restored], story.steps),
        "compared_steps": story.steps - slowest["step"],
        "killed_in_save_of_step": killed_in,
        "restored_step": slowest["step"],
        "restore_ms": slowest["ms"],
        "lost_in_memory": slowest["lost"],
        "up_ms": story.up_ms,
        "kill_to_first_new_step_ms": (max(first_new) - story.power_cut_at) * 1e3,
    }


def _median(values) -> float:
    values = list(values)
    return median(values) if values else 0.0


def is_bit_equal(whole: list, run: list, restored_steps: list[int], last: int) -> bool:
    """Did every rank start from one step, and go on to ``last`` with exactly the losses of the ``whole`` run?

    A rank that was killed may have logged a step less or more than rank 0.
    """
    first = restored_steps[0]
    if set(restored_steps) != {first} or not 0 < first < last:
        return False
    expected = losses(whole[0])
    wanted = {step: expected.get(step) for step in range(first + 1, last + 1)}
    if None in wanted.values() or losses(run[0]) != wanted:
        return False
    cut = bool(only(whole[0], "done")) and not only(run[0], "done")
    return all(_agrees(losses(events), wanted, expected, cut) for events in run)


def _agrees(got: dict, wanted: dict, expected: dict, cut: bool) -> bool:
    if not cut:
        return got == wanted
    return len(got) >= len(wanted) - 1 and all(expected.get(step) == loss for step, loss in got.items())


def table(facts: dict) -> str:
    """The figures for a person."""
    phases = ", ".join(f"{name} {ms:.0f} ms" for name, ms in facts["restore_phases_ms"].items())
    sources = ", ".join(f"{_mib(count)} {name.removesuffix('_bytes')}"
                        for name, count in facts["restored_from"].items())
    state = f"{facts['parameters'] / 1e6:.2f} M, {_mib(facts['state_bytes'])} over {facts['ranks']} ranks"
    blocked = f"{facts['blocked_ms_per_step']:.1f} ms a step; committed after {facts['commit_ms']:.0f} ms (medians)"
    killed = f"{facts['lost_server']}, rank 0 and rank 1, in the save of step {facts['killed_in_save_of_step']}"
    homes = ", ".join(facts["restored_on"])
    verdict = "BIT-EQUAL to" if facts["bit_equal_after_host"] else "DIFFERENT from"
    power = facts["power_cut"]
    again = "BIT-EQUAL to" if power["bit_equal"] else "DIFFERENT from"
    rows = [
        ("parameters, state", state),
        ("steps", f"{facts['steps']}, one snapshot each"),
        ("a step without snapshots", f"{facts['step_ms_without']:.0f} ms (median)"),
        ("a step with snapshots", f"{facts['step_ms_with']:.0f} ms (median)"),
        ("blocked in save()", blocked),
        ("killed", killed),
        ("server's death detected", f"after {facts['detect_ms']:.0f} ms"),
        ("restored", f"step {facts['restored_step']} on {homes}: {facts['steps_lost']} step(s) to do again"),
        ("restore", f"{facts['restore_ms']:.0f} ms ({phases})"),
        ("bytes came from", sources or "not reported"),
        ("kill to first new step", f"{facts['kill_to_first_new_step_ms'] / 1e3:.1f} s, with the start of Python and torch"),
        ("losses after it", f"{facts['compared_steps']} steps {verdict} the uninterrupted run"),
        ("killed", f"everything, in the save of step {power['killed_in_save_of_step']}; up again after "
                   f"{power['up_ms'] / 1e3:.1f} s"),
        ("restored from disk", f"step {power['restored_step']} in {power['restore_ms']:.0f} ms"),
        ("kill to first new step", f"{power['kill_to_first_new_step_ms'] / 1e3:.1f} s"),
        ("losses after it", f"{power['compared_steps']} steps {again} the uninterrupted run"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def plot(story: Story, facts: dict, path: Path) -> None:
    """The timeline: what each rank did before and after the kill, and the losses of both runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (time_axis, loss_axis) = pyplot.subplots(2, 1, figsize=(11, 6.5), height_ratios=(3, 4))
    _plot_time(time_axis, story, facts)
    _plot_losses(loss_axis, story, facts)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _plot_time(axis, story: Story, facts: dict) -> None:
    zero = min(only(events, "restored")[0]["at"] for events in story.cut)
    kills = (story.killed_at - zero, story.power_cut_at - zero)
    for rank in range(len(story.cut)):
        _plot_steps(axis, rank, [run[rank] for run in (story.cut, story.resumed, story.returned)], zero)
        for run, killed in zip((story.cut, story.resumed), kills):
            last = only(run[rank], "step")[-1]["at"] - zero
            axis.barh(rank, killed - last, left=last, height=0.5, color="#f2d0d0", edgecolor="#c03030", hatch="///",
                      linewidth=0.4, label="cut step" if rank == 0 and run is story.cut else None)
    axis.axvline(kills[0], color="#c03030", label=f"kill -9 of {story.lost_server} and both ranks")
    axis.axvline(kills[1], color="#701010", linewidth=2, label="kill -9 of everything")
    axis.axvspan(kills[0], kills[0] + story.detect_ms / 1e3, color="#c03030", alpha=0.25,
                 label=f"detection, {story.detect_ms:.0f} ms")
    axis.axvspan(kills[1], kills[1] + story.up_ms / 1e3, color="#701010", alpha=0.25,
                 label=f"cluster up again, {story.up_ms / 1e3:.1f} s")
    axis.set_yticks(range(len(story.cut)), [f"rank {rank}\n{old} → {new}" if old != new else f"rank {rank}\n{new}"
                                            for rank, (old, new) in enumerate(zip(story.homes, story.new_homes))])
    axis.set_ylim(-0.6, len(story.cut) + 0.4)
    axis.set_xlim(left=-0.5)
    axis.set_xlabel("seconds since training with snapshots began; gaps: Python and torch start")
    axis.set_title(f"Host lost in the save of step {facts['killed_in_save_of_step']}: step {facts['restored_step']} from "
                   f"memory. Power cut in {facts['power_cut']['killed_in_save_of_step']}: step "
                   f"{facts['power_cut']['restored_step']} from disk")
    axis.legend(ncols=4, fontsize=8, loc="upper center")


def _plot_steps(axis, rank: int, runs: list[list[dict]], zero: float) -> None:
    steps = [e for events in runs for e in only(events, "step")]
    ends = [e["at"] - zero for e in steps]
    blocked = [e["blocked_ms"] / 1e3 for e in steps]
    rest = [e["ms"] / 1e3 - b for e, b in zip(steps, blocked)]
    axis.barh([rank] * len(steps), rest, left=[t - b - r for t, b, r in zip(ends, blocked, rest)], height=0.5,
              color="#4878a8", edgecolor="white", linewidth=0.4, label="training" if rank == 0 else None)
    axis.barh([rank] * len(steps), blocked, left=[t - b for t, b in zip(ends, blocked)], height=0.5,
              color="#e08a2c", label="blocked in save()" if rank == 0 else None)
    for events in runs[1:]:
        back = only(events, "restored")[0]
        axis.barh(rank, back["ms"] / 1e3, left=back["at"] - zero - back["ms"] / 1e3, height=0.5, color="#3d9a5f",
                  label="restore" if rank == 0 and events is runs[1] else None)


def _plot_losses(axis, story: Story, facts: dict) -> None:
    for events, style, label in ((story.whole[0], {"color": "#bbbbbb", "linewidth": 5}, "uninterrupted"),
                                 (story.cut[0], {"color": "#4878a8"}, "before the kill"),
                                 (story.resumed[0], {"color": "#3d9a5f"}, "from peers' memory"),
                                 (story.returned[0], {"color": "#8a4fa0"}, "from disk")):
        points = losses(events)
        axis.plot(list(points), [float.fromhex(v) for v in points.values()], label=label, **style)
    axis.axvline(facts["killed_in_save_of_step"], color="#c03030", label="killed in the save of this step")
    axis.axvline(facts["restored_step"], color="#3d9a5f", linestyle=":", label="restored from memory")
    axis.axvline(facts["power_cut"]["killed_in_save_of_step"], color="#701010", label="power cut in the save of this step")
    axis.axvline(facts["power_cut"]["restored_step"], color="#8a4fa0", linestyle=":", label="restored from disk")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    compared = facts["compared_steps"] + facts["power_cut"]["compared_steps"]
    axis.set_title(f"{compared} losses after the two restores: " + (
        "equal in every bit" if facts["bit_equal"] else "NOT equal"))
    axis.legend(fontsize=8)
