"""psycopg 3, which prepares on the server what it has executed five times."""

import asyncio
import datetime
import decimal
import uuid

import psycopg
from psycopg.types.json import Jsonb

from harness import ASLEEP, MEGABYTE, SLEEPING, URL, digest, run, until_asleep

VALUES = [
    -7, 2**40, 1.1, decimal.Decimal("12345.678900"), "naïve 'text'", True, b"\x00\xff\\", Jsonb({"a": [1, None]}),
    datetime.datetime(2024, 2, 29, 12, 30, 1, 250000, datetime.timezone.utc), [1, None, 3], ["a,b", "", None, '"'],
    uuid.UUID(int=0x1234), datetime.date(1999, 12, 31), datetime.timedelta(days=3, seconds=1.5),
]  # fmt: skip
KINDS = ["int4", "int8", "float8", "numeric", "text", "bool", "bytea", "jsonb", "timestamptz", "int4[]", "text[]",
         "uuid", "date", "interval"]  # fmt: skip


async def connect():
    return await psycopg.AsyncConnection.connect(URL)


async def fetch(client, query, params=None, **options):
    return await (await client.connection.execute(query, params, **options)).fetchall()


async def refused(client, coroutine):
    try:
        await coroutine
        client.saw("no error")
    except psycopg.Error as error:
        client.saw("error", error.sqlstate, error.diag.message_primary if error.diag else error)


async def types(client):
    query = "select " + ", ".join(f"%s::{kind}" for kind in KINDS)
    for binary in (False, True):
        for values in (VALUES, [None] * len(KINDS)):
            seen = []
            for _ in range(8):
                cursor = client.connection.cursor(binary=binary)
                row = await (await cursor.execute(query, values)).fetchone()
                seen += [row] if row not in seen else []
            client.saw(*seen)
    await client.connection.commit()


async def shared_statement(client):
    for i in range(12):
        rows = await fetch(client, "select %s::int * 2, %s::text", [client.number * 100 + i, f"of {client.number}"])
        client.saw(rows)
        await client.connection.commit()


async def own_statements(client):
    await client.connection.set_autocommit(True)
    for _ in range(7):
        rows = [await fetch(client, f"select {client.number} + {i}, %s::text", [str(i)]) for i in range(15)]
        client.saw(*(row for result in rows for row in result))
    await client.connection.set_autocommit(False)


async def prepared_by_hand(client):
    for _ in range(2):
        for i in range(3):
            client.saw(await fetch(client, "select %s::int8 + %s::int8", [i, client.number], prepare=True))
        await client.connection.execute("deallocate all")
        await client.connection.commit()


async def pipeline(client):
    async with client.connection.pipeline() as pipe:
        cursors = [await client.connection.execute("select %s::int + 1", [i]) for i in range(20)]
        await pipe.sync()
        cursors += [await client.connection.execute("select %s::text, %s::int", [str(i), i]) for i in range(20)]
        client.saw(*[await cursor.fetchone() for cursor in cursors])
    await client.connection.commit()


async def pipeline_with_error(client):
    await client.connection.set_autocommit(True)
    await client.connection.execute(f"create table pipelined_{client.number} (i int)")

    async def broken():
        async with client.connection.pipeline():
            for i in (1, 2, 0, 4):
                await client.connection.execute(f"insert into pipelined_{client.number} values (4 / %s::int)", [i])

    for _ in range(6):
        await refused(client, broken())
    client.saw(await fetch(client, f"select count(*), sum(i) from pipelined_{client.number}"))
    await client.connection.set_autocommit(False)


async def transaction_with_error(client):
    for i in range(8):
        await client.connection.execute("select %s::int", [i])
        await refused(client, client.connection.execute("select 1 / %s::int", [0]))
        await refused(client, client.connection.execute("select %s::int", [i]))
        await client.connection.rollback()
        client.saw(await fetch(client, "select 'after', %s::int", [i]))
        await client.connection.rollback()


