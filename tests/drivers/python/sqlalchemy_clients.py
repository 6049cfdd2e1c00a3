"""SQLAlchemy, on the driver that the second argument names: its pool, its transactions, its own cache of statements."""

import asyncio
import datetime
import decimal
import sys
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from harness import ASLEEP, CLIENTS, MEGABYTE, SLEEPING, URL, digest, run, until_asleep

DRIVER = sys.argv[2]
ENGINE = create_async_engine(URL.replace("postgresql:", f"postgresql+{DRIVER}:"), pool_size=CLIENTS + 1)


class Base(DeclarativeBase):
    type_annotation_map = {dict: JSONB, list[int | None]: ARRAY(sa.Integer), datetime.datetime: sa.DateTime(True)}


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    client: Mapped[int]
    name: Mapped[str | None]
    books: Mapped[list["Book"]] = relationship(order_by="Book.title")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    title: Mapped[str] = mapped_column(unique=True)
    price: Mapped[decimal.Decimal | None]
    data: Mapped[bytes | None]
    facts: Mapped[dict | None]
    marks: Mapped[list[int | None] | None]
    printed: Mapped[datetime.datetime | None]

    def told(self):
        printed = self.printed and self.printed.astimezone(datetime.timezone.utc).isoformat()
        return self.title, self.price, self.data, self.facts, self.marks, printed


async def connect():
    return await ENGINE.connect()


async def rows(client, query, **params):
    return (await client.connection.execute(sa.text(query), params)).all()


async def refused(client, coroutine):
    try:
        await coroutine
        client.saw("no error")
    except sa.exc.DBAPIError as error:
        client.saw("error", type(error).__name__, error.orig.sqlstate)


async def objects(client):
    async with AsyncSession(client.connection) as session:
        for i in range(7):
            author = Author(client=client.number, name=None if i == 3 else f"author {client.number}-{i}")
            author.books = [
                Book(title=f"{client.number}-{i}-{j}", price=decimal.Decimal("9.90") * j, data=bytes([i, 0, 255]),
                     facts={"i": [i, None]}, marks=[j, None], printed=datetime.datetime(2024, 2, 29, j, tzinfo=datetime.timezone.utc))
                for j in range(3)
            ]  # fmt: skip
            author.books.append(Book(title=f"{client.number}-{i}-bare"))
            session.add(author)
            await session.commit()
        query = sa.select(Author).where(Author.client == client.number).options(selectinload(Author.books))
        for author in await session.scalars(query.order_by(Author.name)):
            client.saw(author.name, [book.told() for book in author.books])
        await session.commit()


async def update_and_delete(client):
    async with AsyncSession(client.connection) as session:
        mine = Book.title.like(f"{client.number}-%")
        updated = await session.execute(sa.update(Book).where(mine, Book.price > 5).values(price=Book.price + 1).returning(Book.price))
        client.saw(sorted(updated.scalars()))
        deleted = await session.execute(sa.delete(Book).where(mine, Book.title.like("%-bare")))
        client.saw(deleted.rowcount)
        await session.commit()


async def shared_statement(client):
    for i in range(12):
        query = sa.select(sa.literal(client.number) + i, sa.literal(f"of {client.number}"))
        client.saw((await client.connection.execute(query)).all())
        await client.connection.commit()


async def own_statements(client):
    for _ in range(7):
        for i in range(15):
            client.saw(await rows(client, f"select {client.number} + {i}, cast(:s as text)", s=str(i)))
        await client.connection.rollback()


async def many_rows_at_once(client):
    table = sa.Table(f"many_{client.number}", sa.MetaData(), sa.Column("i", sa.Integer), sa.Column("s", sa.Text))
    await client.connection.run_sync(table.create)
    await client.connection.execute(table.insert(), [{"i": i, "s": f"row {i}"} for i in range(1000)])
    await client.connection.commit()
    inserted = await client.connection.execute(table.insert().returning(table.c.i), [{"i": i, "s": None} for i in range(1500)])
    client.saw(len(inserted.all()))
    await client.connection.rollback()
    client.saw(await rows(client, f"select count(*), sum(i), max(s) from {table.name}"))
    await client.connection.commit()


