"""A model of the order of transitions: how often does a row end wrong, under which faults?

Hosts have clocks of their own, off by up to ``skew`` seconds, and one of them jumps.  A message is
made, waits, runs and is retried on any of them, as Dramatiq has it: a message that is delayed is
enqueued once more when it is due, by the consumer that held it.  The truth is the order of real
time.  Stamps are the package's own functions.

    python -m tests.support.order_model [LIVES]
"""

import dataclasses
import random
import sys
from collections import Counter

from taskstate.transitions.stamp import LAG_MS, LONG_LAG_MS, stamp_of_run, stamps_of_enqueue

HOSTS = 4
WAITING, RUNNING, FINISHED = 0, 1, 2

#: What may become of the options that are set before a message is enqueued: they travel with it;
#: they get lost; they get lost, and the broker delays messages by itself (as SQS does).
CARRIED, EARLY, EARLY_NATIVE = "carried", "early", "early, native delay"
BROKERS = (CARRIED, EARLY, EARLY_NATIVE)

#: What a message is: sent at once when it was made; sent with a delay; made long before it is sent,
#: on another host (a pipeline's second message, a group's callback).
KINDS = ("direct", "delayed", "target")

#: What happens to one of its runs beside an outcome: nothing; a second worker gets it while the
#: first one still runs; no outcome, and a second worker gets it afterward; an outcome and no ack,
#: and a second worker gets it afterward.
FAULTS = ("none", "redelivered while it runs", "killed while it runs", "killed before the ack")

