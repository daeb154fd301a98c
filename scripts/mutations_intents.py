"""Mutations of what a writer notes before a change, and of what it tells of one: see mutations.py."""

from __future__ import annotations

from mutation import Mutation, turned, without

PUBLISHING = ("claims", "evict", "index", "placing", "recovery", "room")
BEGINNING = ("claims", "index", "placing", "recovery")
RECOVERY = "recovery.pxd"
_DONE = "    done(v, s, operation, feed)\n"
_PUBLISH = (
    """    note(v, s, operation, slot, word, 0, feed)
    store_release64(slot, word)
"""
    + _DONE
)
_STORED = "    store_release64(slot, word)\n" + _DONE
_STORED_LAST = _DONE + "    store_release64(slot, word)\n"
_TOLD = """    if feed != 0:
        announce(v, s, feed)
"""
_NOTE_MARK = "    note(v, t.shard, OP_MARK, t.place.slot, t.place.slot[0], sizes.state, 0)\n"

FEED = [
    Mutation(
        "feed: repair tells nothing", "recovery.pyx", "            tell(v, s)\n", "", ("recovery",), ("set, new", "delete"), listened=True
    ),
    Mutation(
        "feed: the event is not in the intent",
        RECOVERY,
        "    store_relaxed64(&intent.feed, feed)\n",
        "",
        PUBLISHING,
        ("set, new", "set, expired"),
        listened=True,
    ),
    Mutation(
        "feed: told before the change is published",
        RECOVERY,
        _PUBLISH,
        _PUBLISH.replace("    store_release64(slot", _TOLD + "    store_release64(slot"),
        PUBLISHING,
        ("set, new", "delete"),
        listened=True,
    ),
    Mutation("feed: told only by repair", RECOVERY, _TOLD, "", PUBLISHING, ("set, new",), listened=True),
    Mutation(
        "feed: an expiry is told as an eviction",
        "evict.pyx",
        "FEED_EXPIRE if operation == OP_EXPIRE else FEED_EVICT)\n",
        "FEED_EVICT)\n",
        ("evict",),
        ("reaping",),
        listened=True,
    ),
    Mutation(
        "feed: what was flushed is told to go",
        "evict.pyx",
        "    if r == NULL or r.version <= load_relaxed64(&s.control.cutoff):\n        return 0\n    sizes",
        "    if r == NULL:\n        return 0\n    sizes",
        ("evict",),
        ("reaping, flushed",),
        listened=True,
    ),
]
INTENTS = [
    Mutation("intent: begin without the pid", RECOVERY, "    store_relaxed32(&s.control.intent.pid, v.my_pid)\n", "", BEGINNING),
    Mutation(
        "intent: begin without forgetting the slot",
        RECOVERY,
        "    store_relaxed32(&s.control.intent.pid, v.my_pid)\n    store_relaxed64(&s.control.intent.slot, 0)\n",
        "    store_relaxed32(&s.control.intent.pid, v.my_pid)\n",
        BEGINNING,
        ("set, new",),
    ),
    Mutation(
        "intent: begin without the operation",
        RECOVERY,
        "    store_release32(&s.control.intent.operation, <uint32_t> operation)\n    fence_release()\n",
        "    fence_release()\n",
        BEGINNING,
        ("set, new",),
    ),
    Mutation(
        "intent: end left out",
        RECOVERY,
        "    store_release32(&s.control.intent.operation, OP_NONE)\n",
        "    pass\n",
        BEGINNING,
        ("set, new",),
    ),
    Mutation(
        "intent: noted without the new word", RECOVERY, "    store_relaxed64(&intent.new_word, word)\n", "", PUBLISHING, ("set, new",)
    ),
    Mutation(
        "intent: noted without the new expiry", RECOVERY, "    store_relaxed32(&intent.new_field, field)\n", "", PUBLISHING, ("touch",)
    ),
    Mutation(
        "intent: noted without the operation",
        RECOVERY,
        "    store_release32(&intent.operation, <uint32_t> operation)\n",
        "",
        PUBLISHING,
        ("eviction, elements",),
    ),
    Mutation(
        "intent: noted without the slot",
        RECOVERY,
        "    store_release64(&intent.slot, <uint64_t> (<char *> slot - <char *> v.base))\n",
        "",
        PUBLISHING,
        ("set, new",),
    ),
    Mutation(
        "intent: noted after publishing",
        RECOVERY,
        _PUBLISH,
        turned(without(_PUBLISH, _DONE), 1),
        PUBLISHING,
        ("set, new",),
    ),
    Mutation(
        "intent: said to be done before publishing",
        RECOVERY,
        _PUBLISH,
        _PUBLISH.replace(_STORED, _STORED_LAST),
        PUBLISHING,
        ("set, new", "delete"),
    ),
    Mutation(
        "intent: never said to be done",
        RECOVERY,
        "    store_relaxed32(&s.control.intent.operation, <uint32_t> operation | DONE)\n",
        "",
        PUBLISHING,
        ("compaction",),
    ),
    Mutation("intent: repair does not note itself", "recovery.pyx", "    begin(v, s, OP_REPAIR)\n", "", ("recovery",), ("set, smaller",)),
    Mutation(
        "intent: a flush is not noted",
        "recovery.pyx",
        "    begin(v, s, OP_FLUSH)\n",
        "",
        ("recovery",),
        ("flush",),
    ),
    Mutation("intent: a split is not noted", "index.pyx", "    begin(v, s, OP_SPLIT)\n", "", ("index",), ("split",)),
    Mutation("intent: a mark is not noted", "claims.pyx", _NOTE_MARK, "", ("claims",), ("win",)),
    Mutation("intent: a merge is not noted", "index.pyx", "    begin(v, s, OP_MERGE)\n", "", ("index",), ("merge",)),
]