async def transaction_with_error(client):
    for i in range(8):
        await rows(client, "select cast(:i as int)", i=i)
        await refused(client, rows(client, "select 1 / cast(:i as int)", i=0))
        await refused(client, rows(client, "select cast(:i as int)", i=i))
        await client.connection.rollback()
        client.saw(await rows(client, "select 'after', cast(:i as int)", i=i))
        await client.connection.rollback()


async def savepoints(client):
    async with AsyncSession(client.connection) as session:

        async def twice():
            async with session.begin_nested():
                session.add(Book(title=f"{client.number}-0-0", author_id=1))

        for i in range(6):
            async with session.begin():
                session.add(Author(client=1000 + client.number, name=f"saved {i}"))
                await refused(client, twice())
        client.saw(await session.scalar(sa.select(sa.func.count()).where(Author.client == 1000 + client.number)))
        await session.commit()


async def streamed(client):
    result = await client.connection.stream(sa.text("select i, repeat('x', i) from generate_series(1, :n) i"), {"n": 300})
    client.saw(sum([len(row[1]) async for row in result]))
    await client.connection.commit()


async def cancel(client):
    async def asleep():
        count = await client.observer.scalar(sa.text(ASLEEP))
        await client.observer.rollback()
        return count

    async with SLEEPING:
        driver = (await client.connection.get_raw_connection()).driver_connection
        if DRIVER == "psycopg":
            query = asyncio.create_task(refused(client, rows(client, "select pg_sleep(60)")))
            await until_asleep(asleep)
            await driver.cancel_safe()
            await query
        else:
            query = asyncio.create_task(driver.fetchval("select pg_sleep(60)"))
            await until_asleep(asleep)
            query.cancel()
            client.saw(type((await asyncio.gather(query, return_exceptions=True))[0]).__name__)
    await client.connection.rollback()
    client.saw(await rows(client, "select 'goes on', cast(:i as int)", i=client.number))
    await client.connection.commit()


async def given_back_to_the_pool(client):
    for i in range(10):
        await client.connection.close()
        client.connection = await connect()
        client.saw(await rows(client, "select 'taken again', cast(:i as int)", i=i))


async def large_values(client):
    text, data = str(client.number) * MEGABYTE, bytes(range(256)) * (MEGABYTE // 256)
    query = sa.select(sa.literal(text), sa.literal(data), sa.func.length(sa.literal(text)))
    for _ in range(2):
        back_text, back_data, length = (await client.connection.execute(query)).one()
        client.saw(digest(back_text), digest(back_data), length)
        await client.connection.commit()


async def hold(client, together):
    if client.number == 0:
        await client.connection.execute(sa.text("create table planned as select 1 as a"))
        await client.connection.commit()
    await together.wait()
    for _ in range(6):
        await rows(client, "select * from planned where a = :a", a=1)
    await together.wait()
    await client.connection.commit()


async def alter(client):
    await client.connection.execute(sa.text("alter table planned add column b text default 'new'"))
    await client.connection.commit()


async def changed_plan(client):
    try:
        found = await rows(client, "select * from planned where a = :a", a=1)
    except sa.exc.NotSupportedError:
        # SQLAlchemy or the driver forgets the statement; the transaction is the application's to repeat.
        await client.connection.rollback()
        found = await rows(client, "select * from planned where a = :a", a=1)
    client.saw(found)
    await client.connection.commit()


async def main():
    async with ENGINE.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    scenarios = [objects, update_and_delete, shared_statement, own_statements, many_rows_at_once, transaction_with_error,
                 savepoints, streamed, cancel, given_back_to_the_pool, large_values]  # fmt: skip
    await run(connect, scenarios, hold, alter, changed_plan)


asyncio.run(main())
