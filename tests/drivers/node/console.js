// The console with node-postgres: simple queries, and prepared statements.
const assert = require('assert');
const { Client } = require('pg');

async function main() {
  const client = new Client({ connectionString: process.argv[2] });
  await client.connect();
  const simple = await client.query('SHOW LISTS');
  const prepared = await client.query({ name: 'lists', text: 'SHOW LISTS' });
  await client.query({ name: 'lists', text: 'SHOW LISTS' });
  assert.deepStrictEqual(prepared.fields.map((field) => field.name), ['list', 'items']);
  assert.deepStrictEqual(prepared.rows, simple.rows);
  await assert.rejects(client.query({ name: 'kill', text: 'KILL_CLIENT $1', values: ['1'] }), { code: '0A000' });
  await assert.rejects(client.query({ name: 'none', text: 'SHOW NONSENSE' }), { code: '08P01' });
  assert.strictEqual((await client.query({ name: 'reload', text: 'RELOAD' })).command, 'RELOAD');
  await client.end();
  console.log('node-postgres');
}

main();
