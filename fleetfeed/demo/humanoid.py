"""A simulated humanoid for demonstrations and tests: MuJoCo physics, scripted tasks, pictures drawn without a GPU.

The script is open loop, smooth sines of time; the joints follow with the lag of a position controller. So a state tells
its command (about position + lag x velocity), and a policy can be cloned from what the robot records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from fleetfeed.demo.picture import Camera, Floats, Picture, draw

MODEL = Path(__file__).with_name("humanoid.xml")
MAX_PHYSICS_STEP_S = 0.005
BLEND_S = 1.0  # from what the robot was doing into a new task
BATTERY_WH = 400.0
IDLE_W = 60.0  # computers and cameras
_REACH = "reach for the ball"


@dataclass(frozen=True)
class Reading:
    """What one control tick sees and commands: the action is decided from this state and holds until the next tick."""

    sim_time_s: float
    joint_position: NDArray[np.float32]  # (n,), rad
    joint_velocity: NDArray[np.float32]  # (n,), rad/s
    action: NDArray[np.float32]  # (n,), commanded joint positions, rad
    imu_quaternion: NDArray[np.float32]  # (4,), w x y z, pelvis to world
    imu_gyro: NDArray[np.float32]  # (3,), rad/s, in the pelvis
    battery_percent: float


@dataclass(frozen=True)
class _Task:
    """A periodic motion: (middle rad, amplitude rad, phase turns) for every joint whose name ends with the key.

    Each episode scales a joint's middle and amplitude together, by a draw of at most `spread` for each key.
    """

    period_s: float
    swings: Mapping[str, tuple[float, float, float]]
    spread: float = 0.0


_STANDING = _Task(1.0, {"shoulder_roll": (0.18, 0, 0), "elbow": (0.35, 0, 0)})
_TASKS = {
    "wave with the right hand": _Task(
        1.6,
        {
            "right_shoulder_roll": (1.35, 0.12, 0),
            "right_shoulder_yaw": (-1.15, 0.42, 0.3),
            "right_elbow": (1.15, 0.50, 0),
            "head_yaw": (-0.25, 0.10, 0.1),
            "waist_yaw": (0, 0.08, 0.2),
        },
        spread=0.1,
    ),
    "squat": _Task(
        3.2,
        {
            "hip_pitch": (0.45, 0.45, 0),
            "knee": (0.90, 0.90, 0),
            "ankle": (0.45, 0.45, 0),
            "waist_pitch": (0.20, 0.20, 0),
            "shoulder_pitch": (0.65, 0.65, 0),
        },
    ),
    _REACH: _Task(
        2.8,
        {
            "right_shoulder_pitch": (0.70, 0.70, 0),
            "right_shoulder_roll": (0.22, 0.04, 0),
            "right_elbow": (0.75, -0.45, 0),
            "waist_yaw": (0.05, 0.20, 0),
            "waist_pitch": (0.10, 0.12, 0),
            "head_yaw": (-0.20, -0.20, 0),
        },
        spread=0.2,
    ),
    "march on the spot": _Task(
        1.5,
        {
            "left_hip_pitch": (0.48, 0.48, 0),
            "left_knee": (0.75, 0.75, 0),
            "left_ankle": (0.27, 0.27, 0),
            "right_hip_pitch": (0.48, 0.48, 0.5),
            "right_knee": (0.75, 0.75, 0.5),
            "right_ankle": (0.27, 0.27, 0.5),
            "left_shoulder_pitch": (0, 0.45, 0.5),
            "right_shoulder_pitch": (0, 0.45, 0),
            "elbow": (0.9, 0, 0),
        },
    ),
}
TASKS: tuple[str, ...] = tuple(_TASKS)


@dataclass(frozen=True)
class _Motion:
    """A task made concrete for one episode."""

    start_s: float
    period_s: float
    swings: Floats  # (3, n): middle rad, amplitude rad, phase turns
    before: Floats  # (n,), rad, the command that was held when it began

    def at(self, time_s: float) -> Floats:
        """Commanded joint positions, (n,) rad."""
        elapsed_s = time_s - self.start_s
        middle, amplitude, turns = self.swings
        goal = middle + amplitude * np.sin(2 * np.pi * (elapsed_s / self.period_s + turns))
        done = min(1.0, elapsed_s / BLEND_S)
        blended: Floats = self.before + (goal - self.before) * done * done * (3 - 2 * done)
        return blended

    def extreme(self) -> Floats:
        """Joint positions with every swing at its outer end, (n,) rad."""
        outer: Floats = self.swings[0] + self.swings[1]
        return outer


class Humanoid:
    """One robot. The same seed and the same calls give the same readings and pictures.

    It stands until the first `start`. A new task begins from the pose of the last: time, battery and physics go on.
    """

    joint_names: tuple[str, ...]

    def __init__(self, *, seed: int, control_hz: float = 20.0) -> None:
        if not control_hz > 0:
            raise ValueError(f"control_hz must be > 0, got {control_hz}")
        self._random = np.random.default_rng(seed)
        self._model = mujoco.MjModel.from_xml_path(str(MODEL))
        self._substeps = math.ceil(1 / (control_hz * MAX_PHYSICS_STEP_S))
        self._model.opt.timestep = 1 / (control_hz * self._substeps)
        self._data = mujoco.MjData(self._model)
        self.joint_names = tuple(self._model.joint(i).name for i in range(1, self._model.njnt))
        index = self.joint_names.index
        self._hips = [index("left_hip_pitch"), index("right_hip_pitch")]
        self._knees = [index("left_knee"), index("right_knee")]
        self._battery_percent = float(self._random.uniform(80, 100))
        self._motion = self._vary(_STANDING, before=np.zeros(self._model.nu))
        self._data.qpos[7:] = self._motion.extreme()
        self._command(self._motion.extreme())
        self._put_ball_on_floor()

    def start(self, task: str) -> None:
        """Begin an episode of one of `TASKS`; amplitude, tempo, phase and the ball's place are drawn anew."""
        if task not in _TASKS:
            raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")
        self._motion = self._vary(_TASKS[task], before=self._data.ctrl.copy())
        if task == _REACH:
            self._put_ball(self._beyond_hand(self._motion.extreme()))
        else:
            self._put_ball_on_floor()

    def step(self) -> Reading:
        """Let one control period pass under the last command, look at the state, and command anew."""
        mujoco.mj_step(self._model, self._data, self._substeps)
        mujoco.mj_forward(self._model, self._data)  # poses and sensors of now, not of one physics step ago
        self._drain()
        self._command(self._motion.at(self._data.time))
        return Reading(
            sim_time_s=float(self._data.time),
            joint_position=self._data.qpos[7:].astype(np.float32),
            joint_velocity=self._data.qvel[6:].astype(np.float32),
            action=self._data.ctrl.astype(np.float32),
            imu_quaternion=self._data.sensor("imu_quaternion").data.astype(np.float32),
            imu_gyro=self._data.sensor("imu_gyro").data.astype(np.float32),
            battery_percent=self._battery_percent,
        )

    def picture(self, *, width: int = 640, height: int = 480) -> Picture:
        """The robot as the last reading saw it, from its front right: (height, width, 3) BGR."""
        solid = self._model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE
        along = self._data.geom_xmat[solid].reshape(-1, 3, 3)[:, :, 2] * self._model.geom_size[solid, 1:2]
        middle = self._data.geom_xpos[solid]
        ends = np.stack([middle - along, middle + along], axis=1)
        return draw(
            ends,
            radius=self._model.geom_size[solid, 0],
            bgr=self._model.geom_rgba[solid, 2::-1] * 255,
            shoulders=self._data.site_xpos[1:],
            camera=Camera(width, height),
        )

    @property
    def head_height_m(self) -> float:
        """Of the neck's upper end above the floor."""
        return float(self._data.body("head").xpos[2])

    @property
    def hand_to_ball_m(self) -> float:
        """From the middle of the right hand to the middle of the ball."""
        return float(np.linalg.norm(self._data.geom("right_hand").xpos - self._data.body("ball").xpos))

    def _vary(self, task: _Task, *, before: Floats) -> _Motion:
        vigour, tempo = self._random.uniform(0.85, 1.15, 2)
        swings = np.zeros((3, len(self.joint_names)))
        for ending, swing in {**_STANDING.swings, **task.swings}.items():
            scale = vigour * self._random.uniform(1 - task.spread, 1 + task.spread)
            which = [name.endswith(ending) for name in self.joint_names]
            swings[:, which] = np.array([swing]).T * [[scale], [scale], [1]]
        swings[2] += self._random.uniform()
        return _Motion(start_s=self._data.time, period_s=task.period_s / tempo, swings=swings, before=before)

    def _command(self, action: Floats) -> None:
        """Set the joints' goals, and let the gantry down so that the longer leg just stands."""
        self._data.ctrl[:] = action
        hip, knee = action[self._hips], action[self._knees]
        bend = 2 - np.cos(hip) - np.cos(knee - hip)  # of thigh and shin, which are equally long
        shin_m = -self._model.body("left_shin").pos[2]
        self._model.qpos_spring[2] = self._model.qpos0[2] - shin_m * bend.min()

    def _drain(self) -> None:
        power_w = IDLE_W + float(np.abs(self._data.actuator_force * self._data.actuator_velocity).sum())
        hours = self._model.opt.timestep * self._substeps / 3600
        self._battery_percent = max(0.0, self._battery_percent - 100 * power_w * hours / BATTERY_WH)

    def _beyond_hand(self, joint_position: Floats) -> Floats:
        """Where a ball touches the right hand, (3,) m, when the joints are there and the pelvis hangs straight."""
        ghost = mujoco.MjData(self._model)
        ghost.qpos[7:] = joint_position
        mujoco.mj_kinematics(self._model, ghost)
        hand, radii_m = ghost.geom("right_hand"), [self._model.geom(name).size[0] for name in ("right_hand", "ball")]
        return np.array(hand.xpos - hand.xmat.reshape(3, 3)[:, 2] * sum(radii_m))

    def _put_ball(self, position: Floats) -> None:
        self._data.mocap_pos[self._model.body("ball").mocapid[0]] = position
        mujoco.mj_forward(self._model, self._data)

    def _put_ball_on_floor(self) -> None:
        x, y = self._random.uniform([0.1, 0.4], [0.5, 0.8])
        self._put_ball(np.array([x, y, self._model.geom("ball").size[0]]))
