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
import argparse, contextlib, glob, os, socket, statistics, threading, time

import rig


@contextlib.contextmanager
def storming(load, port, clients, with_tls, secs, counts):
    """A storm that has begun and lasts `secs`; adds to `counts` who got in per second and who did not."""
    def storm():
        options = ["--clients", clients, "--seconds", secs, "--query", *(["--tls"] if with_tls else [])]
        figures = load.logins(port, *options, nice=19)
        counts.append((figures["tps"], figures["failed"]))
    thread = threading.Thread(target=storm)
    thread.start()
    # The first time every pooler has something to learn.
    time.sleep(1)
    try:
        yield
    finally:
        thread.join()


def latencies(port, root, args):
    command = [f"{rig.PGBIN}/pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-M", "simple"]
    command += ["-c", str(args.inside), "-j", "1", "-T", str(args.seconds), "-R", str(args.rate)]
    command += ["-l", f"--log-prefix={root}/latency", "-f", rig.write(f"{root}/work.sql", "select 1;\n")]
    rig.run([*command, "bench"], env={**os.environ, "PGPASSWORD": rig.PASSWORD, "PGSSLMODE": "disable"})
    found = []
    for path in glob.glob(f"{root}/latency.*"):
        # Both are from when the transaction was due, and not from when pgbench came to send it.
        found += [int(line.split()[2]) / 1000 for line in rig.read(path).splitlines()]
        os.unlink(path)
    return sorted(found)


def storm_table(root, postgres, load, poolers, args):
    print(f"\n{args.inside} clients in, {args.rate} transactions per second, while {args.clients} reconnect in a loop; "
          f"medians of {args.rounds} x {args.seconds} s; x = ratio of p99 to calm, its range in brackets")
    print(f"{'':12}{'':8}{'logins/s':>9}{'failed':>8}{'p50 ms':>8}{'p99 ms':>8}  x")
    rounds = {pooler.name: [] for pooler in poolers}
    for _ in range(args.rounds):
        for pooler in poolers:
            # SCRAM against the verifier that the server has, and TLS on offer.
            with pooler.running(postgres.port, 20, args.clients + args.inside, auth_type="scram-sha-256", tls=True,
                                user=f'"bench" "{postgres.verifier}"'):
                figures = []
                for kind in ("calm", "plain", "tls"):
                    counts = []
                    with (contextlib.nullcontext() if kind == "calm"
                          else storming(load, pooler.port, args.clients, kind == "tls", args.seconds + 2, counts)):
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


def half_open_table(postgres, poolers, number):
    print(f"\nmemory of {number} connections that have said nothing, in bytes for each")
    for pooler in poolers:
        more = "tcp_defer_accept = 0\nclient_login_timeout = 600\n"
        with pooler.running(postgres.port, 8, number, more=more):
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
    return parser.parse_args()


def main():
    args = arguments()
    with rig.workplace() as root, rig.Postgres(root) as postgres:
        poolers = [rig.Pooler(root, name, binary) for name, _, binary in (spec.partition("=") for spec in args.pooler)]
        for pooler in poolers:
            print(f"{pooler.name}: {pooler.version}")
        busy = rig.busy_percent()
        print(f"{os.cpu_count()} cores, {busy:.0f} % busy before{': the figures will be noise' if busy > 5 else ''}")
        if args.half_open:
            half_open_table(postgres, poolers, args.half_open)
        else:
            storm_table(root, postgres, rig.LoadProgram(), poolers, args)


if __name__ == "__main__":
    main()
