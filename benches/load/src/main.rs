//! Load for a pooler, and a server that costs nothing behind it. Run by `side_by_side.py`, or by hand; `--help` says how.

mod connection;
mod histogram;
mod load;
mod logins;
mod null_server;
mod tls;
mod transaction;

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;

use lexopt::{Arg, Parser, ValueExt};

use connection::Target;
use load::Load;
use logins::Logins;
use null_server::NullServer;
use transaction::Mode;

const HELP: &str = "\
pgweir-load: load for a pooler; figures are printed as a line of JSON

  pgweir-load load         clients that are in run transactions
  pgweir-load logins       clients log in, by trust or SCRAM-SHA-256, and leave, again and again
  pgweir-load null-server  a PostgreSQL that answers at once, whatever it is asked

Options of load and logins:
  --port PORT              of the pooler, on 127.0.0.1 (6432)
  --user, --password, --database NAME
                           (bench)
  --tls                    over TLS, whoever the server is
  --clients N              at work at once (32 for load, 16 for logins)
  --seconds S              (5)

Options of load:
  --sql TEXT               (select 1)
  --mode MODE              simple, extended or prepared, as of pgbench (simple)
  --rate N                 open loop: so many transactions per second are due, whatever has become of those
                           before; latency counts from when one was due. Without it, closed loop: a client
                           begins its next when its last is over
  --connected N            clients that are in (as many as are at work)
  --rotate                 all that are in take turns at work
  --warm-up S              before what is counted (1)
  --threads N              (1)
  --hold                   when all are in, obey standard input: 'run' the load, 'once' a transaction for each
                           client; until it ends

Options of logins:
  --query                  each runs one before it leaves

Options of null-server:
  --port PORT              (any, which is printed)
  --rows N                 in each result (1)
  --row-len BYTES          of the value in each (1)

Examples:
  pgweir-load null-server --port 5433
  pgweir-load load --port 6432 --clients 200 --rate 20000
";

type Failed = Box<dyn Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pgweir-load: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failed> {
    let mut args = Parser::from_env();
    match args.next()? {
        Some(Arg::Value(word)) if word == "load" => load_of(args),
        Some(Arg::Value(word)) if word == "logins" => logins_of(args),
        Some(Arg::Value(word)) if word == "null-server" => null_server_of(args),
        Some(Arg::Long("help") | Arg::Short('h')) | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(other.unexpected().into()),
    }
}

fn load_of(mut args: Parser) -> Result<(), Failed> {
    let mut target = Target::default();
    let mut load = Load {
        sql: "select 1".into(),
        mode: Mode::Simple,
        clients: 32,
        connected: 0,
        rotate: false,
        seconds: 5.0,
        warm_up: 1.0,
        rate: None,
        threads: 1,
        hold: false,
    };
    while let Some(name) = option(&mut args)? {
        match name.as_str() {
            "clients" => load.clients = at_least_1(&mut args)?,
            "seconds" => load.seconds = positive(&mut args)?,
            "sql" => load.sql = args.value()?.string()?,
            "mode" => load.mode = args.value()?.parse_with(|text| Mode::read(text).ok_or("no mode"))?,
            "rate" => load.rate = Some(positive(&mut args)?),
            "connected" => load.connected = value(&mut args)?,
            "rotate" => load.rotate = true,
            "warm-up" => load.warm_up = value::<u32>(&mut args)?.into(),
            "threads" => load.threads = at_least_1(&mut args)?,
            "hold" => load.hold = true,
            _ => target_option(&mut target, &name, &mut args)?,
        }
    }
    load.connected = load.connected.max(load.clients);
    Ok(load::run(&target, &load)?)
}

fn logins_of(mut args: Parser) -> Result<(), Failed> {
    let (mut target, mut logins) = (Target::default(), Logins { clients: 16, seconds: 5.0, query: false });
    while let Some(name) = option(&mut args)? {
        match name.as_str() {
            "clients" => logins.clients = at_least_1(&mut args)?,
            "seconds" => logins.seconds = positive(&mut args)?,
            "query" => logins.query = true,
            _ => target_option(&mut target, &name, &mut args)?,
        }
    }
    Ok(logins::run(&target, &logins)?)
}

fn null_server_of(mut args: Parser) -> Result<(), Failed> {
    let mut server = NullServer { port: 0, rows: 1, row_len: 1 };
    while let Some(name) = option(&mut args)? {
        match name.as_str() {
            "port" => server.port = value(&mut args)?,
            "rows" => server.rows = value(&mut args)?,
            "row-len" => server.row_len = value(&mut args)?,
            _ => return Err(unknown(&name)),
        }
    }
    Ok(null_server::run(&server)?)
}

fn target_option(target: &mut Target, name: &str, args: &mut Parser) -> Result<(), Failed> {
    match name {
        "port" => target.port = value(args)?,
        "user" => target.user = args.value()?.string()?,
        "password" => target.password = args.value()?.string()?,
        "database" => target.database = args.value()?.string()?,
        "tls" => target.tls = Some(tls::config()?),
        _ => return Err(unknown(name)),
    }
    Ok(())
}

/// The name of the next option.
fn option(args: &mut Parser) -> Result<Option<String>, Failed> {
    match args.next()? {
        None => Ok(None),
        Some(Arg::Long(name)) => Ok(Some(name.to_owned())),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn unknown(name: &str) -> Failed {
    format!("--{name} is no option here").into()
}

fn value<T: FromStr<Err: Error + Send + Sync + 'static>>(args: &mut Parser) -> Result<T, Failed> {
    Ok(args.value()?.parse()?)
}

fn at_least_1(args: &mut Parser) -> Result<usize, Failed> {
    Ok(value::<usize>(args)?.max(1))
}

fn positive(args: &mut Parser) -> Result<f64, Failed> {
    let number: f64 = value(args)?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err(format!("{number} is not above 0").into()) }
}
