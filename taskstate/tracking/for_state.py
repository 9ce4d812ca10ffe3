"""Finds the ``for_state`` of a message, and knows its keys.

A message carries its ``for_state`` as a keyword argument, as an option, or by position if its actor
has a parameter of that name.  An actor may be declared with a ``for_state``, too.  Since every hook
looks for it, the declaration of each actor is examined only once, when the actor is declared.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
import weakref
from typing import Any

import dramatiq

from taskstate.utils.warn_once import ActorWarnings

logger = logging.getLogger(__name__)

#: The parameter or the option that makes a message tracked.
FOR_STATE = "for_state"

#: The keys of a ``for_state``.  Others are ignored.
KEYS = frozenset({"user_pk", "description", "app_name", "model_name", "metadata"})

#: How similar an unknown key must be to a known one for that to be suggested, from 0 to 1.  It is
#: low enough for "desc" to suggest "description".
_SIMILARITY = 0.5

#: The position in place of None, for actors that don't take ``for_state`` by position.
_NO_POSITION = sys.maxsize


class DeclaredActor:
    """What the declaration of an actor says about ``for_state``.

    Parameters:
      state(dict): The ``for_state`` that the actor was declared with; None if there is none.
      position(int): The position of its parameter ``for_state``; None if there is none.
    """

    __slots__ = ("position", "state")

    def __init__(self, state: dict[str, Any] | None, position: int | None) -> None:
        self.state = state
        self.position = _NO_POSITION if position is None else position


def merge_for_state(actor: DeclaredActor | None, message: Any, own_state: object) -> object:
    """Return the ``for_state`` of a message.  Its own keys take precedence over those of its actor.

    Parameters:
      actor(DeclaredActor): The actor; None if its declaration says nothing about ``for_state``.
      message(Message): The message itself.
      own_state(object): The ``for_state`` that the message carries by keyword or as an option; None
        if there is none.
    """
    if actor is None:
        return own_state
    if own_state is None and len(message.args) > actor.position:
        own_state = message.args[actor.position]
    if actor.state is None:
        return own_state
    return {**actor.state, **own_state} if isinstance(own_state, dict) else actor.state


class DeclaredActors:
    """The declarations of all actors that use ``for_state``.

    They are found by the actor's name first, so that a message of any other actor costs a single
    look-up.  Then they are found by the broker, because brokers may share a middleware and have
    actors of the same name.
    """

    def __init__(self) -> None:
        #: By the name of the actor, and the ``id`` of the broker: the hash of a broker may be
        #: computed in Python, which is slow.
        self.by_name: dict[str, dict[int, DeclaredActor]] = {}
        #: Whether any actor was declared with a ``for_state``.
        self.have_states = False
        self._brokers: set[int] = set()
        self._warnings = ActorWarnings(logger)

    def declare(self, broker: dramatiq.Broker, actor: Any) -> None:
        """Record what the declaration of an actor says about ``for_state``.  It replaces an earlier
        declaration of the same name."""
        state = actor.options.get(FOR_STATE)
        if state is not None and not isinstance(state, dict):
            logger.error(
                "Actor %s is declared with for_state=%.100r, which is a %s, not a dict. This "
                "for_state is ignored. To track all messages of the actor, use for_state={}.",
                actor.actor_name,
                state,
                type(state).__name__,
            )
            state = None
        position = _position_in(actor.fn)
        if state is None and position is None:
            self.by_name.get(actor.actor_name, {}).pop(id(broker), None)
            return
        if id(broker) not in self._brokers:
            self._brokers.add(id(broker))
            # A new broker may get the id of one that was deleted.
            weakref.finalize(broker, self._forget, id(broker)).atexit = False
        self.have_states = self.have_states or state is not None
        self.by_name.setdefault(actor.actor_name, {})[id(broker)] = DeclaredActor(state, position)

    def position_of(self, message: Any) -> int | None:
        """Return the position of the ``for_state`` that a message carries by position; None if it
        carries none."""
        for actor in list(self.by_name.get(message.actor_name, {}).values()):
            if len(message.args) > actor.position:
                return actor.position
        return None

    def warn_of_unknown_keys(self, actor_name: str, state: dict[Any, Any]) -> None:
        """Warn of unknown keys once per actor, and suggest the known keys that they resemble."""
        for key in state:
            if key not in KEYS:
                self._warnings.warn(
                    actor_name,
                    "for_state of actor %s has the key %.100r, which is ignored.%s The keys are "
                    "%s; data of your own goes into 'metadata'. Later messages of this actor are "
                    "not logged.",
                    key,
                    suggestion(key),
                    ", ".join(sorted(KEYS)),
                )

    def _forget(self, broker: int) -> None:
        self._brokers.discard(broker)
        for actors in list(self.by_name.values()):
            actors.pop(broker, None)


def _position_in(fn: Any) -> int | None:
    """Return the position of a function's parameter ``for_state``; None if it has none, or takes it
    by keyword only."""
    # A class-based actor passes its arguments on to this method.
    fn = fn.perform if isinstance(fn, dramatiq.GenericActor) else fn
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # Some functions have no signature.
        return None
    for position, parameter in enumerate(parameters):
        if parameter.kind not in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            break
        if parameter.name == FOR_STATE:
            return position
    return None


def suggestion(key: object) -> str:
    """Return a question that suggests a known key in place of an unknown one; empty if none is
    similar."""
    found = difflib.get_close_matches(str(key)[:100], KEYS, n=1, cutoff=_SIMILARITY)
    return f" Did you mean {found[0]!r}?" if found else ""
