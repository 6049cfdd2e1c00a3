#!/usr/bin/env python3
"""Measures what clients that are in notice of a storm of logins, pooler by pooler.

Clients that are in send transactions at a fixed rate (pgbench). In every round their latency is taken without a storm,
then while others log in with SCRAM, run one query and leave, in a loop, without and with TLS. What is to be quoted is
the ratio of the p99 within a round. The storm's own CPU time has the lowest priority, since it would be spent on other
machines.

With --half-open, prints what connections that have said nothing yet take of the pooler's memory.

A pooler is NAME=BINARY. Example:

  login_storm.py pgbouncer=/usr/sbin/pgbouncer pgweir=target/release/pgweir
"""
import argparse, asyncio, base64, contextlib, glob, hashlib, hmac, os, resource, signal
import socket, ssl, statistics, struct, subprocess, sys, tempfile, time

import side_by_side as bench

PASSWORD = "correct horse"


# --- The storm, a process of its own.

def hmac_sha256(key, text):
    return hmac.digest(key, text, "sha256")


class Keys:
    """What the password comes to; computed once, since these computations are no load of the pooler's."""

    known = {}

    def __new__(cls, salt, iterations):
        if (salt, iterations) not in cls.known:
            salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), iterations)
            client_key = hmac_sha256(salted, b"Client Key")
            cls.known[salt, iterations] = client_key, hashlib.sha256(client_key).digest()
        return cls.known[salt, iterations]


def message(tag, body):
    return tag + struct.pack(">I", len(body) + 4) + body


async def expect(reader, tag):
    head = await reader.readexactly(5)
    body = await reader.readexactly(struct.unpack(">I", head[1:])[0] - 4)
    if head[:1] != tag:
        raise ConnectionError(f"{head[:1]} {body!r}")
    return body


async def session(port, tls):
    """Log in, one query, leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if tls:
            writer.write(b"\0\0\0\x08\x04\xd2\x16\x2f")
            if await reader.readexactly(1) != b"S":
                raise ConnectionError("no TLS")
            await writer.start_tls(tls)
        startup = b"\0\3\0\0user\0bench\0database\0bench\0\0"
        writer.write(struct.pack(">I", len(startup) + 4) + startup)
        await expect(reader, b"R")
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        data = ("n,," + first).encode()
        writer.write(message(b"p", b"SCRAM-SHA-256\0" + struct.pack(">I", len(data)) + data))
        server_first = (await expect(reader, b"R"))[4:].decode()
        both, salt, iterations = (field[2:] for field in server_first.split(","))
        client_key, stored_key = Keys(salt, int(iterations))
        last = f"c=biws,r={both}"
        signature = hmac_sha256(stored_key, f"{first},{server_first},{last}".encode())
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        writer.write(message(b"p", f"{last},p={proof}".encode()))
        await expect(reader, b"R")
        for _ in range(2):
            replies = b""
            while not replies.endswith(b"Z\0\0\0\5I"):
                more = await reader.read(65536)
                if not more:
                    raise ConnectionError("closed")
                replies += more
            writer.write(b"Q\0\0\0\x0dselect 1\0" if _ == 0 else b"X\0\0\0\4")
    finally:
        writer.transport.abort()


async def storm(port, clients, with_tls):
    """Until standard input ends; then prints how many got in and how many did not."""
    tls, counts = None, [0, 0]
    if with_tls:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

    async def client():
        while True:
            try:
                await asyncio.wait_for(session(port, tls), 30)
                counts[0] += 1
            except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError):
                counts[1] += 1
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(*counts, flush=True)
    # Nothing here is worth an orderly end.
    os._exit(0)


@contextlib.contextmanager
def storming(port, clients, with_tls, counts):
    """A storm that has begun; adds to `counts` who got in per second and who did not."""
    command = ["nice", "-n", "19", sys.executable, __file__, "--storm", f"{port}/{clients}/{int(with_tls)}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    # The first time every pooler has something to learn.
    time.sleep(1)
    try:
        yield
    finally:
        passed = time.monotonic() - began
        out, _ = process.communicate("", timeout=60)
        inside, failed = map(int, out.split())
        counts.append((inside / passed, failed))


# --- Clients that are in.

def latencies(port, root, args):
    command = [f"{bench.PGBIN}/pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-M", "simple"]
    command += ["-c", str(args.inside), "-j", "1", "-T", str(args.seconds), "-R", str(args.rate)]
    command += ["-l", f"--log-prefix={root}/latency", "-f", bench.write(f"{root}/work.sql", bench.WORKS["select1"])]
    bench.run([*command, "bench"], env={**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"})
    found = []
    for path in glob.glob(f"{root}/latency.*"):
        # Both are from when the transaction was due, and not from when pgbench came to send it.
        found += [int(line.split()[2]) / 1000 for line in bench.read(path).splitlines()]
        os.unlink(path)
    return sorted(found)


def settings(root, postgres):
    """SCRAM against the verifier that the server has, and TLS on offer."""
    psql = [f"{bench.PGBIN}/psql", "-XAtq", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "bench", "bench"]
    bench.run([*psql, "-c", f"alter role bench password '{PASSWORD}'"])
    verifier = bench.run([*psql, "-c", "select rolpassword from pg_authid where rolname = 'bench'"]).strip()
    users = bench.write(f"{root}/users.txt", f'"bench" "{verifier}"\n')
    key, certificate = f"{root}/key", f"{root}/certificate"
    bench.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-keyout", key, "-out", certificate])
    os.chmod(key, 0o644)
    return f"""auth_type = scram-sha-256