async def savepoints(client):
    await client.connection.execute(f"create table saved_{client.number} (i int)")
    insert = f"insert into saved_{client.number} values (10 / %s::int)"

    async def fail():
        async with client.connection.transaction():
            await client.connection.execute(insert, [0])

    for i in range(1, 8):
        async with client.connection.transaction():
            await client.connection.execute(insert, [i])
            await refused(client, fail())
    client.saw(await fetch(client, f"select array_agg(i order by i) from saved_{client.number}"))
    await client.connection.commit()


async def server_side_cursor(client):
    async with client.connection.cursor(name="walk") as cursor:
        await cursor.execute("select i, repeat('x', i) from generate_series(1, %s) i", [30])
        while rows := await cursor.fetchmany(8):
            client.saw(len(rows), rows[-1])
    await client.connection.commit()


async def cancel(client):
    async def asleep():
        count = (await (await client.observer.execute(ASLEEP)).fetchone())[0]
        await client.observer.commit()
        return count

    for _ in range(2):
        async with SLEEPING:
            query = asyncio.create_task(refused(client, client.connection.execute("select pg_sleep(60)")))
            await until_asleep(asleep)
            await client.connection.cancel_safe()
            await query
        await client.connection.rollback()
        # Nothing runs: the request must hit nobody, whoever has the server now.
        await client.connection.cancel_safe()
        client.saw(await fetch(client, "select 'goes on', %s::int", [client.number]))
        await client.connection.commit()


async def copy(client):
    table = f"copied_{client.number}"
    await client.connection.execute(f"create table {table} (i int, s text, b bytea)")
    cursor = client.connection.cursor()
    for form in ("text", "binary"):
        async with cursor.copy(f"copy {table} from stdin (format {form})") as into:
            into.set_types(["int4", "text", "bytea"])
            for i in range(500):
                await into.write_row((i, None if i % 7 == 0 else f"line\n{i}\t", bytes([i % 256]) * 20))
        client.saw(form, cursor.rowcount)
        async with cursor.copy(f"copy (select * from {table} order by i, s) to stdout (format {form})") as out:
            client.saw(digest(b"".join([bytes(block) async for block in out])))
    await client.connection.commit()

    async def broken():
        async with cursor.copy(f"copy {table} from stdin") as into:
            await into.write(b"1\ttext\t\\\\x00\nnot a number\ttext\t\n")

    await refused(client, broken())
    await client.connection.rollback()
    client.saw(await fetch(client, f"select count(*) from {table}"))
    await client.connection.commit()


async def large_values(client):
    text, data = str(client.number) * MEGABYTE, bytes(range(256)) * (MEGABYTE // 256)
    for binary in (False, True):
        cursor = client.connection.cursor(binary=binary)
        await cursor.execute("select %s::text, %s::bytea, length(%s::text)", [text, data, text])
        back_text, back_data, length = await cursor.fetchone()
        client.saw(digest(back_text), digest(back_data), length)
        await client.connection.commit()


async def hold(client, together):
    if client.number == 0:
        await client.connection.execute("create table if not exists planned as select 1 as a")
        await client.connection.commit()
    await together.wait()
    await fetch(client, "select * from planned", prepare=True)
    await together.wait()
    await client.connection.commit()


async def alter(client):
    await client.connection.execute("alter table planned add column b text default 'new'")
    await client.connection.commit()


async def changed_plan(client):
    try:
        rows = await fetch(client, "select * from planned")
    except psycopg.errors.FeatureNotSupported:
        # The driver forgets what it has prepared when it rolls back.
        await client.connection.rollback()
        rows = await fetch(client, "select * from planned")
    client.saw(rows)
    await client.connection.commit()


SCENARIOS = [types, shared_statement, own_statements, prepared_by_hand, pipeline, pipeline_with_error,
             transaction_with_error, savepoints, server_side_cursor, cancel, copy, large_values]  # fmt: skip
asyncio.run(run(connect, SCENARIOS, hold, alter, changed_plan))
