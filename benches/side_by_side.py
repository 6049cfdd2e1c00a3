#!/usr/bin/env python3
"""Measures poolers side by side on one machine, in front of one throwaway PostgreSQL.

Load: pgbench runs through each pooler in turn, several rounds. Printed are medians over the rounds: transactions per
second, the pooler's own CPU time per transaction (user and system, from /proc), latency, memory, and their ratios to
the first pooler in the same round. The ratios are what to quote: the absolute figures are the machine's.

Logins: so many clients log in again and again, by SCRAM-SHA-256 without and with TLS, beside eight that are in and run
a query now and then. Printed are logins per second, the pooler's CPU time for each, and the latency of the eight's
queries, before and meanwhile.

Memory: so many clients log in, then each runs one query, and stays. Printed is what the pooler's resident memory grew
by, for each client.

A pooler is NAME=BINARY, where BINARY takes a pgbouncer.ini; "direct" is PostgreSQL without one. Example:

  side_by_side.py --load 32/8 --load 200/20 --logins 16 --idle 10000 pgbouncer=/usr/sbin/pgbouncer pgweir=target/release/pgweir

The environment reaches the poolers: PGWEIR_WORKERS=1 gives pgweir one worker.
"""
import argparse, contextlib, glob, json, os, re, resource, shutil, signal
import socket, statistics, struct, subprocess, sys, tempfile, time

PGBIN = os.environ.get("PGBIN") or max(glob.glob("/usr/lib/postgresql/*/bin"), default="")
TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")
# Who runs PostgreSQL and the poolers when we are root, which they refuse to be.
ACCOUNT = "postgres"
# What pgbench runs: a script, or an option for one of its own.
WORKS = {
    "select1": "select 1;\n",
    "rows": "select i, repeat('x', 50) from generate_series(1, 1000) i;\n",
    "select": "-S",
    "tpcb": None,
}


def unprivileged(command):
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups", "--", *command]


def make_dir(path):
    os.mkdir(path)
    if os.getuid() == 0:
        shutil.chown(path, ACCOUNT, ACCOUNT)
    return path


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o644)
    return path


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Postgres:
    """A server that keeps nothing safe, so that the disk is not what is measured."""

    SETTINGS = "-c fsync=off -c synchronous_commit=off -c autovacuum=off -c shared_buffers=256MB -c max_connections=300"

    def __init__(self, root):
        self.port, self.dir = free_port(), make_dir(f"{root}/postgres")
        self.name, self.version = "direct", run([f"{PGBIN}/postgres", "--version"]).strip()
        run(unprivileged([f"{PGBIN}/initdb", "-D", f"{self.dir}/data", "-U", "bench", "-A", "trust", "-N"]), cwd="/")

    def __enter__(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= {self.SETTINGS}"
        # Its output goes to a file: the server inherits it, and we would wait for its end.
        with open(f"{self.dir}/pg_ctl.log", "w", encoding="utf-8") as log:
            self.pg_ctl("start", "-l", f"{self.dir}/log", "-o", options, stdout=log, check=True)
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "bench"]
        run([f"{PGBIN}/createdb", *where, "bench"])
        run([f"{PGBIN}/pgbench", "-i", "-q", "-s", "2", *where, "bench"])
        return self

    def __exit__(self, *_):
        self.pg_ctl("stop", "-m", "immediate", stdout=subprocess.DEVNULL)

    def pg_ctl(self, verb, *more, **options):
        command = [f"{PGBIN}/pg_ctl", verb, "-w", "-D", f"{self.dir}/data", *more]
        subprocess.run(unprivileged(command), cwd="/", **{"check": False, **options})

    # Measured itself, it is a pooler that costs nothing.
    cpu_secs = rss_kib = lambda self: 0


