"""The calls of one connection: finds their handlers, runs them, times them, answers once.

Everything happens in the event loop's thread. Knows calls and answers, and nothing of sockets or wires: what it
answers goes to an object it is given.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from wasm_sandboxer.rpc.transport.call import Call, Limits, Method, Observe, Services, Translate
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["Answers", "Dispatcher", "Offer"]

_log = logging.getLogger(__name__)
# Handlers at work. Held here, since the loop holds tasks only weakly, and a connection may be gone before them.
_tasks: "set[asyncio.Task[None]]" = set()


class Offer(Protocol):
    """What a server offers on each of its connections."""

    services: Services
    limits: Limits
    observe: Observe
    translate: Translate
    stopping: bool


class Answers(Protocol):
    """Where answers go: a connection."""

    def succeed(self, stream: int, response: Message) -> None:
        """Send a response; RpcError if that cannot be, and then nothing was sent."""

    def fail(self, stream: int, error: RpcError) -> None:
        """Send an error in its place."""


class _Running(Call):
    """A call with what the dispatcher keeps of it."""

    __slots__ = ("answered", "started", "stream", "task", "timer", "to_the_end", "waits")

    def __init__(self, stream: int, started: float, service: str, method: str, metadata: Mapping[str, str]) -> None:
        super().__init__(service, method, metadata)
        self.stream = stream
        self.started = started
        self.answered = False
        self.to_the_end = False
        self.waits = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Runs calls and has them answered."""

    __slots__ = ("_answers", "_loop", "_offer", "_running")

    def __init__(self, offer: Offer, answers: Answers) -> None:
        self._offer = offer
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, _Running] = {}  # by stream: those whose handler is a task that has not ended

    def is_running(self, stream: int) -> bool:
        """Whether a handler is at work for this stream."""
        return stream in self._running

    def tasks(self, *, waiting: bool = True) -> "list[asyncio.Task[None]]":
        """The handlers at work; not `waiting`, but for those that only wait."""
        return [call.task for call in self._running.values() if call.task and (waiting or not call.waits)]

    def cancel(self, error: RpcError) -> None:
        """End every call in progress with this error."""
        for call in list(self._running.values()):
            self._end(call, error)

    def abandon(self, stream: int, error: RpcError) -> None:
        """End a call whose client wants no answer any more."""
        call = self._running.get(stream)
        if call is not None and not call.answered:
            self._finish(call, error)
            self._stop(call)

    def open(
        self,
        stream: int,
        service: str,
        method: str,
        payload: bytes,
        metadata: Mapping[str, str],
        *,
        timeout: float | None = None,
        streaming: bool = False,
    ) -> None:
        """Begin a call on a new stream, and end it too if its handler answers at once.

        `metadata` has keys in lower case; `timeout` is what the client grants, in seconds.
        """
        call = _Running(stream, self._loop.time(), service, method, metadata)
        try:
            self._start(call, self._method(call, streaming=streaming), payload, timeout)
        except RpcError as error:
            self._fail(call, error)

    def _method(self, call: Call, *, streaming: bool) -> Method:
        """The method called; RpcError if it cannot be called, or not now."""
        methods = self._offer.services.get(call.service)
        if methods is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"service {call.service}")
        method = methods.get(call.method)
        if method is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"method {call.method} of service {call.service}")
        if streaming:
            text = f"streaming: {call.service}/{call.method} takes one request and gives one response"
            raise RpcError(StatusCode.UNIMPLEMENTED, text)
        if self._offer.stopping:
            raise RpcError(StatusCode.UNAVAILABLE, "the server is stopping")
        if len(self._running) >= self._offer.limits.calls:
            text = f"{len(self._running)} calls are in progress on this connection"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        return method

    def _start(self, call: _Running, method: Method, payload: bytes, timeout: float | None) -> None:
        """Run the handler. What it cannot answer at once goes on as a task."""
        call.to_the_end = method.to_the_end
        call.waits = method.waits
        if timeout is not None:
            call.timeout = timeout
            call.deadline = call.started + timeout
            if timeout < 0:
                raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the time was up before the call came")
        try:
            call.request = method.request.FromString(payload)
        except DecodeError:
            text = f"the payload is not a {method.request.DESCRIPTOR.full_name}"
            raise RpcError(StatusCode.INVALID_ARGUMENT, text) from None
        try:
            response = method.handler(call.request, call)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whatever it raises is the answer
            self._fail(call, self._translated(call, error))
            return
        if isinstance(response, Message):
            self._succeed(call, method, response)
        else:
            self._spawn(call, self._run(call, method, response))

    def _spawn(self, call: _Running, work: Coroutine[Any, Any, None]) -> None:
        task = _begin(work, self._loop)
        if task.done():
            return
        call.task = task
        self._running[call.stream] = call
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        if call.deadline is not None:
            call.timer = self._loop.call_at(call.deadline, self._expire, call)

    async def _run(self, call: _Running, method: Method, response: Awaitable[Message]) -> None:
        try:
            self._succeed(call, method, await response)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whatever it raises is the answer
            self._fail(call, self._translated(call, error))
        finally:
            self._running.pop(call.stream, None)
            if call.timer:
                call.timer.cancel()

    def _expire(self, call: _Running) -> None:
        self._end(call, RpcError(StatusCode.DEADLINE_EXCEEDED, f"not done within {call.timeout:g} s"))

    def _end(self, call: _Running, error: RpcError) -> None:
        """Answer in the handler's place, and stop it: once, so that nothing disturbs its cleaning up."""
        if call.answered:
            return
        self._fail(call, error)
        self._stop(call)

    def _stop(self, call: _Running) -> None:
        if call.task and not call.to_the_end:
            # Not at once: a task that has not had its first turn would throw the handler's coroutine away
            # unawaited. Its turn is queued, so it comes before this.
            self._loop.call_soon(call.task.cancel)

    def _translated(self, call: Call, error: Exception | asyncio.CancelledError) -> RpcError:
        if isinstance(error, RpcError):
            return error
        if isinstance(error, asyncio.CancelledError):
            # By us, and then the call has been answered; or from within, and then this is the answer.
            return RpcError(StatusCode.CANCELLED, "the call was cancelled")
        try:
            known = self._offer.translate(error)
        except Exception:  # noqa: BLE001  # the client must get an answer even so
            _log.exception("an error could not be translated")
            known = None
        if known is not None:
            return known
        _log.error("%s/%s failed", call.service, call.method, exc_info=error)
        return RpcError(StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    def _succeed(self, call: _Running, method: Method, response: Message) -> None:
        if not isinstance(response, method.response):
            text = f"{call.service}/{call.method} gave a {type(response).__name__}"
            _log.error("%s, not a %s", text, method.response.__name__)
            raise RpcError(StatusCode.INTERNAL, text)
        if not call.answered:
            self._answers.succeed(call.stream, response)
            self._finish(call, None)

    def _fail(self, call: _Running, error: RpcError) -> None:
        if not call.answered:
            self._answers.fail(call.stream, error)
            self._finish(call, error)

    def _finish(self, call: _Running, error: RpcError | None) -> None:
        """Note that it was answered; whoever comes later finds it done."""
        call.answered = True
        try:
            self._offer.observe(call, error, self._loop.time() - call.started)
        except Exception:  # noqa: BLE001  # an observer must not change what it observes
            _log.exception("the observer failed")


def _begin(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> "asyncio.Task[None]":
    """A task that has run up to its first wait, and may be done already. Not for use within another task."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    task = loop.create_task(work)
    # The same by hand: the loop of Python 3.11 keeps what is ready in a queue, the task's first step at its end.
    ready = getattr(loop, "_ready", None)
    if ready:
        ready.pop()._run()  # noqa: SLF001
    return task
