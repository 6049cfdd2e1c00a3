"""What measuring poolers needs: PostgreSQL, a server that costs nothing, poolers, load, and what they cost."""
import contextlib, glob, json, os, re, resource, shutil, signal
import socket, subprocess, sys, tempfile, time

PGBIN = os.environ.get("PGBIN") or max(glob.glob("/usr/lib/postgresql/*/bin"), default="")
TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")
# Who runs PostgreSQL and the poolers when we are root, which they refuse to be.
ACCOUNT = "postgres"
PASSWORD = "bench"
# Open files: what root allows itself, and what a pooler with 20 servers needs besides its clients.
FILES_WANTED, FILES_OTHERWISE = 65_536, 300


def unprivileged(command):
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups", "--", *command]


def pinned(command, cpus):
    """`cpus`: a set of processors; None: any."""
    return ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command] if cpus else command


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


@contextlib.contextmanager
def workplace():
    """A folder for a run, and as many open files as are allowed: a client is a socket here and another in the pooler,
    which inherits the limit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for wanted in (max(files, FILES_WANTED), files):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            break
    with tempfile.TemporaryDirectory(prefix="pgweir-bench.") as root:
        os.chmod(root, 0o755)
        yield root


def clients_allowed(wanted):
    """As many as may be connected by one process, or to one, but not more than wanted."""
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - FILES_OTHERWISE)


def busy_percent(secs=2):
    """What others make of the machine."""
    def ticks():
        return [int(field) for field in read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    before = ticks()
    time.sleep(secs)
    spent = [now - then for now, then in zip(ticks(), before)]
    return 100 * (1 - (spent[3] + spent[4]) / sum(spent))


class Nothing:
    """In a pooler's place: the server itself, which as a pooler costs nothing."""

    def __init__(self, port):
        self.name, self.port, self.pid = "direct", port, None

    def cpu_secs(self):
        return 0

    def rss_kib(self):
        return 0


class Postgres:
    """A server that keeps nothing safe, so that the disk is not what is measured. Everybody is trusted; the user
    `bench` has a password, too, and its verifier is `self.verifier`."""

    SETTINGS = "-c fsync=off -c synchronous_commit=off -c autovacuum=off -c shared_buffers=256MB -c max_connections=300"

    def __init__(self, root):
        self.port, self.dir, self.verifier = free_port(), make_dir(f"{root}/postgres"), None
        self.version = run([f"{PGBIN}/postgres", "--version"]).strip()
        run(unprivileged([f"{PGBIN}/initdb", "-D", f"{self.dir}/data", "-U", "bench", "-A", "trust", "-N"]), cwd="/")

    def __enter__(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= {self.SETTINGS}"
        # Its output goes to a file: the server inherits it, and we would wait for its end.
        with open(f"{self.dir}/pg_ctl.log", "w", encoding="utf-8") as log:
            self.pg_ctl("start", "-l", f"{self.dir}/log", "-o", options, stdout=log, check=True)
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "bench"]
        run([f"{PGBIN}/createdb", *where, "bench"])
        run([f"{PGBIN}/pgbench", "-i", "-q", "-s", "2", *where, "bench"])
        psql = [f"{PGBIN}/psql", "-XAtq", *where, "bench", "-c"]
        run([*psql, f"alter role bench password '{PASSWORD}'"])
        self.verifier = run([*psql, "select rolpassword from pg_authid where rolname = 'bench'"]).strip()
        return self

    def __exit__(self, *_):
        self.pg_ctl("stop", "-m", "immediate", stdout=subprocess.DEVNULL)

    def pg_ctl(self, verb, *more, **options):
        command = [f"{PGBIN}/pg_ctl", verb, "-w", "-D", f"{self.dir}/data", *more]
        subprocess.run(unprivileged(command), cwd="/", **{"check": False, **options})


