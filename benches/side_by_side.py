#!/usr/bin/env python3
"""Measures poolers side by side on one machine, and writes a table in Markdown.

In each round the poolers take turns at the same work, so a ratio compares what was measured within seconds of each
other. What is printed is the median over the rounds, of ratios with their range. The ratios are what to quote: the
absolute figures are the machine's. Beside a ratio stands what pgweir is asked for.

  tps     transactions (logins) per second
  CPU     the pooler's own time per transaction, user and system, from /proc
  calls   its system calls per transaction, counted apart from the rounds; - where nothing counts them
  core    how much of a processor the pooler took: where it is to be the only limit, it should be near 100 %
  MiB     its resident memory

A pooler is NAME=BINARY, where BINARY takes a pgbouncer.ini; the first is what the others are compared with. "direct",
the server without a pooler, comes by itself. Example:

  side_by_side.py pgbouncer=/usr/sbin/pgbouncer pgweir=target/release/pgweir --workloads simple-32,saturated

The environment reaches the poolers: PGWEIR_IO_URING=0 takes that from pgweir.
"""
import argparse, contextlib, dataclasses, os, statistics, sys, time

import rig

ROWS = "select i, repeat('x', 50) from generate_series(1, 1000) i"


@dataclasses.dataclass(frozen=True)
class Workload:
    title: str
    # At work at once, and the size of the pool.
    clients: int
    servers: int
    # Who makes the load: pgbench, load (pgweir-load) or logins (the same).
    driver: str = "pgbench"
    # What pgbench runs, and what the driver is told besides.
    script: str = "select 1"
    options: tuple = ()
    # All that are connected; None: those at work.
    connected: int | None = None
    tls: bool = False
    # What the pooler knows of the users who log in by SCRAM: password or verifier. None: everybody is trusted.
    scram: str | None = None
    # None: as many as asked for.
    workers: str | None = None
    # The pooler has a processor to itself, and a server behind it that answers at once.
    alone: bool = False
    # Asked of tps at least, of CPU and p99 at most, as ratios to the first pooler.
    asked: tuple = (None, None, None)


def workloads(args):
    extended, prepared = ("-M", "extended"), ("-M", "prepared")
    connects = ("-C", "-j", "8")
    return {
        "simple-32": Workload("select 1", 32, 8, asked=(1.35, .65, .75)),
        "simple-200": Workload("select 1", 200, 20, asked=(1.35, .65, .75)),
        "simple-8": Workload("select 1", 8, 8, asked=(1.15, .75, .85)),
        "simple-1": Workload("select 1", 1, 1, asked=(1.0, .95, 1.0)),
        "extended": Workload("-S extended", 32, 8, script="-S", options=extended, asked=(1.2, .68, .8)),
        "prepared": Workload("-S prepared", 32, 8, script="-S", options=prepared, asked=(1.25, .65, .8)),
        "rows": Workload("1,000 rows", 8, 8, script=ROWS, asked=(1.35, .40, None)),
        "tls": Workload("select 1, TLS", 32, 8, tls=True, asked=(1.25, .70, .8)),
        "saturated": Workload("select 1, null server, own core", 200, 20, "load", alone=True, asked=(1.6, .62, .65)),
        "two-workers": Workload("select 1, two workers", 200, 20, workers="2", asked=(1.25, .85, .85)),
        "connect": Workload("pgbench -C, SCRAM", 8, 8, options=connects, scram="password", asked=(3, .4, None)),
        "logins": Workload("logins, SCRAM", 16, 8, "logins", scram="password"),
        "logins-tls": Workload("logins, SCRAM, TLS", 16, 8, "logins", scram="password", tls=True),
        "logins-verifier": Workload("logins, SCRAM, by verifiers", 16, 8, "logins", scram="verifier"),
        "open": Workload(f"select 1, {args.rate}/s due", 200, 20, "load", options=("--rate", args.rate)),
        FEW: Workload("select 1, 200 connected", 200, 20, "load"),
        MANY: Workload(f"select 1, {args.connected} connected", 200, 20, "load", connected=args.connected),
    }


