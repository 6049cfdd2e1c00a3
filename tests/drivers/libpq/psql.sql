-- Run by psql.sh with the client's number as :n.
\set VERBOSITY sqlstate
\cd :dir
-- All are connected before the first begins.
\! touch ready.$CLIENT; while [ $(ls ready.* | wc -l) -lt 20 ]; do sleep 0.01; done

\echo # types
select -7::int4, 2::int8 ^ 40, 1.1::float8, 12345.678900::numeric, 'naïve ''text''', true, '\x00ff5c'::bytea,
    '{"a": [1, null]}'::jsonb, '2024-02-29 12:30:01.25+00'::timestamptz, '{1,null,3}'::int4[], null::text[];
\gdesc
select :n as a, 'x' as b \gset kept_
select :kept_a, :'kept_b';

\echo # several statements in one query
select 1 \; select :n \; select 1 / 0 \; select 'never';
begin \; select :n \; commit;

\echo # errors
select 1 / 0;
select nonsense;
begin;
select 1 / 0;
select 'in a failed transaction';
rollback;
select 'after';

\echo # savepoints
create table saved_:n (i int);
begin;
insert into saved_:n values (1);
savepoint s;
insert into saved_:n values (2 / 0);
rollback to s;
insert into saved_:n values (3);
release s;
commit;
\set ON_ERROR_ROLLBACK on
begin;
insert into saved_:n values (4);
insert into saved_:n values (5 / 0);
insert into saved_:n values (6);
commit;
\set ON_ERROR_ROLLBACK off
select array_agg(i order by i) from saved_:n;

\echo # copy
create table copied_:n (i int, s text, b bytea);
-- \copy takes no variables.
select format('copy.%s', :n) as script, format('copied.%s', :n) as copied \gset
\i :script
\o :copied
copy (select * from copied_:n order by i) to stdout;
\o
select count(*), sum(i) from copied_:n;
copy copied_:n from stdin;
1	one	\\x00
not a number	two	\\x00
\.
select count(*) from copied_:n;

\echo # rows by a cursor
\set FETCH_COUNT 100
select i from generate_series(1, 1000) i where i % 99 = 0;
select 1 / (500 - i) from generate_series(1, 1000) i where i % 100 = 0;
\unset FETCH_COUNT

\echo # large values
select repeat(:'n', 1 << 20) as large \gset
select length(:'large'), md5(:'large');
select length(repeat('x', 1 << 20)), md5(repeat('x', 1 << 20));

\echo # statements made by SQL
prepare doubled (int) as select $1 * 2, :n;
execute doubled (1);
execute doubled (2);
begin;
execute doubled (3);
commit;
execute doubled (4);
deallocate doubled;
execute doubled (5);
prepare doubled (text) as select $1 || :'n';
execute doubled ('a');
deallocate all;
execute doubled ('b');

\echo # many short queries
select format('select %s, %s', :n, i) from generate_series(1, 100) i \gexec
