// node-postgres: unnamed statements, named ones, cursors, streams, its pipeline.
'use strict'

const { Readable } = require('node:stream')
const { pipeline: flow } = require('node:stream/promises')
const pg = require('pg')
const Cursor = require('pg-cursor')
const copy = require('pg-copy-streams')
const { ASLEEP, CLIENTS, MEGABYTE, SERVERS, alone, barrier, digest, play, run, until, url } = require('./harness.js')

const pool = new pg.Pool({ connectionString: url, max: CLIENTS + 1 })

// A connection that breaks is told by the query that it breaks.
pool.on('connect', (connection) => connection.on('error', () => {}))
const take = async (client) => (client.pg = await pool.connect())

const KINDS = 'int4 int8 float8 numeric text bool bytea jsonb timestamptz int4[] text[] uuid interval'.split(' ')
const VALUES = [-7, 2n ** 40n, 1.1, '12345.678900', "naïve 'text'", true, Buffer.from([0, 255, 92]), { a: [1, null] },
  new Date('2024-02-29T12:30:01.25Z'), [1, null, 3], ['a,b', '', null, '"'], '00000000-0000-0000-0000-000000001234',
  '3 days 1.5 seconds'] // prettier-ignore

const rows = async (client, query, values) => (await client.pg.query(query, values)).rows

async function types(client) {
  const query = `select ${KINDS.map((kind, i) => `$${i + 1}::${kind} as "${kind}"`).join(', ')}`
  for (const values of [VALUES, KINDS.map(() => null)])
    for (const form of [{}, { name: 'types' }, { name: 'types' }, { rowMode: 'array' }])
      client.saw(await rows(client, { text: query, values, ...form }))
}

async function shared_statement(client) {
  for (let i = 0; i < 12; i++) {
    const values = [client.number * 100 + i, `of ${client.number}`]
    client.saw(await rows(client, { name: 'shared', text: 'select $1::int * 2 as a, $2::text as b', values }))
  }
}

async function own_statements(client) {
  for (let round = 0; round < 5; round++)
    for (let i = 0; i < 15; i++) {
      // Every client's are named alike.
      const query = { name: `own ${i}`, text: `select ${client.number} + ${i} as a, $1::text as b`, values: [i] }
      client.saw(await rows(client, query))
    }
}

async function queries_in_a_queue(client) {
  const queries = Array.from({ length: 30 }, (_, i) => rows(client, 'select $1::int + 1 as a', [i]))
  client.saw(await Promise.all(queries))
}

async function pipeline(client) {
  const piped = new pg.Client({ connectionString: url, pipeline: true })
  await piped.connect()
  await piped.query(`create table piped_${client.number} (i int)`)
  for (let round = 0; round < 3; round++) {
    const insert = { name: 'piped', text: `insert into piped_${client.number} values (4 / $1::int) returning i` }
    const named = [1, 2, 0, 4].map((i) => piped.query({ ...insert, values: [i] }))
    const others = [1, 0, 2].map((i) => piped.query('select 6 / $1::int as a', [i]))
    for (const answer of await Promise.allSettled([...named, ...others]))
      client.saw(answer.value?.rows ?? [answer.reason.code, answer.reason.message])
  }
  client.saw((await piped.query(`select count(*), sum(i) from piped_${client.number}`)).rows)
  await piped.end()
}

async function transaction_with_error(client) {
  for (let i = 0; i < 5; i++) {
    await rows(client, 'begin')
    client.saw(await rows(client, { name: 'in', text: 'select $1::int as a', values: [i] }))
    await client.refused(rows(client, { name: 'fails', text: 'select 1 / $1::int', values: [0] }))
    await client.refused(rows(client, { name: 'in', text: 'select $1::int as a', values: [i] }))
    await client.refused(rows(client, { name: `new ${i}`, text: `select ${i} + $1::int as a`, values: [i] }))
    await rows(client, 'rollback')
    client.saw(await rows(client, { name: `new ${i}`, text: `select ${i} + $1::int as a`, values: [i] }))
    await client.refused(rows(client, { name: `wrong ${i}`, text: 'select $1::int + nonsense', values: [i] }))
  }
}

async function savepoints(client) {
  const insert = (i) => ({ name: 'save', text: `insert into saved_${client.number} values (10 / $1::int)`, values: [i] })
  await rows(client, `create table saved_${client.number} (i int)`)
  for (let i = 1; i < 8; i++) {
    await rows(client, 'begin; savepoint s')
    await rows(client, insert(i))
    await client.refused(rows(client, insert(0)))
    await rows(client, 'rollback to s')
    await rows(client, insert(i * 2))
    await rows(client, 'commit')
  }
  client.saw(await rows(client, `select array_agg(i order by i) as i from saved_${client.number}`))
}

