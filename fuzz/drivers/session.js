// A session of node-postgres: simple and extended queries, a named statement, an error.
const { Client } = require('pg');

(async () => {
  const client = new Client();
  await client.connect();
  await client.query('select 1; select 2');
  await client.query('select $1::int as i, $2::text as s', [1, 'grün']);
  for (const i of [1, 2]) await client.query({ name: 'named', text: 'select $1::int + 1', values: [i] });
  await client.query('select nonsense').catch(() => {});
  await client.query('select $1::int', ['no number']).catch(() => {});
  await client.end();
})();
