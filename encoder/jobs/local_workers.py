"""Workers that are processes on this machine."""

import pickle
import signal
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from encoder.common.errors import CodecError
from encoder.jobs.gop import Progress
from encoder.jobs.scheduler import JobContext, LostError, Worker, WorkerBackend, with_notes

END_SECONDS = 5.0
"""Time for a process to end before it is killed."""


class LocalWorkers(WorkerBackend):
    """Starts processes."""

    def __init__(self) -> None:
        self._context = get_context("spawn")  # torch's threads do not survive a fork

    def start(self, work: JobContext, number: int) -> Worker:
        """Start a process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, work, number), daemon=True)
        # Ctrl-C is for this process alone; it would kill the child during its start.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, before)
        theirs.close()  # otherwise the child's end would go unnoticed
        return _Process(process, ours)

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Wait for pipes with a message; return their workers."""
        connections = {
            worker.connection: worker for worker in workers if isinstance(worker, _Process)
        }
        found = wait(list(connections))
        return [worker for connection, worker in connections.items() if connection in found]


class _Process(Worker):
    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.connection = connection
        self._process = process

    def assign(self, group: int) -> None:
        try:
            self.connection.send(group)
        except OSError:
            raise self._lost() from None

    def receive(self) -> Progress | None:
        try:
            message = pickle.loads(self.connection.recv_bytes())  # noqa: S301 (from our own process)
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(message, CodecError | OSError):
            raise message
        return message

    def end(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _lost(self) -> LostError:
        self._process.join()
        self.connection.close()
        return LostError(f"ended with exit code {self._process.exitcode}")


def _serve(connection: Connection, work: JobContext, number: int) -> None:
    """Fit each group whose number is received; send its progress, then None, or an error."""
    try:
        encoder = work.job.encoder(worker=number)
        while True:
            for progress in with_notes(work.fit(encoder, connection.recv())):
                connection.send_bytes(pickle.dumps(progress))
            connection.send_bytes(pickle.dumps(None))
    except (EOFError, BrokenPipeError):
        pass  # the scheduler has closed the pipe
    except (CodecError, OSError) as error:
        connection.send_bytes(pickle.dumps(error))
