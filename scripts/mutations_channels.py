"""The mutations of a channel: its rings, the worker's side and the client's. What orders memory is with tests/memory_model."""

from __future__ import annotations

from mutation import Mutation

RINGS, INLINE, SERVER = "rings.pyx", "rings.pxd", "server/channels.pyx"
CLIENT, WAITS = "client/channel.pyx", "client/channel_waits.pxd"
SIDES = ("rings", "server/channels", "client/channel")  # what the functions of rings.pxd are compiled into
CALLS = ("tests/client/test_channel_calls.py",)
WIRE = ("tests/server/test_channels.py",)
DEATHS = ("tests/server/test_channel_deaths.py",)
HOSTILE = ("tests/server/test_hostile_channels.py",)
HOSTILE_SERVERS = ("tests/client/test_hostile_servers.py",)
CHECKED_TAIL = "    if tail - ring.mine > ring.size:\n"
CHECKED_HEAD = "    if ring.mine - head > ring.size:\n"

CHANNELS = [
    Mutation("channel: a tail is believed", INLINE, CHECKED_TAIL, "    if False:\n", SIDES, tests=HOSTILE_SERVERS + HOSTILE),
    Mutation("channel: a head is believed", INLINE, CHECKED_HEAD, "    if False:\n", SIDES, tests=HOSTILE_SERVERS + HOSTILE),
    Mutation(
        "channel: a tail one byte too far is believed",
        INLINE,
        CHECKED_TAIL,
        CHECKED_TAIL.replace("ring.size", "ring.size + 1"),
        SIDES,
        tests=HOSTILE,
    ),
    Mutation(
        "channel: a pull ends at the ring's end", RINGS, "    memcpy(dst + first, ring.data, count - first)\n", "", SIDES, tests=CALLS
    ),
    Mutation(
        "channel: a push ends at the ring's end", RINGS, "    memcpy(ring.data, src + first, count - first)\n", "", SIDES, tests=CALLS
    ),
    Mutation(
        "channel: nobody is told of room",
        INLINE,
        "        load_relaxed32(end.their_waits) & WAITS_ROOM != 0\n        and ",
        "        False\n        and ",
        SIDES,
        tests=CALLS,
    ),
    Mutation(
        "channel: nobody asks to be woken",
        INLINE,
        "    store_relaxed32(end.my_waits, bits)\n",
        "    store_relaxed32(end.my_waits, 0)\n",
        SIDES,
        tests=CALLS,
    ),
    Mutation(
        "channel: the end is not heard",
        INLINE,
        "    return load_acquire32(end.their_closed) != 0\n",
        "    return False\n",
        SIDES,
        tests=CALLS,
    ),
    Mutation("channel: any block is taken", RINGS, " or fcntl(fd, F_GET_SEALS) & SEALS != SEALS:\n", ":\n", SIDES, tests=HOSTILE_SERVERS),
    Mutation(
        "channel: a block's size is believed",
        RINGS,
        "    if <uint64_t> status.st_size != DATA_AT + request_bytes + reply_bytes:\n",
        "    if False:\n",
        SIDES,
        tests=HOSTILE_SERVERS,
    ),
    Mutation("channel: a client's end is not heard", SERVER, "        (<Channel *> c.channel).gone = True\n", "", SIDES[1:2], tests=DEATHS),
    Mutation(
        "channel: a client that leaves its replies is kept",
        SERVER,
        "room(&channel.end) >= wanted or channel.end.broken or channel.gone\n",
        "room(&channel.end) >= wanted or channel.end.broken\n",
        SIDES[1:2],
        tests=DEATHS,
    ),
    Mutation(
        "channel: its bell is listened to for ever",
        SERVER,
        "            epoll_ctl(self.epoll, EPOLL_CTL_DEL, channel.bell, NULL)\n",
        "",
        SIDES[1:2],
        tests=HOSTILE,
    ),
    Mutation("channel: its bell is kept", SERVER, "            close(channel.bell)\n", "            pass\n", SIDES[1:2], tests=DEATHS),
    Mutation("channel: its memory is kept", SERVER, "        unmap_block(&channel.end)\n", "", SIDES[1:2], tests=DEATHS),
    Mutation(
        "channel: one too many",
        SERVER,
        "        if open_channels <= self.most:\n",
        "        if open_channels <= self.most + 1:\n",
        SIDES[1:2],
        tests=WIRE,
    ),
    Mutation(
        "channel: a dead worker is not noticed",
        WAITS,
        "            hung_up = has_hung_up(fd)      #",
        "            hung_up = False     #",
        SIDES[2:],
        tests=DEATHS,
    ),
    Mutation(
        "channel: replies wait until all is sent",
        CLIENT,
        "                self._take_in()\n",
        "                self._wait(WAITS_ROOM, limit_ns)\n",
        SIDES[2:],
        tests=CALLS,
    ),
    Mutation("channel: descriptors are inherited", CLIENT, ", socket.MSG_CMSG_CLOEXEC)", ")", SIDES[2:], tests=WIRE),
]
