"""Lookups in a ledger in memory: what is due, and figures for operators and metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker_core.dispatches import transitions
from broker_core.dispatches.dispatch import Dispatch, SealedRequest, State
from broker_core.dispatches.ledger import DeadLetters, Group
from broker_core.dispatches.memory_entries import Entries, Entry, accepted_at, due_at, is_due, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from datetime import datetime, timedelta
    from uuid import UUID

    from broker_core.dispatches.ledger import Selection


class MemoryLookups:
    """A part of `MemoryLedger`."""

    entries: Entries
    _clock: Callable[[], datetime]
    _late: timedelta

    def sealed(self, dispatch_id: UUID) -> SealedRequest | None:
        entry = self.entries.get(dispatch_id)
        return None if entry is None else entry.sealed

    def response(self, dispatch: Dispatch) -> str | None:
        entry = self.entries.get(dispatch.id)
        return None if entry is None else entry.response

    def last_wanted(self, dispatch: Dispatch) -> datetime:
        entry = self.entries.get(dispatch.id)
        return dispatch.accepted_at if entry is None else entry.last_wanted()

    def is_revived(self, dispatch_id: UUID) -> bool:
        entry = self.entries.get(dispatch_id)
        return entry is not None and bool(entry.revived_at)

    def queues(self, state: State) -> Iterator[str]:
        return iter(sorted({each.dispatch.queue for each in self._all() if each.dispatch.state is state}))

    def due_queues(self, now: datetime, most: int) -> set[str]:
        due = [each.dispatch for each in self._all() if is_due(each.dispatch, now)]
        return {dispatch.queue for dispatch in sorted(due, key=due_at)[:most]}

    def to_publish(self, queue: str, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        due = [each for each in self._waiting(queue, skip) if is_due(each.dispatch, now)]
        return [each.sealed for each in sorted(due, key=lambda each: due_at(each.dispatch))[:most]]

    def published(self, queue: str, before: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        published = [
            (each.dispatch.published_at, each.sealed)
            for each in self._waiting(queue, skip)
            if each.dispatch.published_at is not None
            and each.dispatch.due_at is None
            and each.dispatch.published_at <= before
        ]
        return [sealed for _at, sealed in sorted(published, key=lambda pair: pair[0])[:most]]

    def lapsed(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        running = [each.dispatch for each in self._all() if each.dispatch.lease_ends_at is not None]
        lapsed = [dispatch for dispatch in running if due_at(dispatch) <= now and dispatch.id not in skip]
        return sorted(lapsed, key=due_at)[:most]

    def unwanted(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        waiting = [each.dispatch for each in self._all() if each.dispatch.state is State.QUEUED]
        expired = [dispatch for dispatch in waiting if dispatch.has_expired(now) and dispatch.id not in skip]
        return sorted(expired, key=lambda dispatch: dispatch.expires_at or now)[:most]

    def forgotten(self, queue: str, before: datetime, most: int) -> list[UUID]:
        waiting = [each for each in self._waiting(queue) if each.last_wanted() <= before]
        return [each.dispatch.id for each in sorted(waiting, key=accepted_at)[:most]]

    def holds_up(self, queue: str, now: datetime | None = None) -> bool:
        late_since = (now or self._clock()) - self._late
        return len(self.to_publish(queue, late_since, transitions.A_FEW + 1)) > transitions.A_FEW

    def count(self) -> int:
        return len(self.entries)

    def select(self, selection: Selection, most: int) -> list[Dispatch]:
        selected = [each for each in self._all() if matches(each.dispatch, selection)]
        return [each.dispatch for each in sorted(selected, key=accepted_at, reverse=True)[:most]]

    def depth(self, queue: str, most: int | None = None) -> int:
        return len(self._waiting(queue)[:most])

    def oldest(self, queue: str) -> datetime | None:
        return min((accepted_at(each) for each in self._waiting(queue) if not each.dispatch.attempts), default=None)

    def newest(self, queue: str) -> datetime | None:
        return max(map(accepted_at, self._waiting(queue)), default=None)

    def arrivals(self, queue: str, since: datetime, until: datetime) -> int:
        accepted = [each.dispatch.accepted_at for each in self._all() if each.dispatch.queue == queue]
        return sum(since < at <= until for at in accepted)

    def latest_seal(self) -> str:
        return max(self._all(), key=accepted_at).seal if self.entries else ""

    def late(self, before: datetime) -> list[Group]:
        waiting = [each for each in self._all() if each.dispatch.state is State.QUEUED and not each.is_handed_back]
        late = [each for each in waiting if accepted_at(each) < before and (each.dispatch.due_at or before) <= before]
        return _groups((each.dispatch.queue, each.dispatch.accepted_at, "") for each in late)

    def handed_back(self) -> list[Group]:
        waiting = [each for each in self._all() if each.dispatch.state is State.QUEUED and each.is_handed_back]
        return _groups((each.dispatch.queue, accepted_at(each), each.ended_attempts[-1].error) for each in waiting)

    def overdue(self, now: datetime) -> list[Group]:
        return _groups((each.worker, due_at(each), "") for each in self.lapsed(now, len(self.entries)))

    def at_work(self, now: datetime) -> set[tuple[str, str]]:
        running = [each.dispatch for each in self._all() if each.dispatch.state is State.RUNNING]
        return {(dispatch.worker, dispatch.queue) for dispatch in running if due_at(dispatch) > now}

    def dead_letters(self, selection: Selection) -> Iterator[UUID]:
        return iter([entry.dispatch.id for entry in self._dead_letters(selection)])

    def count_dead_letters(self, selection: Selection) -> int:
        return len(self._dead_letters(selection))

    def dead_letters_by_error(self, selection: Selection) -> list[DeadLetters]:
        groups: dict[tuple[str, str, str], list[Dispatch]] = {}
        for entry in self._dead_letters(selection):
            dispatch = entry.dispatch
            groups.setdefault((dispatch.queue, dispatch.state, dispatch.error), []).append(dispatch)
        letters = [
            DeadLetters(
                *key,
                len(group),
                min(each.accepted_at for each in group),
                max(each.finished_at or each.accepted_at for each in group),
            )
            for key, group in groups.items()
        ]
        return sorted(letters, key=lambda each: -each.count)

    def _all(self) -> list[Entry]:
        with self.entries.lock:
            return [replace(entry) for entry in self.entries.values()]

    def _waiting(self, queue: str, skip: Collection[UUID] = ()) -> list[Entry]:
        queued = [each for each in self._all() if each.dispatch.state is State.QUEUED]
        return [each for each in queued if each.dispatch.queue == queue and each.dispatch.id not in skip]

    def _dead_letters(self, selection: Selection) -> list[Entry]:
        return [each for each in self._all() if each.is_dead_letter and matches(each.dispatch, selection)]


def _groups(found: Iterable[tuple[str, datetime, str]]) -> list[Group]:
    by_key: dict[str, list[tuple[datetime, str]]] = {}
    for key, at, error in found:
        by_key.setdefault(key, []).append((at, error))
    return [
        Group(key, len(each), min(at for at, _error in each), max(error for _at, error in each))
        for key, each in sorted(by_key.items())
    ]
