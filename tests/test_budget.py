"""--minutes: the schedule and the end follow the clock, and a run goes on with the seconds it has left."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from rgen import training
from rgen.training import outer_loop
from rgen.training.budget import Budget
from rgen.training.outer_step import SCHEDULES
from runs import TINY, last_state


def test_the_time_of_what_is_left_out_is_not_counted():
    times = iter([10.0, 13.0, 20.0, 25.0, 30.0])
    budget = Budget(TINY, 4.0, now=lambda: next(times))
    assert budget.seconds() == 7
    assert budget.leave_out(lambda a: a + 1, 1) == 2  # from 20 to 25
    assert budget.seconds() == 4 + (30 - 10) - 5


def test_steps_are_annealed_behind_the_warm_up_and_minutes_at_once():
    by_steps = Budget(replace(TINY, steps=10, warmup=2), now=lambda: 0.0)
    assert [by_steps.after(step) for step in (0, 2, 6, 10, 12)] == [(False, 0), (False, 0), (False, 0.5), (True, 1), (True, 1)]
    assert Budget(replace(TINY, steps=2, warmup=5)).after(1) == (False, 0)
    now = iter([0.0, 0.0, 15.0, 30.0, 40.0])
    by_clock = Budget(replace(TINY, minutes=0.5, steps=1, warmup=2), now=lambda: next(now))
    assert [by_clock.after(step) for step in (0, 7, 8, 9)] == [(False, 0), (False, 0.5), (True, 1), (True, 1)]
    np.testing.assert_allclose([SCHEDULES["cosine"](done) for done in (0.0, 0.5, 1.0)], [1, 0.5, 0], atol=1e-7)


@pytest.fixture
def seconds(monkeypatch):
    """Training where every outer step takes a second; the seconds of all steps, and how far the schedule was at each."""
    time, done, make_step = [0.0], [], outer_loop.make_step

    def make(*arguments):
        step, stops = make_step(*arguments), not done

        def slow(state, batch, annealed):
            time[0] += 1
            done.append(annealed)
            if len(done) == 5 and stops:
                os.kill(os.getpid(), signal.SIGINT)
            return step(state, batch, annealed)

        return slow

    monkeypatch.setattr(outer_loop, "make_step", make)
    monkeypatch.setattr(outer_loop, "Budget", lambda config, seconds: Budget(config, seconds, now=lambda: time[0]))
    return done


def test_a_run_of_minutes_that_is_stopped_goes_on_with_the_seconds_it_has_left(seconds, tmp_path):
    config = replace(TINY, run=tmp_path, minutes=0.1, schedule="cosine", eval_every=100, log_every=2)
    with pytest.raises(SystemExit):
        training.train(config)
    assert seconds == [0, 0, pytest.approx(1 / 6), pytest.approx(2 / 6), pytest.approx(3 / 6)]  # the first one compiles
    assert last_state(tmp_path).seconds == 4
    run = training.train(replace(config, resume=True))
    assert seconds[5:] == [pytest.approx(done / 6) for done in (4, 4, 5)]
    assert last_state(tmp_path).seconds == 6
    assert [row["seconds"] for row in run.metrics() if "seconds" in row] == [1, 3, 4, 6]
    training.train(replace(config, resume=True))  # has had its minutes
    assert len(seconds) == 8
    training.train(replace(config, resume=True, minutes=0.15))
    assert seconds[8:] == [pytest.approx(done / 9) for done in (6, 6, 7, 8)] and last_state(tmp_path).seconds == 9


def test_steps_are_no_minutes(seconds, tmp_path):
    run = training.train(replace(TINY, run=tmp_path))
    assert len(seconds) == TINY.steps and not any("seconds" in row for row in run.metrics())
    assert last_state(tmp_path).seconds is None
