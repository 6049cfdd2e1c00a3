// Prisma, whose client compiles queries by WebAssembly and sends them by its node-postgres adapter.
'use strict'

const { PrismaPg } = require('@prisma/adapter-pg')
const { Prisma, PrismaClient } = require('@prisma/client')
const { CLIENTS, MEGABYTE, digest, play, run, url } = require('./harness.js')

// Its own pool of connections. Every client is in a transaction: some wait for a server.
const prisma = new PrismaClient({
  adapter: new PrismaPg({ connectionString: url, max: CLIENTS }),
  errorFormat: 'minimal',
  transactionOptions: { maxWait: 60_000, timeout: 60_000 },
})

const TABLES = [
  'create table "Author" (id serial primary key, client int not null, name text)',
  `create table "Book" (id text primary key, "authorId" int not null references "Author", title text not null unique,
    pages int8, price numeric(65, 30), weight float8, sold bool not null default false, data bytea, facts jsonb, marks int[],
    printed timestamptz(3))`,
]

const book = (client, i, j) => ({
  title: `${client.number}-${i}-${j}`,
  pages: j === 3 ? null : 2n ** 40n + BigInt(j),
  price: j === 3 ? null : `${j}.90`,
  weight: j === 3 ? null : j / 3,
  data: j === 3 ? null : Uint8Array.of(0, i, j, 255),
  facts: j === 3 ? undefined : { i: [i, null] },
  marks: j === 3 ? [] : [i, j],
  printed: j === 3 ? null : new Date('2024-02-29T12:30:01.25Z'),
})

const mine = (client) => ({ title: { startsWith: `${client.number}-` } })

async function objects(client) {
  for (let i = 0; i < 3; i++) {
    const books = { create: [0, 1, 2, 3].map((j) => book(client, i, j)) }
    await prisma.author.create({ data: { client: client.number, name: i === 2 ? null : `author ${i}`, books } })
  }
  const found = await prisma.author.findMany({
    where: { client: client.number },
    select: { name: true, books: { omit: { id: true, authorId: true }, orderBy: { title: 'asc' } } },
    orderBy: { name: 'asc' },
  })
  for (const author of found) client.saw(author)
  client.saw(await prisma.book.aggregate({ where: mine(client), _count: true, _sum: { price: true }, _max: { pages: true } }))
}

async function update_and_delete(client) {
  client.saw(await prisma.book.updateMany({ where: { ...mine(client), weight: { gt: 0.5 } }, data: { sold: true } }))
  client.saw(await prisma.book.deleteMany({ where: { ...mine(client), pages: null } }))
  const title = `${client.number}-upserted`
  for (let i = 0; i < 3; i++) {
    const author = { create: { client: 100 + client.number } }
    const done = await prisma.book.upsert({ where: { title }, create: { title, author }, update: { marks: { push: i } } })
    client.saw(done.title, done.marks)
  }
}

async function raw_queries(client) {
  for (let i = 0; i < 10; i++) {
    client.saw(await prisma.$queryRaw`select ${client.number}::int * 2 as a, ${`of ${client.number}`} as b, now() > 'epoch' as c`)
    client.saw(await prisma.$queryRawUnsafe(`select ${client.number} + ${i} + $1::int as own, $2::text as b`, i, null))
  }
}

async function at_once(client) {
  const queries = Array.from({ length: 10 }, (_, i) => prisma.$queryRaw`select ${i}::int + 1 as a`)
  client.saw(await Promise.all(queries))
  client.saw(await prisma.$transaction([
    prisma.book.count({ where: mine(client) }),
    prisma.book.findFirst({ where: mine(client), orderBy: { title: 'desc' }, select: { title: true } }),
  ])) // prettier-ignore
}

async function transaction_with_error(client) {
  for (let i = 0; i < 3; i++) {
    await client.refused(
      prisma.$transaction(async (tx) => {
        await tx.book.updateMany({ where: mine(client), data: { sold: false } })
        await tx.book.create({ data: { title: `${client.number}-0-0`, authorId: 1 } })
      }),
    )
    await client.refused(prisma.$queryRaw`select 1 / ${0}::int`)
    const sold = prisma.$transaction((tx) => tx.book.count({ where: { ...mine(client), sold: true } }))
    client.saw(await sold)
  }
  const level = { isolationLevel: Prisma.TransactionIsolationLevel.Serializable }
  client.saw(await prisma.$transaction((tx) => tx.$queryRaw`show transaction_isolation`, level))
}

async function large_values(client) {
  const [text, data] = [String(client.number).repeat(MEGABYTE), Buffer.alloc(MEGABYTE, 'naïve')]
  for (let i = 0; i < 2; i++) {
    const [row] = await prisma.$queryRaw`select ${text}::text as a, ${data}::bytea as b, length(${text}) as c`
    client.saw(digest(row.a), digest(row.b), row.c)
  }
}

async function change_plan(clients) {
  const planned = () => prisma.$queryRaw`select * from planned where a = ${1}`
  await prisma.$executeRaw`create table planned as select 1 as a`
  await Promise.all(clients.map(planned))
  await prisma.$executeRaw`alter table planned add column b text default 'new'`
  for (const client of clients)
    await play(client, async function changed_plan() {
      client.saw(await planned())
    })
}

const open = async () => prisma.$queryRaw`select pg_sleep(0.2)::text`
const SCENARIOS = [objects, update_and_delete, raw_queries, at_once, transaction_with_error, large_values]
async function main() {
  for (const table of TABLES) await prisma.$executeRawUnsafe(table)
  await run(open, SCENARIOS, change_plan)
}
main()
