#!/usr/bin/env python3
"""Records real drivers talking to a PostgreSQL server and makes seeds of it.

    fuzz/record.py HOST:PORT DATABASE USER PASSWORD

The user has to have a SCRAM password and may be anybody. Drivers that are not there are left out: psql and pgbench,
psycopg 3 (in this Python), node-postgres (NODE_PATH), pgjdbc (PGJDBC, the path of the jar).
"""
import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
SEEDS = HERE / "seeds"
# Longer streams are cut at a message; longer messages teach a fuzzer nothing.
STREAM_LEN_MAX, SEED_LEN_MAX, SEEDS_MAX = 3000, 1500, 40


class Session:
    """Both directions of one connection, in order."""

    def __init__(self):
        self.pieces = []

    def stream(self, side):
        return b"".join(data for of, data in self.pieces if of == side)


class Proxy:
    def __init__(self, server):
        self.server, self.sessions = server, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.server)
            session = Session()
            self.sessions.append(session)
            for side, source, target in (("client", client, server), ("server", server, client)):
                threading.Thread(target=self.relay, args=(session, side, source, target), daemon=True).start()

    @staticmethod
    def relay(session, side, source, target):
        try:
            while data := source.recv(65536):
                session.pieces.append((side, data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def messages(stream):
    """Tag and body of each whole message."""
    while len(stream) >= 5:
        end = 1 + int.from_bytes(stream[1:5])
        if len(stream) < end:
            return
        yield stream[:1], stream[5:end]
        stream = stream[end:]


def framed(tag, body):
    return tag + (len(body) + 4).to_bytes(4) + body


def drivers(port, database, user, password):
    uri = f"postgresql://{user}:{password}@127.0.0.1:{port}/{database}"
    jdbc = f"jdbc:postgresql://127.0.0.1:{port}/{database}?user={user}&password={password}&prepareThreshold=1&sslmode=disable"
    sql = [
        "select 1; select 2",
        "begin; create temp table t (i int) on commit drop; insert into t select generate_series(1, 3); table t; commit",
        "set work_mem = '1MB'; show work_mem; set time zone 'UTC'; reset all",
        "prepare p (int) as select $1; execute p(1); deallocate all",
        "select 1/0",
        "do $$ begin raise notice 'a notice'; end $$",
        "begin; declare c cursor with hold for select 1; fetch all from c; commit; discard all",
        "select * into temp x from (values (1, 'a'), (2, 'b')) v (i, s); load 'none'",
    ]
    yield ["psql", "-X", uri] + [part for text in sql for part in ("-c", text)]
    yield ["psql", "-X", uri + "?options=-c%20statement_timeout%3D5s&application_name=a%20b", "-c", "\\dt pg_catalog.pg_a*"]
    yield ["pgbench", "-i", "-I", "dtGvp", "-s", "1", "-q", uri]
    for mode in ("simple", "extended", "prepared"):
        yield ["pgbench", "-n", "-c", "1", "-t", "3", "-M", mode, uri]
    yield [sys.executable, HERE / "drivers/session.py"]
    yield ["node", HERE / "drivers/session.js"]
    if "PGJDBC" in os.environ:
        yield ["java", "-cp", os.environ["PGJDBC"], HERE / "drivers/Session.java", jdbc]


def keep(target, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    name = f"recorded-{hashlib.sha256(data).hexdigest()[:12]}"
    recorded = sum(path.name.startswith("recorded-") for path in folder.iterdir())
    if 0 < len(data) <= max(SEED_LEN_MAX, STREAM_LEN_MAX) and recorded < SEEDS_MAX:
        (folder / name).write_bytes(data)


def cut(stream):
    """The first messages of a stream."""
    out = b""
    for tag, body in messages(stream):
        if len(body) <= SEED_LEN_MAX:
            out += framed(tag, body)
        if len(out) > STREAM_LEN_MAX:
            break
    return out[: STREAM_LEN_MAX]


def seeds(session):
    client, server = session.stream("client"), session.stream("server")
    # An SSLRequest or GSSENCRequest is answered by one byte.
    while client[:4] == b"\0\0\0\x08":
        keep("startup", client[:8])
        client, server = client[8:], server[1:]
    end = int.from_bytes(client[:4])
    keep("startup", client[:end])
    if end == 16:
        keep("cancel_key", client[8:16])
    client = client[end:]
    keep("frame", cut(client))
    keep("frame", cut(server))
    for tag, body in messages(client):
        if tag == b"p":
            keep("auth", body)
        if tag in b"QP" and len(body) < 300:
            keep("session_use", body if tag == b"Q" else body.split(b"\0")[1])
    for tag, body in messages(server):
        if tag == b"R":
            keep("auth", body)
        if tag in (b"E", b"N"):
            keep("error_response", body)
        if tag == b"K":
            keep("cancel_key", body)


def main():
    address, database, user, password = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    proxy = Proxy((host, int(port)))
    env = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(proxy.port), PGDATABASE=database, PGUSER=user, PGPASSWORD=password)
    for command in drivers(proxy.port, database, user, password):
        if not shutil.which(command[0]):
            print(f"{command[0]} is not there", file=sys.stderr)
            continue
        done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        print(f"{command[0]}: {len(proxy.sessions)} sessions so far, status {done.returncode}", file=sys.stderr)
        if done.returncode and command[0] != "psql":
            sys.stderr.buffer.write(done.stderr)
    for session in proxy.sessions:
        seeds(session)


main()