auth_file = {users}
client_tls_sslmode = allow
client_tls_key_file = {key}
client_tls_cert_file = {certificate}
"""


def storm_table(root, postgres, poolers, more, args):
    print(f"\n{args.inside} clients in, {args.rate} transactions per second, while {args.clients} reconnect in a loop; "
          f"medians of {args.rounds} x {args.seconds} s; x = ratio of p99 to calm, its range in brackets")
    print(f"{'':12}{'':8}{'logins/s':>9}{'failed':>8}{'p50 ms':>8}{'p99 ms':>8}  x")
    rounds = {pooler.name: [] for pooler in poolers}
    for _ in range(args.rounds):
        for pooler in poolers:
            with pooler.running(postgres, 20, args.clients + args.inside, "simple", more=more):
                figures = []
                for kind in ("calm", "plain", "tls"):
                    counts = []
                    with (contextlib.nullcontext() if kind == "calm"
                          else storming(pooler.port, args.clients, kind == "tls", counts)):
                        found = latencies(pooler.port, root, args)
                    rate, failed = counts[0] if counts else (0, 0)
                    figures.append((rate, failed, *(found[int(len(found) * part)] for part in (0.5, 0.99))))
                rounds[pooler.name].append(figures)
    for name, mine in rounds.items():
        for row, kind in enumerate(("calm", "plain", "tls")):
            rate, failed, p50, p99 = (statistics.median(figures[row][i] for figures in mine) for i in range(4))
            ratios = [figures[row][3] / figures[0][3] for figures in mine]
            ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]" if row else ""
            print(f"{name:12}{kind:8}{rate:9.0f}{failed:8.0f}{p50:8.2f}{p99:8.2f}  {ratio}", flush=True)


def half_open_table(postgres, poolers, more, number):
    print(f"\nmemory of {number} connections that have said nothing, in bytes for each")
    for pooler in poolers:
        more_now = f"{more}\ntcp_defer_accept = 0\nclient_login_timeout = 600\nlisten_backlog = 4096\n"
        with pooler.running(postgres, 8, number, "simple", more=more_now):
            with socket.create_connection(("127.0.0.1", pooler.port)) as first:
                first.sendall(b"\0\0\0\x08\x04\xd2\x16\x30")
                first.recv(1)
            base = pooler.rss_kib()
            sockets = [socket.create_connection(("127.0.0.1", pooler.port)) for _ in range(number)]
            # The last in line has been accepted when it is answered.
            sockets[-1].sendall(b"\0\0\0\x08\x04\xd2\x16\x30")
            sockets[-1].recv(1)
            print(f"{pooler.name:12}{(pooler.rss_kib() - base) * 1024 / number:10.0f}", flush=True)
            for each in sockets:
                each.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pooler", nargs="*", metavar="NAME=BINARY")
    parser.add_argument("--clients", type=int, default=200, help="that reconnect in a loop")
    parser.add_argument("--inside", type=int, default=8, metavar="CLIENTS", help="that are in")
    parser.add_argument("--rate", type=int, default=1000, help="their transactions per second, together")
    parser.add_argument("--half-open", type=int, metavar="CONNECTIONS", help="measure memory with so many instead")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--storm", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.storm:
        port, clients, with_tls = map(int, args.storm.split("/"))
        asyncio.run(storm(port, clients, bool(with_tls)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with tempfile.TemporaryDirectory(prefix="login-storm.") as root:
        os.chmod(root, 0o755)
        with bench.Postgres(root) as postgres:
            poolers = [bench.Pooler(root, name, binary) for name, _, binary in (spec.partition("=") for spec in args.pooler)]
            for pooler in poolers:
                print(f"{pooler.name}: {pooler.version}")
            busy = bench.busy_percent()
            print(f"{os.cpu_count()} cores, {busy:.0f} % busy before{': the figures will be noise' if busy > 5 else ''}")
            more = settings(root, postgres)
            if args.half_open:
                half_open_table(postgres, poolers, more, args.half_open)
            else:
                storm_table(root, postgres, poolers, more, args)


if __name__ == "__main__":
    main()
