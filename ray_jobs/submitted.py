"""Jobs on a cluster by Ray's Jobs API: submit one, and see what became of those that were."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_jobs.errors import ClusterUnavailable

ADDRESS = "RAY_API_SERVER_ADDRESS"
_PROGRAM = ("python", "-m", "ray_jobs")


@dataclass(frozen=True, slots=True)
class Submitted:
    """One job of the cluster: times in ns since the Unix epoch, `end_ns` None while it runs."""

    id: str
    what: str
    state: str
    start_ns: int | None
    end_ns: int | None
    message: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def submit(words: Sequence[str], *, file: Path | None = None) -> str:
    """Run `python -m ray_jobs WORDS` on the cluster; the job's id.

    Our settings go with it, but no secret: the cluster has a role or a key of its own. `file` lies where the job runs.
    Raises `ClusterUnavailable` with what to do.
    """
    settings = {name: value for name, value in os.environ.items() if _is_passed_on(name)}
    client, entrypoint = _client(), shlex.join([*_PROGRAM, *words])
    with tempfile.TemporaryDirectory() as folder:
        runtime: dict[str, Any] = {"env_vars": settings}
        if file is not None:
            shutil.copy(file, folder)
            runtime["working_dir"] = folder
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime))


def _is_passed_on(name: str) -> bool:
    """Settings, but no secret and no file of this machine."""
    return name.startswith("FLEETFEED_") and "KEY" not in name and name != "FLEETFEED_CONFIG"


def submitted() -> Iterator[Submitted]:
    """The cluster's jobs, the newest first."""
    found = _client().list_jobs()
    for one in sorted(found, key=lambda job: job.start_time or 0, reverse=True):
        if one.submission_id:
            what = one.entrypoint.removeprefix(shlex.join(_PROGRAM)).strip()
            start_ns, end_ns = (t and int(t) * 1_000_000 for t in (one.start_time, one.end_time))
            yield Submitted(one.submission_id, what, str(one.status), start_ns, end_ns, one.message or "")


def logs(job_id: str) -> str:
    """What a job has printed so far."""
    try:
        return str(_client().get_job_logs(job_id))
    except RuntimeError as error:
        raise ClusterUnavailable(f"the cluster knows no job {job_id!r}: {_first_line(error)}") from error


def _client() -> Any:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    address = os.environ.get(ADDRESS, "")
    if not address:
        raise ClusterUnavailable(f'{ADDRESS} names no cluster; of a local stack: eval "$(fleetfeed env)"')
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ClusterUnavailable(f"Ray's Jobs API at {address} does not let us in: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