# The second may cost a tenth more CPU than the first.
FEW, MANY, MANY_AT_MOST = "few", "many", 1.10

# Memory: bytes per client that idles, without and with TLS, and what is asked of their ratio at most.
IDLE = {"idle": (False, .65), "idle-tls": (True, .6)}


class Bench:
    def __init__(self, args, root, postgres, load, poolers):
        self.args, self.root, self.postgres, self.load, self.poolers = args, root, postgres, load, poolers

    def note(self, text):
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def ready(self, workload):
        """Everything that a workload needs, running: a list of poolers and what makes the load for each."""
        with contextlib.ExitStack() as stack:
            server_port, cpus, others = self.postgres.port, None, None
            if workload.alone:
                *others, last = sorted(os.sched_getaffinity(0))
                cpus = {last}
                server_port = stack.enter_context(self.load.null_server(others))
            direct = rig.Nothing(server_port)
            # The server itself asks nobody for a password, has no TLS, and no room for so many.
            is_direct = not (workload.scram or workload.tls or workload.connected)
            for pooler in self.poolers:
                self.start(stack, pooler, workload, server_port, cpus)
            measured = [(pooler, self.driver(stack, pooler, workload, others))
                        for pooler in [*([direct] if is_direct else []), *self.poolers]]
            yield measured

    def start(self, stack, pooler, workload, server_port, cpus):
        user = f'"bench" "{self.postgres.verifier if workload.scram == "verifier" else rig.PASSWORD}"'
        # PgBouncer before 1.21 refuses to know it.
        more = "max_prepared_statements = 200" if "prepared" in workload.options else ""
        stack.enter_context(pooler.running(
            server_port, workload.servers, workload.connected or workload.clients, user=user, tls=workload.tls,
            auth_type="scram-sha-256" if workload.scram else "trust", workers=workload.workers or self.args.workers, cpus=cpus, more=more))

    def driver(self, stack, pooler, workload, cpus):
        """A function of seconds, which carries the work out and says what came of it."""
        tls = ["--tls"] if workload.tls else []
        by_pgbench = self.args.driver == "pgbench" or "-C" in workload.options
        if workload.driver == "pgbench" and by_pgbench:
            def drive(secs):
                options = ["-c", workload.clients, "-T", secs, *workload.options]
                return rig.pgbench(pooler.port, self.root, workload.script, *options, tls=workload.tls)
        elif workload.driver == "logins":
            def drive(secs):
                figures = self.load.logins(pooler.port, "--clients", workload.clients, "--seconds", secs, *tls)
                return figures if not figures["failed"] else sys.exit(f"{figures['failed']} logins have failed")
        else:
            mine = workload.options if workload.driver == "load" else like_pgbench(workload)
            options = ["--clients", workload.clients, "--seconds", self.args.seconds, *mine, *tls]
            options += ["--warm-up", 0] if self.args.quick else []
            options += ["--connected", workload.connected] if workload.connected else []
            tell = stack.enter_context(self.load.clients(pooler.port, *options, cpus=cpus))

            def drive(_):
                return tell("run")
        return drive

    def figures(self, pooler, drive):
        """What a round comes to."""
        cpu_secs, began = pooler.cpu_secs(), time.monotonic()
        figures = drive(self.args.seconds)
        cpu_secs, took_secs = pooler.cpu_secs() - cpu_secs, time.monotonic() - began
        figures["cpu_us"] = cpu_secs / figures["transactions"] * 1e6
        figures["core"] = 100 * cpu_secs / took_secs
        figures["mib"] = pooler.rss_kib() / 1024
        return figures

    def counted(self, pooler, drive):
        """The same, and system calls per transaction; they are None where nothing counts them."""
        counted = pooler.pid and rig.system_calls(pooler.pid, self.root, lambda: self.figures(pooler, drive))
        if not counted:
            return self.figures(pooler, drive), None
        calls, figures = counted
        return figures, calls / figures["transactions"]

    def rounds(self, workload):
        """Figures by pooler and round, and system calls by pooler."""
        rounds, calls = {}, {}
        with self.ready(workload) as measured:
            for number in range(self.args.rounds):
                # Nobody is always first.
                for pooler, drive in measured if number % 2 == 0 else reversed(measured):
                    if self.args.quick:
                        figures, calls[pooler.name] = self.counted(pooler, drive)
                    else:
                        figures = self.figures(pooler, drive)
                    rounds.setdefault(pooler.name, []).append(figures)
            if not self.args.quick:
                # Apart, since counting takes time of what is counted.
                calls = {pooler.name: self.counted(pooler, drive)[1] for pooler, drive in measured if pooler.pid}
        return rounds, calls

    def load_rows(self, name, workload):
        self.note(f"{name}: {workload.title}")
        rounds, calls = self.rounds(workload)
        base = rounds[self.poolers[0].name]
        title = f"{workload.title}, {workload.clients}/{workload.servers}"
        for pooler, mine in rounds.items():
            is_base = mine is base
            asked = workload.asked if pooler == self.poolers[-1].name and not is_base else (None, None, None)
            ratios = ["" if is_base else ratio(mine, base, figure) for figure in ("tps", "cpu_us", "p99_ms")]
            verdicts = [f"{text}{verdict(mine, base, figure, limit, figure == 'tps')}" for text, figure, limit
                        in zip(ratios, ("tps", "cpu_us", "p99_ms"), asked)]
            figure = {name: statistics.median(each[name] for each in mine) for name in mine[0]}
            is_direct = pooler == "direct"
            yield [title, pooler, f"{figure['tps']:.0f}", verdicts[0], "" if is_direct else f"{figure['cpu_us']:.1f}",
                   verdicts[1], f"{figure['p50_ms']:.3f}", f"{figure['p99_ms']:.3f}", verdicts[2],
                   f"{figure['p999_ms']:.3f}", f"{calls[pooler]:.2f}" if calls.get(pooler) else "-",
                   "" if is_direct else f"{figure['core']:.0f} %", "" if is_direct else f"{figure['mib']:.1f}"]

    def idle_rows(self, name):
        tls, limit = IDLE[name]
        number = self.args.idle
        self.note(f"{name}: memory of {number} clients")
        options = ["--tls"] if tls else []
        base = None
        for pooler in self.poolers:
            with pooler.running(self.postgres.port, 8, number, tls=tls), \
                    self.load.clients(pooler.port, "--clients", 1, *options) as first:
                first("once")
                before = pooler.rss_kib()
                with self.load.clients(pooler.port, "--clients", 8, "--connected", number, *options) as tell:
                    logged_in = pooler.rss_kib() - before
                    tell("once")
                    queried = pooler.rss_kib() - before
            logged_in, queried = (1024 * kib / number for kib in (logged_in, queried))
            base = base or queried
            x = "" if base == queried else f"{queried / base:.2f}{asked_for(queried / base, limit, False)}"
            yield [f"{number} idle clients{', TLS' if tls else ''}", pooler.name, f"{logged_in:.0f}", f"{queried:.0f}", x,
                   f"{before / 1024:.1f}"]


