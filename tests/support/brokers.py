"""Brokers that call fewer hooks than Dramatiq's own, or call them later, as some brokers of other
projects do."""

from dramatiq.broker import MessageProxy
from dramatiq.common import current_millis, dq_name
from dramatiq.errors import QueueNotFound

from tests.support.harness import InProcessBroker


class EarlyEncodingBroker(InProcessBroker):
    """Encodes a message before ``before_enqueue``: what that sets in the options gets lost.

    So do dramatiq_sqs 0.4 and dramatiq-pg 0.12, with messages that are delayed as well.
    """

    def enqueue(self, message, *, delay=None):
        queue_name = message.queue_name
        if delay is not None:
            queue_name = dq_name(queue_name)
            message = message.copy(queue_name=queue_name, options={"eta": current_millis() + delay})
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        encoded = message.encode()
        self.emit_before("enqueue", message, delay)
        self.queues[queue_name].put(encoded)
        self.emit_after("enqueue", message, delay)
        return message


class AfterOnlyBroker(InProcessBroker):
    """Calls ``after_ack`` and ``after_nack``, but never ``before_ack`` and ``before_nack``."""

    def emit_before(self, signal, *args, **kwargs):
        if signal not in {"ack", "nack"}:
            super().emit_before(signal, *args, **kwargs)


class EagerBroker(AfterOnlyBroker):
    """Processes a message at once, in the thread that sends it, and calls no hook of enqueueing.

    So does dramatiq_eager_broker 0.3: a delay is ignored, and a retry runs inside of the run that
    it follows.

    Parameters:
      fail_fast(bool): Let the sender have the exception of the actor: ``after_process_message`` is
        not called then, and ``after_ack`` is.
    """

    def __init__(self, middleware=None, *, fail_fast=False):
        super().__init__(middleware)
        self.fail_fast = fail_fast

    def enqueue(self, message, *, delay=None):
        proxy = MessageProxy(message)
        try:
            self.emit_before("process_message", proxy)
            result = self.get_actor(message.actor_name)(*message.args, **message.kwargs)
            self.emit_after("process_message", proxy, result=result)
        except BaseException as error:
            if self.fail_fast:
                raise
            proxy.stuff_exception(error)
            self.emit_after("process_message", proxy, exception=error)
        finally:
            self.emit_after("nack" if proxy.failed else "ack", proxy)
        return proxy