async function several_in_one_query(client) {
  const answers = await client.pg.query(`select 1 as a; select ${client.number} as b; select 'c' as c`)
  client.saw(answers.map((answer) => answer.rows))
  await client.refused(client.pg.query('select 1; select 1 / 0; select 2'))
}

async function cursors(client) {
  await rows(client, 'begin')
  const query = "select i, repeat('x', i) as x from generate_series(1, $1::int) i"
  const cursor = client.pg.query(new Cursor(query, [30]))
  for (let some; (some = await cursor.read(8)).length > 0; ) client.saw(some.length, some.at(-1))
  await cursor.close()
  await rows(client, 'commit')
  // Closed before its end, outside of a transaction.
  const left = client.pg.query(new Cursor(query, [100]))
  client.saw((await left.read(3)).length)
  await left.close()
  client.saw(await rows(client, 'select $1::int as a', [client.number]))
}

async function cancel(client) {
  for (let i = 0; i < 2; i++) {
    await alone(async () => {
      const query = client.pg.query('select pg_sleep($1)', [60])
      const seen = client.refused(query)
      await until(async () => (await pool.query(ASLEEP)).rows[0].n === 1)
      await sendCancel(client.pg)
      await seen
    })
    client.saw(await rows(client, "select 'goes on' as a, $1::int as b", [client.number]))
  }
}

// The driver's own way cancels only a query that it knows to be active.
function sendCancel(running) {
  const canceler = new pg.Client({ connectionString: url })
  canceler.on('error', () => {})
  return new Promise((resolve) => {
    canceler.connection.once('end', resolve)
    canceler.cancel(running, running.activeQuery)
  })
}

async function copies(client) {
  const table = `copied_${client.number}`
  const lines = Array.from({ length: 2000 }, (_, i) => `${i}\t${i % 7 === 0 ? '\\N' : `line of ${client.number}`}\t\\\\x00ff\n`)
  const copyIn = (source) => flow(Readable.from(source), client.pg.query(copy.from(`copy ${table} from stdin`)))
  await rows(client, `create table ${table} (i int, s text, b bytea)`)
  await copyIn(lines)
  const out = await client.pg.query(copy.to(`copy (select * from ${table} order by i) to stdout`)).toArray()
  client.saw(digest(Buffer.concat(out)))
  await client.refused(copyIn(['1\tone\t\n', 'not a number\t\t\n']))
  client.saw(await rows(client, `select count(*), sum(i) from ${table}`))
}

async function given_back_to_the_pool(client) {
  for (let i = 0; i < 10; i++) {
    client.pg.release()
    await take(client)
    client.saw(await rows(client, { name: 'again', text: 'select $1::int as a', values: [i] }))
  }
}

async function large_values(client) {
  const values = [String(client.number).repeat(MEGABYTE), Buffer.alloc(MEGABYTE, 'naïve')]
  for (const name of [undefined, 'large', 'large']) {
    const [row] = await rows(client, { name, text: 'select $1::text as a, $2::bytea as b, length($1) as c', values })
    client.saw(digest(row.a), digest(row.b), row.c)
  }
}

// A prepared statement's result type changes. Before, it is used in SERVERS transactions at once, so that every
// server knows it, whoever serves whom.
async function change_plan(clients) {
  const query = { name: 'planned', text: 'select * from planned where a = $1', values: [1] }
  await pool.query('create table planned as select 1 as a')
  for (let first = 0; first < CLIENTS; first += SERVERS) {
    const together = barrier(SERVERS)
    const hold = async (client) => {
      await rows(client, 'begin')
      await rows(client, query)
      await together()
      await rows(client, 'commit')
    }
    await Promise.all(clients.slice(first, first + SERVERS).map(hold))
  }
  await pool.query("alter table planned add column b text default 'new'")
  for (const client of clients)
    await play(client, async function changed_plan() {
      let found = await rows(client, query).catch((error) => error)
      // The driver never forgets a name: the application takes another.
      if (found.code === '0A000') found = await rows(client, { ...query, name: 'planned again' })
      client.saw(found)
    })
}

const SCENARIOS = [types, shared_statement, own_statements, queries_in_a_queue, pipeline, transaction_with_error,
  savepoints, several_in_one_query, cursors, cancel, copies, given_back_to_the_pool, large_values] // prettier-ignore
run(take, SCENARIOS, change_plan)