def like_pgbench(workload):
    """What pgbench would do, as options of pgweir-load."""
    sql = "select abalance from pgbench_accounts where aid = 1" if workload.script == "-S" else workload.script
    mode = workload.options[workload.options.index("-M") + 1] if "-M" in workload.options else "simple"
    return ["--sql", sql, "--mode", mode]


def ratios_of(mine, base, figure):
    return [own[figure] / other[figure] for own, other in zip(mine, base) if other[figure]]


def ratio(mine, base, figure):
    ratios = ratios_of(mine, base, figure)
    if not any(ratios):
        return ""
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]"


def verdict(mine, base, figure, limit, is_least):
    return asked_for(statistics.median(ratios_of(mine, base, figure)), limit, is_least) if limit else ""


def asked_for(found, limit, is_least):
    """What was asked for, and whether it was reached, by the two digits that are shown."""
    reached = round(found, 2) >= limit if is_least else round(found, 2) <= limit
    return f", asked {'>=' if is_least else '<='} {limit:.2f}: {'yes' if reached else '**no**'}"


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def report(bench, chosen):
    """Yields the parts of the report as they are ready."""
    args = bench.args
    versions = [bench.postgres.version, *(f"{pooler.name}: {pooler.version}" for pooler in bench.poolers)]
    busy = rig.busy_percent()
    yield "".join(f"- {line}\n" for line in [
        *versions, f"{len(os.sched_getaffinity(0))} processors, {busy:.0f} % busy before"
        f"{': **the figures will be noise**' if busy > 5 else ''}",
        f"medians of {args.rounds} x {args.seconds} s; x = ratio to {bench.poolers[0].name} in the same round, its range "
        "in brackets; clients/servers behind each workload"])
    all_workloads = workloads(args)
    head = ["workload", "pooler", "tps", "x", "CPU us", "x", "p50 ms", "p99 ms", "x", "p99.9 ms", "calls", "core", "MiB"]
    cpu_us = {}
    rows = []
    for name in (name for name in chosen if name in all_workloads):
        for row in bench.load_rows(name, all_workloads[name]):
            rows.append(row)
            bench.note("  ".join(row[1:]))
            cpu_us[name, row[1]] = row[4]
    if rows:
        yield markdown(head, rows)
    lines = []
    for pooler in bench.poolers:
        if (FEW, pooler.name) in cpu_us and (MANY, pooler.name) in cpu_us:
            times = float(cpu_us[MANY, pooler.name]) / float(cpu_us[FEW, pooler.name])
            is_asked = pooler is bench.poolers[-1]
            lines.append(f"- {pooler.name}: CPU per transaction with {args.connected} connected is {times:.2f} of that with "
                         f"200{asked_for(times, MANY_AT_MOST, False) if is_asked else ''}\n")
    if lines:
        yield "".join(lines)
    rows = [row for name in chosen if name in IDLE for row in bench.idle_rows(name)]
    if rows:
        yield markdown(["memory, bytes per client", "pooler", "logged in", "after a query", "x", "process MiB"], rows)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pooler", nargs="+", metavar="NAME=BINARY")
    parser.add_argument("--workloads", default="all", metavar="NAME,...", help="'list' prints them (all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6, help="of load in a round")
    parser.add_argument("--driver", choices=["pgbench", "load"], default="pgbench",
                        help="who makes the load of those workloads that both can make (pgbench)")
    parser.add_argument("--workers", default="1", help="of pgweir, or auto; PgBouncer has one (1)")
    parser.add_argument("--rate", type=int, default=10_000, help="transactions per second of the open loop")
    parser.add_argument("--connected", type=int, default=50_000, help="clients of the workload 'many'")
    parser.add_argument("--idle", type=int, default=10_000, help="clients whose memory is measured")
    parser.add_argument("--quick", action="store_true", help="a look at everything, in three minutes: 1 round of 2 s")
    parser.add_argument("--out", metavar="FILE", help="where the report goes besides standard output")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.connected, args.idle = 1, 2, 5_000, 2_000
    return args


def main():
    args = arguments()
    known = [*workloads(args), *IDLE]
    if args.workloads == "list":
        print("\n".join(known))
        return
    chosen = known if args.workloads == "all" else args.workloads.split(",")
    if unknown := set(chosen) - set(known):
        raise SystemExit(f"no such workloads: {', '.join(unknown)}; there are {', '.join(known)}")
    parts = []
    with rig.workplace() as root, rig.Postgres(root) as postgres:
        args.connected, args.idle = map(rig.clients_allowed, (args.connected, args.idle))
        poolers = [rig.Pooler(root, name, binary) for name, _, binary in (spec.partition("=") for spec in args.pooler)]
        for part in report(Bench(args, root, postgres, rig.LoadProgram(), poolers), chosen):
            print(f"{part}\n", end="", flush=True)
            parts.append(part)
    if args.out:
        rig.write(args.out, "\n".join(parts))


if __name__ == "__main__":
    main()
