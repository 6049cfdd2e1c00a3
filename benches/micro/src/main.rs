//! How many instructions each part takes, counted by valgrind's callgrind: they repeat exactly, where seconds do not.
//!
//!   pgweir-instructions            compares with the table beside this; fails where a part takes more than it may
//!   pgweir-instructions --update   writes the table
//!
//! Counted is what a second run of the same program takes above a first one that does the part less often, so that
//! neither its start nor the preparation counts.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use pgweir_micro::{PARTS, Part};

/// More than the table says, in percent, and it fails. Where a memory copy begins, or which seed a hash table has,
/// is worth some tenths of a percent.
const TOLERANCE_PERCENT: f64 = 3.0;

/// The same with another compiler than the table's, which makes other code of the same text.
const TOLERANCE_OTHER_COMPILER_PERCENT: f64 = 15.0;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.tsv");

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(),
        ["--update"] => update(),
        // What valgrind runs.
        ["do", name, times] => repeat(name, times),
        _ => Err("usage: pgweir-instructions [--update]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pgweir-instructions: {e}");
            ExitCode::FAILURE
        }
    }
}

fn repeat(name: &str, times: &str) -> Result<(), Failed> {
    let part = PARTS.iter().find(|part| part.name == name).ok_or("no such part")?;
    let mut work = (part.prepare)();
    (0..times.parse::<u32>()?).for_each(|_| work());
    Ok(())
}

/// Instructions of the whole program that does the part so often.
fn counted(part: &Part, times: u32) -> Result<f64, Failed> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["do", part.name, &times.to_string()])
        .output()
        .map_err(|e| format!("valgrind does not start: {e}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    if out.status.success() { Ok(collected.ok_or("valgrind says nothing")?) } else { Err(said.into()) }
}

/// Instructions of doing the part once.
fn measure(part: &Part) -> Result<f64, Failed> {
    let (less, more) = (part.repeats / 10, part.repeats);
    Ok((counted(part, more)? - counted(part, less)?) / f64::from(more - less))
}

/// Architecture and compiler, which the counts are of.
fn compiler() -> Result<String, Failed> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let out = Command::new(rustc).arg("--version").output()?;
    let version = String::from_utf8(out.stdout)?;
    Ok(format!("{}, {}", env::consts::ARCH, version.trim()))
}

fn update() -> Result<(), Failed> {
    let mut table = format!("# {}\n", compiler()?);
    for part in PARTS {
        writeln!(table, "{}\t{:.0}", part.name, measure(part)?)?;
    }
    fs::write(TABLE, &table)?;
    print!("{table}");
    Ok(())
}

fn compare() -> Result<(), Failed> {
    let table = fs::read_to_string(Path::new(TABLE)).map_err(|e| format!("{TABLE}: {e}"))?;
    let recorded_with = table.lines().next().and_then(|line| line.strip_prefix("# ")).ok_or("the table has no head")?;
    let expected: BTreeMap<&str, &str> = table.lines().filter_map(|line| line.split_once('\t')).collect();
    let compiler = compiler()?;
    if compiler.split(',').next() != recorded_with.split(',').next() {
        println!("not compared: the table is of {recorded_with}, this is {compiler}");
        return Ok(());
    }
    let is_same = compiler == recorded_with;
    if !is_same {
        println!("the table is of {recorded_with}, this is {compiler}");
    }
    let tolerance = if is_same { TOLERANCE_PERCENT } else { TOLERANCE_OTHER_COMPILER_PERCENT };
    let mut too_many = Vec::new();
    for part in PARTS {
        let expected: f64 = expected.get(part.name).ok_or(format!("{} is not in the table", part.name))?.parse()?;
        let found = measure(part)?;
        let percent = 100.0 * (found / expected - 1.0);
        println!("{:40}{found:10.0} instructions, {percent:+.1} %", part.name);
        if percent > tolerance {
            too_many.push(part.name);
        }
    }
    if too_many.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more than {tolerance} % above the table: {}. What makes them slower should go, or is worth it: then \
         `make instructions UPDATE=1` records it",
        too_many.join(", ")
    )
    .into())
}
