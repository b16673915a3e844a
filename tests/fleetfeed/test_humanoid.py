from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from fleetfeed.demo.humanoid import TASKS, Humanoid, Reading

TOUCH_M = 0.13  # the radii of hand and ball are 0.11 together


def readings(robot: Humanoid, *, seconds: float, control_hz: float = 20.0) -> list[Reading]:
    return [robot.step() for _ in range(round(seconds * control_hz))]


def started(task: str, *, seed: int = 7) -> Humanoid:
    robot = Humanoid(seed=seed)
    robot.start(task)
    return robot


def states_and_actions(steps: list[Reading]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    state = np.array([np.concatenate([step.joint_position, step.joint_velocity]) for step in steps], dtype=np.float64)
    window = np.concatenate([state[1:], state[:-1], np.ones((len(steps) - 1, 1))], axis=1)
    return window, np.array([step.action for step in steps[1:]], dtype=np.float64)


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_equal_readings_and_pictures(task: str) -> None:
    one, other = started(task), started(task)
    for left, right in zip(readings(one, seconds=2), readings(other, seconds=2), strict=True):
        assert left.sim_time_s == right.sim_time_s
        assert left.battery_percent == right.battery_percent
        for name in ("joint_position", "joint_velocity", "action", "imu_quaternion", "imu_gyro"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(one.picture(), other.picture())


def test_another_seed_moves_differently() -> None:
    one, other = (readings(started("squat", seed=seed), seconds=2)[-1].action for seed in (1, 2))
    assert np.abs(one - other).max() > 0.05


def test_a_reading_has_one_value_a_joint_and_a_unit_quaternion() -> None:
    robot = started("squat")
    reading = robot.step()
    assert 17 <= len(robot.joint_names) == len(set(robot.joint_names)) <= 25
    for values in (reading.joint_position, reading.joint_velocity, reading.action):
        assert values.shape == (len(robot.joint_names),)
        assert values.dtype == np.float32
    assert reading.imu_gyro.shape == (3,)
    assert np.linalg.norm(reading.imu_quaternion) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_joints_move_and_the_head_stays_up_for_half_a_minute(task: str) -> None:
    robot = started(task)
    steps, heads_m = [], []
    for _ in range(600):
        steps.append(robot.step())
        heads_m.append(robot.head_height_m)
    moved = np.std([step.joint_position for step in steps], axis=0)
    assert np.sum(moved >= 0.2) >= 2
    assert min(heads_m) > 0.85
    assert max(heads_m) < 1.5


@pytest.mark.parametrize("task", TASKS)
def test_joints_follow_the_action_but_not_exactly(task: str) -> None:
    steps = readings(started(task), seconds=10)
    error = np.abs([step.joint_position - step.action for step in steps])
    assert 0.02 < error.max() < 0.6


def test_the_pelvis_is_moved_by_what_the_limbs_do() -> None:
    standing = readings(Humanoid(seed=7), seconds=5)[-40:]
    marching = readings(started("march on the spot"), seconds=5)[-40:]
    calm, lively = (np.std([step.imu_gyro for step in steps], axis=0).max() for steps in (standing, marching))
    assert lively > 0.05 > 10 * calm


def test_the_action_can_be_learned_from_the_states_of_two_ticks() -> None:
    robot, steps = Humanoid(seed=7), []
    for task in TASKS * 2:
        robot.start(task)
        steps += readings(robot, seconds=8)
    states, actions = states_and_actions(steps)
    half = len(states) // 2
    weights, *_ = np.linalg.lstsq(states[:half], actions[:half], rcond=None)
    learned = np.mean((states[half:] @ weights - actions[half:]) ** 2)
    mean = np.mean((actions[:half].mean(axis=0) - actions[half:]) ** 2)
    assert learned < 0.1 * mean


@pytest.mark.parametrize("seed", range(5))
def test_the_hand_comes_to_the_ball_and_leaves_it(seed: int) -> None:
    robot, distances_m = started("reach for the ball", seed=seed), []
    for _ in range(160):
        robot.step()
        distances_m.append(robot.hand_to_ball_m)
    assert min(distances_m) < TOUCH_M
    assert max(distances_m[40:]) > 0.4


def test_a_new_task_goes_on_from_where_the_last_one_was() -> None:
    robot = started("squat")
    before = readings(robot, seconds=3.3)[-1]
    robot.start("wave with the right hand")
    after = robot.step()
    assert after.sim_time_s == pytest.approx(before.sim_time_s + 0.05)
    assert np.abs(after.joint_position - before.joint_position).max() < 0.15
    assert np.abs(after.action - before.action).max() < 0.05


def test_the_battery_falls_slowly_and_faster_at_work() -> None:
    resting, squatting = readings(Humanoid(seed=7), seconds=20), readings(started("squat"), seconds=20)
    for steps in (resting, squatting):
        levels = [step.battery_percent for step in steps]
        assert all(later < earlier for earlier, later in pairwise(levels))
        assert 0 < levels[0] - levels[-1] < 1
    assert squatting[-1].battery_percent < resting[-1].battery_percent


@pytest.mark.parametrize("control_hz", [7.0, 20.0, 30.0, 500.0])
def test_time_advances_by_the_control_period(control_hz: float) -> None:
    times_s = [
        step.sim_time_s for step in readings(Humanoid(seed=0, control_hz=control_hz), seconds=1, control_hz=control_hz)
    ]
    np.testing.assert_allclose(np.diff(times_s), 1 / control_hz, rtol=1e-9)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (320, 240), (161, 121)])
def test_a_picture_has_the_size_asked_for_and_shows_the_pose(width: int, height: int) -> None:
    robot = started("march on the spot")
    first = robot.picture(width=width, height=height)
    readings(robot, seconds=1.5)
    second = robot.picture(width=width, height=height)
    assert first.shape == second.shape == (height, width, 3)
    assert first.dtype == np.uint8
    limbs, moved_limbs = (np.ptp(picture, axis=2) > 90 for picture in (first, second))
    assert 0.02 < limbs.mean() < 0.2
    assert (limbs != moved_limbs).mean() > 0.005


def test_drawing_changes_neither_the_robot_nor_an_earlier_picture() -> None:
    watched, alone = started("squat"), started("squat")
    first = watched.picture()
    kept = first.copy()
    for _ in range(20):
        watched.picture()
        np.testing.assert_array_equal(watched.step().joint_position, alone.step().joint_position)
    np.testing.assert_array_equal(first, kept)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'somersault'") as refused:
        Humanoid(seed=0).start("somersault")
    assert all(task in str(refused.value) for task in TASKS)


@pytest.mark.parametrize("control_hz", [0.0, -1.0, float("nan")])
def test_a_control_rate_that_is_not_positive_is_refused(control_hz: float) -> None:
    with pytest.raises(ValueError, match="control_hz must be > 0"):
        Humanoid(seed=0, control_hz=control_hz)
