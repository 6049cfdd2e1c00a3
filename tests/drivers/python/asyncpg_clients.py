"""asyncpg, which prepares everything that has parameters, and keeps 100 statements a connection."""

import asyncio
import datetime
import decimal
import io
import uuid

import asyncpg

from harness import ASLEEP, MEGABYTE, SLEEPING, URL, digest, run, until_asleep

VALUES = [
    -7, 2**40, 1.1, decimal.Decimal("12345.678900"), "naïve 'text'", True, b"\x00\xff\\", '{"a": [1, null]}',
    datetime.datetime(2024, 2, 29, 12, 30, 1, 250000, datetime.timezone.utc), [1, None, 3], ["a,b", "", None, '"'],
    uuid.UUID(int=0x1234), datetime.date(1999, 12, 31), datetime.timedelta(days=3, seconds=1.5),
]  # fmt: skip
KINDS = ["int4", "int8", "float8", "numeric", "text", "bool", "bytea", "jsonb", "timestamptz", "int4[]", "text[]",
         "uuid", "date", "interval"]  # fmt: skip


async def connect():
    return await asyncpg.connect(URL)


async def refused(client, coroutine):
    try:
        await coroutine
        client.saw("no error")
    except asyncpg.PostgresError as error:
        client.saw("error", error.sqlstate, error)


async def types(client):
    query = "select " + ", ".join(f"${i}::{kind}" for i, kind in enumerate(KINDS, 1))
    for values in (VALUES, [None] * len(KINDS)):
        for _ in range(3):
            client.saw(tuple(await client.connection.fetchrow(query, *values)))


async def types_of_ones_own(client):
    # The driver asks the catalog about them, by statements that it prepares.
    name = f"pair_{client.number}"
    await client.connection.execute(f"create type {name} as (a int, b text[]); create domain {name}_text as text")
    for _ in range(3):
        row = await client.connection.fetchrow(f"select $1::{name}, array[$2::{name}_text]", (1, ["x", None]), "y")
        client.saw(tuple(row))


async def shared_statement(client):
    for i in range(12):
        query = "select $1::int * 2, $2::text"
        client.saw(await client.connection.fetch(query, client.number * 100 + i, f"of {client.number}"))


async def own_statements(client):
    for _ in range(5):
        for i in range(15):
            client.saw(await client.connection.fetchval(f"select {client.number} + {i} + $1::int", i))


async def statements_beyond_the_cache(client):
    # The driver closes the statements that it has not used for longest.
    for _ in range(2):
        client.saw(sum([await client.connection.fetchval(f"select $1::int + {i}", client.number) for i in range(110)]))


async def prepared_by_hand(client):
    statement = await client.connection.prepare("select $1::int8 + $2::int8 as total")
    client.saw(statement.get_parameters(), statement.get_attributes())
    for i in range(5):
        client.saw(await statement.fetchval(i, client.number))
    await client.connection.execute("deallocate all")
    await client.connection.reload_schema_state()
    client.saw(await client.connection.fetchval("select $1::int8 + $2::int8", 1, client.number))


async def many_rows_at_once(client):
    table = f"many_{client.number}"
    await client.connection.execute(f"create table {table} (i int check (i < 2000), s text)")
    insert = f"insert into {table} values ($1, $2)"
    await client.connection.executemany(insert, [(i, f"row {i}") for i in range(1000)])
    rows = [(i, "more") for i in range(1000)]
    await refused(client, client.connection.executemany(insert, [*rows, (3000, "too much"), *rows]))
    await client.connection.executemany(insert, rows[:10])
    client.saw(await client.connection.fetch(f"select count(*), sum(i), max(s) from {table}"))


async def transaction_with_error(client):
    for i in range(5):
        transaction = client.connection.transaction()
        await transaction.start()
        await client.connection.fetchval("select $1::int", i)
        await refused(client, client.connection.fetchval("select 1 / $1::int", 0))
        await refused(client, client.connection.fetchval("select $1::int", i))
        await refused(client, client.connection.fetchval(f"select $1::int + {i}", i))
        await transaction.rollback()
        client.saw(await client.connection.fetchval(f"select $1::int + {i}", i))
        await refused(client, client.connection.fetchval("select $1::int + nonsense", i))


