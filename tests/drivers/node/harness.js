// What the programs here share: many clients at once, each keeping a transcript of what it saw.
// A transcript holds results and errors, no times and no process ids, so that two runs can be compared.
'use strict'

const crypto = require('node:crypto')
const { setTimeout: pause } = require('node:timers/promises')

const CLIENTS = 20
const SERVERS = 4
const SCENARIO_MS_MAX = 60_000
const MEGABYTE = 1 << 20
const ASLEEP =
  "select count(*)::int as n from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"

const url = process.argv[2]

// Text as JSON, in which bytes and large integers can be told from strings.
function text(value) {
  if (typeof value === 'string') return value
  return JSON.stringify(value, function (key, shown) {
    if (this[key] instanceof Uint8Array) return `bytes ${Buffer.from(this[key]).toString('hex')}`
    return typeof shown === 'bigint' ? `big ${shown}` : shown
  })
}

class Client {
  lines = []
  constructor(number) {
    this.number = number
  }
  saw(...what) {
    this.lines.push(what.map(text).join(' '))
  }
  async refused(promise) {
    try {
      await promise
      this.saw('no error')
    } catch (error) {
      if (!error.code) throw error
      this.saw('error', error.code, error.message)
    }
  }
}

function digest(data) {
  return `${data.length} long, ${crypto.createHash('md5').update(data).digest('hex')}`
}

// Only one client sleeps at a time: who looks whether it does needs a server too.
let sleeper = Promise.resolve()
function alone(work) {
  const mine = sleeper.then(work)
  sleeper = mine.catch(() => {})
  return mine
}

async function until(condition) {
  for (const deadline = Date.now() + SCENARIO_MS_MAX; !(await condition()); await pause(5))
    if (Date.now() > deadline) throw new Error('not in time')
}

// Resolves all calls once as many as `count` wait.
function barrier(count) {
  let open
  const opened = new Promise((resolve) => (open = resolve))
  return () => (--count === 0 && open(), opened)
}

async function play(client, scenario) {
  client.saw(`# ${scenario.name}`)
  const late = new AbortController()
  const limit = pause(SCENARIO_MS_MAX, null, { signal: late.signal }).then(() => Promise.reject(new Error('hangs')))
  limit.catch(() => {})
  try {
    await Promise.race([scenario(client), limit])
  } catch (error) {
    client.saw('UNEXPECTED', error.code ?? '', error.message)
    console.error(error)
  }
  late.abort()
}

// The scenarios run with all clients at once; `then` is handed the clients afterwards.
async function run(open, scenarios, then) {
  const clients = Array.from({ length: CLIENTS }, (_, number) => new Client(number))
  await Promise.all(clients.map(open))
  await Promise.all(
    clients.map(async (client) => {
      for (const scenario of scenarios) await play(client, scenario)
    }),
  )
  await then(clients)
  for (const client of clients) console.log([`== client ${client.number}`, ...client.lines].join('\n'))
  // What still hangs must not keep the process.
  process.stdout.write('', () => process.exit(0))
}

module.exports = { ASLEEP, CLIENTS, MEGABYTE, SERVERS, alone, barrier, digest, play, run, until, url }
