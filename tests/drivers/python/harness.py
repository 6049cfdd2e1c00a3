"""What the Python programs share: many clients at once, each keeping a transcript of what it saw.

A transcript holds results and errors, no times and no process ids, so that two runs can be compared.
"""

import asyncio
import contextlib
import hashlib
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any

CLIENTS = 20
SERVERS = 4
SCENARIO_SECONDS_MAX = 60
MEGABYTE = 1 << 20

URL = sys.argv[1]


@dataclass
class Client:
    number: int
    connection: Any
    # Looks at the others from a connection of its own.
    observer: Any
    lines: list[str] = field(default_factory=list)

    def saw(self, *what):
        self.lines.append(" ".join(str(one) for one in what))


# Only one client sleeps at a time: who looks whether it does needs a server too.
SLEEPING = asyncio.Lock()
ASLEEP = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"


async def until_asleep(count):
    """Waits for the query to be canceled: a cancel request that comes before it is nothing to PostgreSQL."""
    async with asyncio.timeout(SCENARIO_SECONDS_MAX):
        while await count() != 1:
            await asyncio.sleep(0.005)


def digest(data):
    data = data.encode() if isinstance(data, str) else bytes(data)
    return f"{len(data)} bytes {hashlib.md5(data).hexdigest()}"


async def play(client, scenarios, connect):
    for scenario in scenarios:
        client.saw(f"# {scenario.__name__}")
        try:
            async with asyncio.timeout(SCENARIO_SECONDS_MAX):
                await scenario(client)
        except Exception as error:
            client.saw("UNEXPECTED", type(error).__name__, error)
            traceback.print_exc()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await client.connection.close()
            client.connection = await connect()


async def change_plan(clients, connect, hold, alter, read):
    """A prepared statement's result type changes.

    Before, it is used in SERVERS transactions at once, so that every server knows it, whoever serves whom.
    """
    for first in range(0, CLIENTS, SERVERS):
        together = asyncio.Barrier(SERVERS)
        await asyncio.gather(*(hold(client, together) for client in clients[first : first + SERVERS]))
    await alter(clients[0])
    for client in clients:
        await play(client, [read], connect)


async def run(connect, scenarios, hold, alter, read):
    observer = await connect()
    connections = await asyncio.gather(*(connect() for _ in range(CLIENTS)))
    clients = [Client(number, connection, observer) for number, connection in enumerate(connections)]
    await asyncio.gather(*(play(client, scenarios, connect) for client in clients))
    await change_plan(clients, connect, hold, alter, read)
    for client in clients:
        print(f"== client {client.number}", *client.lines, sep="\n")