async def savepoints(client):
    table = f"saved_{client.number}"
    await client.connection.execute(f"create table {table} (i int)")

    async def insert(i):
        async with client.connection.transaction():
            await client.connection.execute(f"insert into {table} values (10 / $1::int)", i)

    for i in range(1, 8):
        async with client.connection.transaction():
            await insert(i)
            await refused(client, insert(0))
    client.saw(await client.connection.fetchval(f"select array_agg(i order by i) from {table}"))


async def portals(client):
    async with client.connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await client.connection.cursor("select i, repeat('x', i) from generate_series(1, $1) i", 30)
        while rows := await cursor.fetch(8):
            client.saw(len(rows), rows[-1])
        walk = client.connection.cursor("select * from generate_series(1, $1::int)", 120, prefetch=7)
        client.saw(sum([row[0] async for row in walk]))


async def cancel(client):
    for i in range(2):
        async with SLEEPING:
            # A task that is canceled sends a cancel request.
            query = asyncio.create_task(client.connection.fetchval("select pg_sleep($1)", 60))
            await until_asleep(lambda: client.observer.fetchval(ASLEEP))
            query.cancel()
            client.saw(type((await asyncio.gather(query, return_exceptions=True))[0]).__name__)
            client.saw(await client.connection.fetchval("select $1::int", client.number))


async def copy(client):
    table = f"copied_{client.number}"
    connection = client.connection
    await connection.execute(f"create table {table} (i int, s text, b bytea)")
    records = [(i, None if i % 7 == 0 else f"line\n{i}\t", bytes([i % 256]) * 20) for i in range(500)]
    client.saw(await connection.copy_records_to_table(table, records=records))
    client.saw(await connection.copy_to_table(table, source=io.BytesIO(b"-1\ttext\t\\\\x00\n"), format="text"))
    for form in ("text", "binary", "csv"):
        out = io.BytesIO()
        query = f"select * from {table} where i < $1 order by i"
        client.saw(form, await connection.copy_from_query(query, 400, output=out, format=form), digest(out.getvalue()))


async def copy_with_error(client):
    table = f"copied_{client.number}"
    connection = client.connection
    for lines in (1, 100_000):
        source = io.BytesIO(b"not a number\n" * lines)
        await refused(client, connection.copy_to_table(table, source=source, format="text"))
    client.saw(await connection.fetchval(f"select count(*) from {table}"))


async def large_values(client):
    text, data = str(client.number) * MEGABYTE, bytes(range(256)) * (MEGABYTE // 256)
    for _ in range(3):
        row = await client.connection.fetchrow("select $1::text, $2::bytea, length($1)", text, data)
        client.saw(digest(row[0]), digest(row[1]), row[2])


async def reset(client):
    # What asyncpg's own pool does with a connection that is given back to it.
    await client.connection.reset()
    client.saw(await client.connection.fetchval("select $1::int * 2", client.number))


async def hold(client, together):
    if client.number == 0:
        await client.connection.execute("create table planned as select 1 as a")
    await together.wait()
    async with client.connection.transaction():
        await client.connection.fetch("select * from planned where a = $1", 1)
        await together.wait()


async def alter(client):
    await client.connection.execute("alter table planned add column b text default 'new'")


async def changed_plan(client):
    # The driver tries again by itself.
    client.saw(await client.connection.fetch("select * from planned where a = $1", 1))


SCENARIOS = [types, types_of_ones_own, shared_statement, own_statements, statements_beyond_the_cache, prepared_by_hand,
             many_rows_at_once, transaction_with_error, savepoints, portals, cancel, copy, large_values, reset, copy_with_error]  # fmt: skip
asyncio.run(run(connect, SCENARIOS, hold, alter, changed_plan))