class Pooler:
    def __init__(self, root, name, binary):
        self.name, self.port, self.dir, self.process = name, free_port(), make_dir(f"{root}/{name}"), None
        # Copied: it may lie where only its owner can go.
        self.binary = shutil.copy(binary, self.dir)
        os.chmod(self.binary, 0o755)
        self.version = run([self.binary, "-V"]).split("\n", 1)[0]

    @property
    def pid(self):
        return self.process.pid

    @contextlib.contextmanager
    def running(self, server_port, servers, clients, *, user=f'"bench" "{PASSWORD}"', auth_type="trust", tls=False,
                workers=None, cpus=None, more=""):
        """`user`: the line of the auth_file; `workers`: pgweir's setting, None: as the environment has it; `cpus`: see
        `pinned`; `more`: further settings."""
        users = write(f"{self.dir}/users.txt", user + "\n")
        ini = write(f"{self.dir}/pooler.ini", f"""[databases]
bench = host=127.0.0.1 port={server_port} dbname=bench

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {users}
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = {4 * clients + 100}
listen_backlog = 4096
log_connections = 0
log_disconnections = 0
log_stats = 0
{self.tls_settings() if tls else ""}
{more}
""")
        env = {**os.environ, **({"PGWEIR_WORKERS": str(workers)} if workers else {})}
        command = pinned(unprivileged([self.binary, ini]), cpus)
        with open(f"{self.dir}/log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.dir, env=env)
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
        fields = read(f"/proc/{self.pid}/stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SEC

    def rss_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{self.pid}/status"))[1])


class LoadProgram:
    """`pgweir-load`; see load/."""

    def __init__(self):
        out = run(["cargo", "build", "--release", "--locked", "-p", "pgweir-load", "--message-format=json"])
        messages = (json.loads(line) for line in out.splitlines())
        made = (message["executable"] for message in messages if message.get("target", {}).get("name") == "pgweir-load")
        self.binary = next(made)

    @contextlib.contextmanager
    def null_server(self, cpus=None):
        """Yields the port of a server that answers at once."""
        command = pinned([self.binary, "null-server"], cpus)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield json.loads(process.stdout.readline())["port"]
            finally:
                process.kill()

    @contextlib.contextmanager
    def clients(self, port, *options, cpus=None):
        """Yields clients that are in, as a function: what is said to it they do, 'run' or 'once'."""
        command = pinned([self.binary, "load", "--hold", "--port", str(port), *map(str, options)], cpus)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            def answer():
                line = process.stdout.readline()
                return json.loads(line) if line else sys.exit(f"{' '.join(command)} has failed")

            def tell(word):
                process.stdin.write(word + "\n")
                process.stdin.flush()
                return answer()
            answer()
            try:
                yield tell
            finally:
                process.kill()

    def logins(self, port, *options, nice=0):
        return json.loads(run(["nice", "-n", str(nice), self.binary, "logins", "--port", str(port), *map(str, options)]))


def pgbench(port, root, script, *options, tls=False):
    """Runs `script`, SQL or an option for a script of pgbench's own. Latencies are those of a fifth of the
    transactions."""
    command = [f"{PGBIN}/pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", *map(str, options)]
    command += ["-l", f"--log-prefix={root}/latency", "--sampling-rate=0.2"]
    command += [script] if script.startswith("-") else ["-f", write(f"{root}/work.sql", script + "\n")]
    env = {**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if tls else "disable"}
    out = run([*command, "bench"], env=env)
    latencies = []
    for path in glob.glob(f"{root}/latency.*"):
        latencies += [int(line.split()[2]) / 1000 for line in read(path).splitlines()]
        os.unlink(path)
    if not latencies:
        raise SystemExit(f"{' '.join(command)} has carried out next to nothing")
    latencies.sort()
    at = {f"p{name}_ms": latencies[int(len(latencies) * part)] for name, part in (("50", .5), ("99", .99), ("999", .999))}
    number = int(re.search(r"actually processed: (\d+)", out)[1])
    return {"tps": float(re.search(r"tps = ([\d.]+)", out)[1]), "transactions": number, **at}


def system_calls(pid, root, work):
    """How many system calls a process makes while `work` is done, and what that returns; None where nothing counts
    them. perf takes no time of what it counts; strace does, which makes batches larger."""
    path = f"{root}/calls"
    perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid), "-o", path]
    strace = ["strace", "-f", "-c", "-p", str(pid), "-o", path]
    for command, count in ((perf, counted_by_perf), (strace, counted_by_strace)):
        if not shutil.which(command[0]):
            continue
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet) as counter:
            time.sleep(0.5)
            done = work() if counter.poll() is None else None
            counter.send_signal(signal.SIGINT)
        if done and (calls := count(read(path))):
            return calls, done
    return None


def counted_by_perf(report):
    found = re.search(r"^(\d+),.*sys_enter", report, re.M)
    return found and int(found[1])


def counted_by_strace(report):
    found = re.search(r"^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$", report, re.M)
    return found and int(found[1])
