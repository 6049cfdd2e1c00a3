"""A session of psycopg 3: parameters, prepared statements, a pipeline, an error, a copy, a notification."""
import psycopg

with psycopg.connect("", autocommit=True, options="-c statement_timeout=10s") as conn:
    conn.execute("create temp table t (i int, s text)")
    for i in range(8):
        conn.execute("insert into t values (%s, %s)", (i, f"row {i}"), prepare=True)
    with conn.transaction(), conn.cursor(name="c") as cursor:
        cursor.execute("select * from t where i > %s", (3,))
        cursor.fetchmany(2)
    with conn.pipeline():
        for i in range(3):
            conn.execute("select %s::int, %s::text", (i, None))
    try:
        conn.execute("select 1 / %s", (0,))
    except psycopg.errors.DivisionByZero:
        pass
    with conn.cursor() as cursor:
        with cursor.copy("copy t from stdin") as copy:
            copy.write_row((9, "copied"))
        with cursor.copy("copy t to stdout") as copy:
            list(copy)
    conn.execute("listen news")
    conn.execute("notify news, 'hello'")
    conn.execute("select set_config('jit', 'off', false), pg_advisory_lock(1)")
    conn.cancel()