#: What follows the first life: nothing, or a second one so many seconds after its end.
PAUSES = {
    "one life": None,
    "at once": (0.001, 0.05),
    "within 1 s": (0.05, 1),
    "after 1 to 100 s": (1, 100),
    "after 100 s to 1 h": (100, 3600),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """The circumstances of a number of lives."""

    broker: str = CARRIED
    kind: str = "direct"
    fault: str = "none"
    pause: str = "one life"
    #: Whether the second life is that of the same object, and not of a message with fresh options.
    is_same_object: bool = False
    #: In seconds.
    skew: float = 0.0
    jumps: bool = False
    #: The range of a retry's delay, in seconds: Dramatiq's own first one.
    backoff: tuple = (7.5, 30)


class Stamps:
    """The rule of the package: the stamps of a wait and of a run."""

    def enqueue(self, earlier, own, now, *, may_get_lost):
        return stamps_of_enqueue(earlier, own, now, LONG_LAG_MS if may_get_lost else LAG_MS)

    def run(self, found, own, now):
        return stamp_of_run(found, own, now)


class Hops:
    """A rule that doesn't hold: a count of enqueueings, which starts again where it gets lost."""

    def enqueue(self, earlier, own, now, *, may_get_lost):
        return abs(earlier) + 1, abs(earlier) + 1

    def run(self, found, own, now):
        return max(found, 0)


@dataclasses.dataclass(order=True)
class Transition:
    """A transition: what decides, and when it really happened."""

    stamp: int
    phase: int
    time: int
    status: int
    real: float = dataclasses.field(compare=False)


class Life:
    """One message, from its making to its last outcome.

    Parameters:
      rule(Stamps): Which stamps there are.
      case(Case): The circumstances.
      rng(random.Random): Chance.
    """

    def __init__(self, rule, case, rng):
        self._rule = rule
        self._case = case
        self._rng = rng
        self._offsets = [rng.uniform(-case.skew, case.skew) for _ in range(HOSTS)]
        #: When the clock of the first host jumps, and by how much.
        self._jump = (1e9 + rng.uniform(0, 60), rng.uniform(-case.skew, case.skew))
        self._transitions = []

    def live(self):
        """Go through it; return its transitions, in the order of real time."""
        rng, case = self._rng, self._case
        real = 1e9
        host = self._host()
        self._own = self._now(real, host)
        if case.kind == "target":
            real, host = real + rng.uniform(0.01, 60), self._host()
        pause = PAUSES[case.pause]
        used = 0
        for number in range(1 if pause is None else 2):
            if number:
                real, host = real + rng.uniform(*pause), self._host()
            delay = rng.uniform(0.001, 20) if case.kind == "delayed" else None
            self._fault_in = rng.randint(1, 3) if case.fault != "none" else 0
            self._attempts = rng.choice([1, 2, 3])
            real += rng.uniform(0.00001, 0.002)
            real, used = self._send(real, host, used if case.is_same_object else 0, delay)
        self._transitions.sort(key=lambda one: one.real)
        return self._transitions

    def _host(self):
        return self._rng.randrange(HOSTS)

    def _now(self, real, host):
        offset = self._offsets[host]
        if host == 0 and self._case.jumps and real > self._jump[0]:
            offset += self._jump[1]
        return int((real + offset) * 1000)

    def _add(self, real, host, stamp, phase, status=0):
        self._transitions.append(Transition(stamp, phase, self._now(real, host), status, real))

    def _send(self, real, host, used, delay):
        """Send it; return when all that follows is over, and the stamp of the sender's object."""
        # A worker that sends what follows in a pipeline knows of the broker, a web process doesn't.
        knows = self._case.broker != CARRIED and self._case.kind == "target"
        stamps = self._rule.enqueue(used, self._own, self._now(real, host), may_get_lost=knows)
        return self._arrive(real, host, stamps, -used, 1, delay), stamps[1]

    def _enqueue(self, real, host, earlier, attempt, delay):
        """Enqueue it in a worker; return when all that follows is over."""
        knows = self._case.broker != CARRIED
        stamps = self._rule.enqueue(earlier, self._own, self._now(real, host), may_get_lost=knows)
        return self._arrive(real, host, stamps, 0, attempt, delay)

    def _arrive(self, real, host, stamps, encoded, attempt, delay):
        """``encoded`` is the stamp in the options before this enqueue."""
        rng, broker = self._rng, self._case.broker
        waiting, carried = stamps
        self._add(real, host, waiting, WAITING, int(delay is not None))
        found = carried if broker == CARRIED else encoded
        if delay is not None and broker != EARLY_NATIVE:
            # The consumer that has fetched it enqueues it when it is due.
            return self._enqueue(real + delay, self._host(), abs(found), attempt, None)
        real += (delay or 0) + rng.uniform(0.0005, 0.02)
        return self._run(real, self._host(), found, attempt)

    def _run(self, real, host, found, attempt):
        """Run it; return when all that follows is over."""
        rng, fault = self._rng, self._case.fault
        stamp = self._rule.run(found, self._own, self._now(real, host))
        self._add(real, host, stamp, RUNNING)
        began = real
        real += rng.uniform(0.001, 5)
        is_hit = self._fault_in == attempt
        if not is_hit:
            return self._end(real, host, stamp, attempt)
        self._fault_in = 0
        again = real + rng.uniform(0.005, 60)
        if fault == "redelivered while it runs":
            again = rng.uniform(began, real)
        second = self._run(again, self._host(), found, attempt)
        if fault == "killed while it runs":
            return second
        return max(second, self._end(real, host, stamp, attempt))

    def _end(self, real, host, stamp, attempt):
        """End a run: by a retry, or for good."""
        if attempt < self._attempts:
            delay = self._rng.uniform(*self._case.backoff)
            return self._enqueue(real, host, stamp, attempt + 1, delay)
        self._add(real, host, stamp, FINISHED, self._rng.randrange(3))
        return real


def verdict(transitions):
    """Compare the row in the end with the last transition in real time."""
    row, last = max(transitions), max(transitions, key=lambda one: one.real)
    if row.phase != FINISHED:
        return "stuck"  # All of them end, so the row should.
    if row is last:
        return "right"
    return "right" if row.status == last.status else "another outcome"


def unseen(transitions):
    """Return the share of runs whose beginning the row didn't show, by an earlier state that had a
    greater stamp or phase."""
    row = None
    runs = missed = 0
    for one in transitions:
        row = one if row is None else max(row, one)
        if one.phase == RUNNING:
            runs += 1
            missed += row is not one
    return missed / runs


def measure(case, lives, rule=None, seed=1):
    """Return in percent how often each verdict came, and how many runs weren't seen."""
    rng = random.Random(seed)
    found = Counter({"stuck": 0, "another outcome": 0})
    missed = 0.0
    for _ in range(lives):
        transitions = Life(rule or Stamps(), case, rng).live()
        found[verdict(transitions)] += 1
        missed += unseen(transitions)
    return {
        "stuck": 100 * found["stuck"] / lives,
        "another outcome": 100 * found["another outcome"] / lives,
        "unseen": 100 * missed / lives,
    }


def main(lives):
    """Print the shares of all cases but those where all are 0."""
    for broker in BROKERS:
        for kind in KINDS:
            for pause, seconds in PAUSES.items():
                for is_same in (False, True) if seconds else (False,):
                    for fault in FAULTS:
                        for skew in (0, 0.005, 0.05, 1, 5, 60, 3600):
                            case = Case(broker, kind, fault, pause, is_same, skew, skew > 5)
                            found = measure(case, lives)
                            if any(found.values()):
                                print(f"{case}: {found}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
