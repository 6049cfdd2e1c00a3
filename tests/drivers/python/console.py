"""The console with psycopg and asyncpg as they come: with transactions, with prepared statements, with binary results."""

import asyncio
import sys

import asyncpg
import psycopg
from psycopg import pq

url = sys.argv[1]


def with_psycopg():
    # In a transaction, as by default.
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for command in ["SHOW STATS", "SHOW POOLS", "SHOW CONFIG", "SHOW DATABASES"]:
            rows = cursor.execute(command).fetchall()
            assert rows and len(rows[0]) == len(cursor.description), command
        cursor.execute("SET query_wait_timeout = 77")
        rows = cursor.execute("SHOW CONFIG", prepare=True, binary=True).fetchall()
        assert ("query_wait_timeout", "77", "120", "yes") in rows, rows
        cursor.execute("RELOAD")
        assert cursor.description is None
        try:
            cursor.execute("PAUSE %s", ["app"])
            raise SystemExit("a parameter was taken")
        except psycopg.errors.FeatureNotSupported as error:
            assert "parameters are not supported" in str(error), error
    # What it has prepared by itself, it gives up with a transaction that fails.
    with psycopg.connect(url) as connection:
        for _ in range(10):
            connection.execute("SHOW LISTS")
        connection.rollback()
        assert connection.execute("SHOW LISTS").fetchall()
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        for _ in range(10):
            rows = cursor.execute("SHOW LISTS").fetchall()
        items = dict(rows)
        assert cursor.pgresult.fformat(1) == pq.Format.BINARY
        assert items["databases"] == 2 and items["used_clients"] == 1, items
        with connection.pipeline():
            state = connection.execute("SHOW STATE", binary=True)
            version = connection.execute("SHOW VERSION", binary=True)
        assert state.fetchone() == ("active", "yes") and version.fetchone()
    print("psycopg")


async def with_asyncpg():
    connection = await asyncpg.connect(url)
    for _ in range(3):
        rows = {row["name"]: row["value"] for row in await connection.fetch("SHOW TOTALS")}
    assert rows["total_query_count"] > 5, rows
    async with connection.transaction():
        assert await connection.fetchval("SHOW VERSION")
        pools = await connection.fetch("SHOW POOLS")
    assert pools[-1]["database"] == "pgbouncer" and pools[-1]["cl_active"] == 1, pools
    assert await connection.execute("RECONNECT app") == "RECONNECT"
    try:
        await connection.fetch("SHOW NONSENSE")
        raise SystemExit("nonsense was shown")
    except asyncpg.exceptions.ProtocolViolationError as error:
        assert "invalid command 'SHOW NONSENSE'" in str(error), error
    async with connection.transaction():
        some = [row["key"] async for row in connection.cursor("SHOW CONFIG", prefetch=10)]
    assert len(some) > 90, len(some)
    await connection.close()
    print("asyncpg")


with_psycopg()
asyncio.run(with_asyncpg())
