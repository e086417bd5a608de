"""Workers on the machines of a Ray cluster, which share the paths of the source and the output."""

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from encoder.common.errors import CodecError, SettingsError
from encoder.jobs.gop import Progress
from encoder.jobs.scheduler import JobContext, LostError, Worker, WorkerBackend, with_notes
from encoder.jobs.segment_encoder import SegmentEncoder

CONNECT_SECONDS = 5.0


class RayWorkers(WorkerBackend):
    """Starts Ray actors, each with its cores or its GPU."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster at host:port, ray://host:port, or auto.

        Raises SettingsError if there is no cluster.
        """
        _check(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SettingsError(
                f"no Ray cluster at {address}: {str(error).splitlines()[0]}"
            ) from None
        self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = sum(int(node.get("GPU", 0)) for node in self._nodes)

    def capacity(self, device: str, threads: int) -> int:
        """Return the number of workers that the cluster has room for.

        Raises SettingsError if no machine has as many cores as a worker has threads.
        """
        count = (
            self.gpus
            if device == "cuda"
            else sum(int(node.get("CPU", 0)) // threads for node in self._nodes)
        )
        if not count:
            raise SettingsError(
                f"no machine of the cluster has {threads} cores: use fewer --threads"
            )
        return count

    def start(self, work: JobContext, number: int) -> Worker:
        """Start an actor on any machine with room."""
        del number  # Ray chooses the GPU
        needs: dict[str, Any] = (
            {"num_gpus": 1} if work.job.device == "cuda" else {"num_cpus": work.job.threads}
        )
        return _RayWorker(ray.remote(**needs)(_Actor).remote(work))

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Wait until actors yield progress; return their workers."""
        streams = {worker.stream: worker for worker in workers if isinstance(worker, _RayWorker)}
        found, _ = ray.wait(list(streams), fetch_local=False)
        return [streams[stream] for stream in found]

    def close(self) -> None:
        """Disconnect."""
        ray.shutdown()


def _check(address: str) -> None:
    """Raise SettingsError if nothing answers; Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError):
        raise SettingsError(f"no Ray cluster at {address}") from None


class _Actor:
    def __init__(self, work: JobContext) -> None:
        self._work = work
        self._encoder: SegmentEncoder | None = None

    def fit(self, group: int) -> Iterator[Progress]:
        if self._encoder is None:  # not in __init__, whose errors would not reach `receive`
            self._encoder = self._work.job.encoder()
        yield from with_notes(self._work.fit(self._encoder, group))


class _RayWorker(Worker):
    def __init__(self, actor: Any) -> None:
        self.stream: Any = None
        self._actor = actor

    def assign(self, group: int) -> None:
        self.stream = self._actor.fit.options(num_returns="streaming").remote(group)

    def receive(self) -> Progress | None:
        try:
            found: Any = ray.get(next(self.stream))
        except StopIteration:
            return None
        except RayTaskError as error:
            if isinstance(error.cause, CodecError | OSError):
                raise error.cause from None
            raise LostError(f"failed: {str(error).strip().splitlines()[-1]}") from None
        except RayError as error:
            raise LostError(f"was lost ({type(error).__name__})") from None
        return found

    def end(self) -> None:
        ray.kill(self._actor)