class Pooler:
    def __init__(self, root, name, binary):
        self.name, self.port, self.dir, self.process = name, free_port(), make_dir(f"{root}/{name}"), None
        # Copied: it may lie where only its owner can go.
        self.binary = shutil.copy(binary, self.dir)
        os.chmod(self.binary, 0o755)
        self.version = run([self.binary, "-V"]).split("\n", 1)[0]

    @contextlib.contextmanager
    def running(self, postgres, servers, clients, mode, auth_type="trust", tls=False, more=""):
        users = write(f"{self.dir}/users.txt", '"bench" "bench"\n')
        # PgBouncer before 1.21 refuses to know it.
        prepared = "max_prepared_statements = 200" if mode == "prepared" else ""
        ini = write(f"{self.dir}/pooler.ini", f"""[databases]
bench = host=127.0.0.1 port={postgres.port} dbname=bench

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {users}
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = {4 * clients + 100}
log_connections = 0
log_disconnections = 0
log_stats = 0
{prepared}
{self.tls_settings() if tls else ""}
{more}
""")
        with open(f"{self.dir}/log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(unprivileged([self.binary, ini]), stdout=log, stderr=log, cwd=self.dir)
        try:
            self.wait_until_listening()
            yield self
        finally:
            self.process.kill()
            self.process.wait()

    def wait_until_listening(self):
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not listen:\n{read(f'{self.dir}/log')}")

    def tls_settings(self):
        key, certificate = f"{self.dir}/key.pem", f"{self.dir}/certificate.pem"
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-keyout", key, "-out", certificate])
        if os.getuid() == 0:
            shutil.chown(key, ACCOUNT, ACCOUNT)
        return f"client_tls_sslmode = allow\nclient_tls_key_file = {key}\nclient_tls_cert_file = {certificate}\n"

    def cpu_secs(self):
        fields = read(f"/proc/{self.process.pid}/stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SEC

    def rss_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{self.process.pid}/status"))[1])


def pgbench(port, root, clients, args):
    """Transactions per second, their number, and the sorted latencies, in ms, of a sample of them."""
    command = [f"{PGBIN}/pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-M", args.mode]
    command += ["-c", str(clients), "-j", str(args.jobs), "-T", str(args.seconds)]
    command += ["-l", f"--log-prefix={root}/latency", "--sampling-rate=0.2", *(["-C"] if args.connect else [])]
    work = WORKS[args.work]
    if work:
        command += [work] if work.startswith("-") else ["-f", write(f"{root}/work.sql", work)]
    out = run([*command, "bench"])
    latencies = []
    for path in glob.glob(f"{root}/latency.*"):
        latencies += [int(line.split()[2]) / 1000 for line in read(path).splitlines()]
        os.unlink(path)
    number = int(re.search(r"actually processed: (\d+)", out)[1])
    return float(re.search(r"tps = ([\d.]+)", out)[1]), number, sorted(latencies)


def load_table(root, postgres, poolers, clients, servers, args):
    print(f"\n{args.work}, {args.mode}{', new connections' if args.connect else ''}: {clients} clients on {servers} "
          f"servers, medians of {args.rounds} x {args.seconds} s; x = ratio to {poolers[0].name}, its range in brackets")
    rounds = {pooler.name: [] for pooler in poolers}
    with contextlib.ExitStack() as stack:
        for pooler in poolers:
            if pooler is not postgres:
                stack.enter_context(pooler.running(postgres, servers, clients, args.mode))
        for _ in range(args.rounds):
            for pooler in poolers:
                before = pooler.cpu_secs()
                tps, number, latencies = pgbench(pooler.port, root, clients, args)
                cpu_us = (pooler.cpu_secs() - before) / number * 1e6
                p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
                rounds[pooler.name].append((tps, cpu_us, p50, p99, pooler.rss_kib() / 1024))
    print(f"{'':12}{'tps':>8} {'x':16}{'CPU us':>7} {'x':16}{'p50 ms':>7} {'p99 ms':>7} {'x':16}{'MiB':>6}")
    first = rounds[poolers[0].name]
    for name, mine in rounds.items():
        tps, cpu, p50, p99, rss = (statistics.median(values) for values in zip(*mine))
        ratios = [ratio(mine, first, column) for column in (0, 1, 3)]
        print(f"{name:12}{tps:8.0f} {ratios[0]:16}{cpu:7.1f} {ratios[1]:16}"
              f"{p50:7.2f} {p99:7.2f} {ratios[2]:16}{rss:6.1f}", flush=True)


def built_logins():
    """The program that logs in; see logins/."""
    out = run(["cargo", "build", "--release", "-p", "pgweir-logins", "--message-format=json"])
    messages = (json.loads(line) for line in out.splitlines())
    return next(message["executable"] for message in messages if message.get("target", {}).get("name") == "pgweir-logins")


def queries_of_those_in(port, root, args):
    """pgbench, started: eight clients that are in and ask for little."""
    command = [f"{PGBIN}/pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-c", "8", "-R", "800"]
    command += ["-T", str(args.seconds), "-l", f"--log-prefix={root}/in", "-f", write(f"{root}/in.sql", "select 1;\n")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "bench"], env={**os.environ, "PGPASSWORD": "bench"}, **quiet)


def p99_of_those_in(root):
    # Without the time that pgbench itself is late.
    latencies = []
    for path in glob.glob(f"{root}/in.*[0-9]"):
        fields = [line.split() for line in read(path).splitlines()]
        latencies += [(int(of[2]) - int(of[6])) / 1000 for of in fields]
        os.unlink(path)
    return sorted(latencies)[int(len(latencies) * 0.99)]


def logins_table(root, postgres, poolers, clients, args, tls):
    print(f"\nlogins by SCRAM{' over TLS' if tls else ''}: {clients} clients, medians of {args.rounds} x {args.seconds} s; "
          f"x = ratio to {poolers[0].name}, its range in brackets; p99 of those in alone and meanwhile")
    rounds, program = {pooler.name: [] for pooler in poolers}, built_logins()
    with contextlib.ExitStack() as stack:
        for pooler in poolers:
            stack.enter_context(pooler.running(postgres, 8, clients, args.mode, "scram-sha-256", tls))
        for _ in range(args.rounds):
            for pooler in poolers:
                queries_of_those_in(pooler.port, root, args).wait()
                alone = p99_of_those_in(root)
                command = [program, "--port", str(pooler.port), "--clients", str(clients), "--seconds", str(args.seconds)]
                before = pooler.cpu_secs()
                per_sec, p50, _ = map(float, run([*command, *(["--tls"] if tls else [])]).split())
                cpu_us = (pooler.cpu_secs() - before) / (per_sec * args.seconds) * 1e6
                queries = queries_of_those_in(pooler.port, root, args)
                run([*command, *(["--tls"] if tls else [])])
                queries.wait()
                rounds[pooler.name].append((per_sec, cpu_us, p50, alone, p99_of_those_in(root)))
    print(f"{'':12}{'logins':>8} {'x':16}{'CPU us':>7} {'x':16}{'p50 ms':>7}{'p99 in':>8}{'meanwhile':>10}")
    first = rounds[poolers[0].name]
    for name, mine in rounds.items():
        per_sec, cpu, p50, alone, meanwhile = (statistics.median(values) for values in zip(*mine))
        ratios = [ratio(mine, first, column) for column in (0, 1)]
        print(f"{name:12}{per_sec:8.0f} {ratios[0]:16}{cpu:7.1f} {ratios[1]:16}{p50:7.2f}{alone:8.2f}{meanwhile:10.2f}",
              flush=True)


def ratio(mine, first, column):
    if not mine[0][column] or not first[0][column]:
        return ""
    ratios = [own[column] / other[column] for own, other in zip(mine, first)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]"


class IdleClient:
    """The least that is a client; pgbench would take more memory than the machine has."""

    STARTUP = b"\0\3\0\0user\0bench\0database\0bench\0application_name\0idle\0\0"

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.sendall(struct.pack(">I", len(self.STARTUP) + 4) + self.STARTUP)
        self.wait_until_ready()

    def query(self):
        self.socket.sendall(b"Q\0\0\0\x0dselect 1\0")
        self.wait_until_ready()

    def wait_until_ready(self):
        replies = b""
        while not replies.endswith(b"Z\0\0\0\5I"):
            more = self.socket.recv(65536)
            if not more:
                raise SystemExit(f"an idle client was thrown out: {replies!r}")
            replies += more


def idle_table(postgres, poolers, number):
    print(f"\nmemory of {number} idle clients, in bytes for each")
    print(f"{'':12}{'logged in':>10}{'after a query each':>20}{'base MiB':>10}")
    for pooler in poolers:
        if pooler is postgres:
            continue
        with pooler.running(postgres, 8, number, "simple"):
            IdleClient(pooler.port).query()
            base = pooler.rss_kib()
            clients = [IdleClient(pooler.port) for _ in range(number)]
            logged_in = pooler.rss_kib() - base
            for client in clients:
                client.query()
            queried = pooler.rss_kib() - base
        logged_in, queried = (1024 * kib / number for kib in (logged_in, queried))
        print(f"{pooler.name:12}{logged_in:10.0f}{queried:20.0f}{base / 1024:10.1f}", flush=True)


def busy_percent(secs=2):
    """What others make of the machine."""
    def ticks():
        return [int(field) for field in read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    before = ticks()
    time.sleep(secs)
    spent = [now - then for now, then in zip(ticks(), before)]
    return 100 * (1 - (spent[3] + spent[4]) / sum(spent))


def clients_and_servers(text):
    clients, servers = map(int, text.split("/"))
    return clients, servers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pooler", nargs="+", metavar="NAME=BINARY | direct")
    parser.add_argument("--load", action="append", default=[], type=clients_and_servers, metavar="CLIENTS/SERVERS")
    parser.add_argument("--logins", action="append", default=[], type=int, metavar="CLIENTS")
    parser.add_argument("--idle", type=int, metavar="CLIENTS", help="measure memory with so many idle clients")
    parser.add_argument("--work", choices=WORKS, default="select1")
    parser.add_argument("--mode", choices=["simple", "extended", "prepared"], default="simple")
    parser.add_argument("--connect", action="store_true", help="a new connection for each transaction")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="threads of pgbench")
    return parser.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A client is a socket for us and for the pooler, which inherits the limit.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if args.idle and 0 <= files < args.idle + 200:
        raise SystemExit(f"--idle {args.idle} needs more than the {files} open files allowed here (ulimit -Hn)")
    with tempfile.TemporaryDirectory(prefix="side-by-side.") as root:
        os.chmod(root, 0o755)
        with Postgres(root) as postgres:
            named = [spec.partition("=") for spec in args.pooler]
            poolers = [postgres if name == "direct" else Pooler(root, name, binary) for name, _, binary in named]
            for measured in dict.fromkeys([postgres, *poolers]):
                print(f"{measured.name}: {measured.version}")
            busy = busy_percent()
            print(f"{os.cpu_count()} cores, {busy:.0f} % busy before{': the figures will be noise' if busy > 5 else ''}")
            for clients, servers in args.load:
                load_table(root, postgres, poolers, clients, servers, args)
            pure = [pooler for pooler in poolers if pooler is not postgres]
            for clients in args.logins:
                for tls in (False, True):
                    logins_table(root, postgres, pure, clients, args, tls)
            if args.idle:
                idle_table(postgres, poolers, args.idle)


if __name__ == "__main__":
    main()
