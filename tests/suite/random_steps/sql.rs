//! The statements that clients run, and what PostgreSQL answers to each.

use Sql::*;

/// A statement. `k` makes texts that differ in what they compute and in the name of their first
/// column, so that the wrong one is noticed when it is described as well as when it is executed.
/// Most take two parameters: a number, and a mark of client and step that comes back in every row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sql {
    /// The number and `k`. Shared by all clients, or `owner`'s own.
    Add {
        k: u32,
        owner: Option<u32>,
    },
    /// The number with a parameter type that only the Parse tells: the same text, another statement.
    Typed {
        k: u32,
        oid: u32,
    },
    /// As many rows as the number says.
    Series {
        k: u32,
    },
    /// Fails after rows: when the number is from 1 to 3, at that row.
    Divide {
        k: u32,
    },
    /// A value as long as the number says.
    Repeat {
        k: u32,
    },
    /// Its first parameter, of any length, and the length.
    Echo {
        k: u32,
    },
    /// Takes as many milliseconds as the number says.
    Sleep,
    /// Does not end before a timeout ends it.
    Overlong,
    /// What the server thinks this client's parameters are.
    Settings,
    /// As many rows as the number says.
    Insert {
        owner: String,
    },
    Count {
        owner: String,
    },
    Delete {
        owner: String,
    },
    /// Half a transfer.
    Move {
        account: u32,
        amount: i64,
    },
    CopyIn,
    CopyOut {
        rows: u32,
        mark: String,
    },
    Begin,
    Commit,
    Rollback,
    Set {
        name: &'static str,
        value: String,
        local: bool,
    },
    /// Sets the statement_timeout of the transaction.
    Hasten,
    DeallocateAll,
    DiscardAll,
    Deallocate(String),
    /// `PREPARE`, of an [`Sql::Add`].
    Prepare {
        name: String,
        k: u32,
    },
    /// `EXECUTE`, of what [`Sql::Prepare`] has prepared.
    Perform {
        name: String,
        number: i64,
        mark: String,
    },
    Misspelt,
    NoTable,
    Empty,
}

pub(super) const INT8: u32 = 20;
pub(super) const INT4: u32 = 23;
pub(super) const TEXT: u32 = 25;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Int(i64, u32),
    Text(String),
}

impl Cell {
    pub(super) fn bytes(&self, binary: bool) -> Vec<u8> {
        match self {
            Cell::Text(text) => text.clone().into_bytes(),
            Cell::Int(value, _) if !binary => value.to_string().into_bytes(),
            Cell::Int(value, INT8) => value.to_be_bytes().to_vec(),
            Cell::Int(value, _) => (*value as i32).to_be_bytes().to_vec(),
        }
    }
}

fn int(value: i64) -> Cell {
    Cell::Int(value, INT4)
}

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

/// What a statement gives: rows, then either its tag or an error.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) fails: Option<&'static [&'static str]>,
    /// Without the row count that belongs to a SELECT.
    pub(super) tag: String,
}

/// What outcomes depend on beside the parameters.
pub(super) struct Context {
    pub(super) owned_rows: i64,
    pub(super) settings: Vec<String>,
}

impl Sql {
    /// With `$1` and `$2` for the parameters.
    pub(super) fn text(&self) -> String {
        match self {
            Add { k, owner: None } => format!("select $1::int + {k} as t{k}, $2::text as mark"),
            Add { k, owner: Some(id) } => format!("select $1::int + {k} as t{k}, $2::text as mark, 'c{id}' as own"),
            Typed { k, .. } => format!("select $1 as t{k}, $2::text as mark"),
            Series { k } => format!("select i + {k} as t{k}, $2::text as mark from generate_series(1, $1::int) i"),
            Divide { k } => {
                format!("select {k} / (i - $1::int) as t{k}, $2::text as mark from generate_series(1, 3) i")
            }
            Repeat { k } => format!("select repeat('x', $1::int) as t{k}, $2::text as mark"),
            Echo { k } => format!("select $1::text as t{k}, length($1::text) as length, $2::text as mark"),
            Sleep => "select $1::int as t0, $2::text as mark from pg_sleep($1::int / 1000.0)".into(),
            Overlong => "select $1::int as t0, $2::text as mark from pg_sleep(600)".into(),
            Settings => "select current_setting('application_name') as t0, current_setting('TimeZone') as zone, \
                         $1::int as number, $2::text as mark"
                .into(),
            Insert { owner } => {
                format!("insert into ledger select '{owner}', $2::text from generate_series(1, $1::int)")
            }
            Count { owner } => {
                format!("select count(*)::int + $1::int as t0, $2::text as mark from ledger where owner = '{owner}'")
            }
            Delete { owner } => {
                format!("delete from ledger where owner = '{owner}' and $1::int is not null and $2::text <> ''")
            }
            Move { account, amount } => {
                format!("update accounts set balance = balance + ({amount}) where account = {account}")
            }
            CopyIn => "copy ledger from stdin".into(),
            CopyOut { rows, mark } => {
                format!("copy (select i, '{mark}' from generate_series(1, {rows}) i) to stdout")
            }
            Begin => "begin".into(),
            Commit => "commit".into(),
            Rollback => "rollback".into(),
            Set { name, value, local } => format!("set {}{name} to '{value}'", if *local { "local " } else { "" }),
            Hasten => "set local statement_timeout to 100".into(),
            DeallocateAll => "deallocate all".into(),
            DiscardAll => "discard all".into(),
            Deallocate(name) => format!("deallocate {name}"),
            Prepare { name, k } => format!("prepare {name} (int, text) as {}", Add { k: *k, owner: None }.text()),
            Perform { name, number, mark } => format!("execute {name}({number}, '{mark}')"),
            Misspelt => "selec $1::int, $2::text".into(),
            NoTable => "select $1::int, $2::text from nowhere".into(),
            Empty => String::new(),
        }
    }

    /// With the parameters written into it.
    pub(super) fn literal(&self, args: &[String]) -> String {
        let mut out = self.text();
        for (i, arg) in args.iter().enumerate() {
            out = out.replace(&format!("${}", i + 1), &format!("'{arg}'"));
        }
        out
    }

    /// Types of its parameters; two, or none.
    pub(super) fn param_oids(&self) -> Vec<u32> {
        match self {
            Typed { oid, .. } => vec![*oid, TEXT],
            Echo { .. } => vec![TEXT, TEXT],
            _ if self.text().contains("$1") && !matches!(self, Prepare { .. }) => vec![INT4, TEXT],
            _ => Vec::new(),
        }
    }

    /// Types that its Parse says.
    pub(super) fn told_oids(&self) -> Vec<u32> {
        match self {
            Typed { oid, .. } => vec![*oid],
            _ => Vec::new(),
        }
    }

    /// Name and type of each column; none when it returns no rows.
    pub(super) fn columns(&self) -> Vec<(String, u32)> {
        let named = |columns: &[(&str, u32)]| columns.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect();
        let first = |k: &u32, oid: u32| vec![(format!("t{k}"), oid), ("mark".to_owned(), TEXT)];
        match self {
            Add { k, owner: None } | Series { k } | Divide { k } => first(k, INT4),
            Add { k, owner: Some(_) } => [first(k, INT4), named(&[("own", TEXT)])].concat(),
            Typed { k, oid } => first(k, *oid),
            Repeat { k } => first(k, TEXT),
            Echo { k } => {
                let mut columns = first(k, TEXT);
                columns.insert(1, ("length".to_owned(), INT4));
                columns
            }
            Sleep | Overlong | Count { .. } => first(&0, INT4),
            Settings => named(&[("t0", TEXT), ("zone", TEXT), ("number", INT4), ("mark", TEXT)]),
            _ => Vec::new(),
        }
    }

    /// Whether a failed transaction takes it.
    pub(super) fn ends_transaction(&self) -> bool {
        matches!(self, Commit | Rollback)
    }

    pub(super) fn outcome(&self, args: &[String], context: &Context) -> Outcome {
        let number = args.first().and_then(|arg| arg.parse::<i64>().ok()).unwrap_or_default();
        let mark = args.get(1).map(String::as_str).unwrap_or_default();
        let rows = |rows: Vec<Vec<Cell>>| Outcome { rows, fails: None, tag: "SELECT".into() };
        let done = |tag: &str| Outcome { tag: tag.into(), ..Outcome::default() };
        match self {
            Add { k, owner } => {
                let own = owner.map(|id| text(&format!("c{id}")));
                rows(vec![[int(number + i64::from(*k)), text(mark)].into_iter().chain(own).collect()])
            }
            Typed { oid: TEXT, .. } => rows(vec![vec![text(&args[0]), text(mark)]]),
            Typed { oid, .. } => rows(vec![vec![Cell::Int(number, *oid), text(mark)]]),
            Series { k } => rows((1..=number).map(|i| vec![int(i + i64::from(*k)), text(mark)]).collect()),
            Divide { k } => {
                let fails = (1..=3).contains(&number).then_some(&["22012"][..]);
                let last = if fails.is_some() { number - 1 } else { 3 };
                let row = |i: i64| vec![int(i64::from(*k) / (i - number)), text(mark)];
                Outcome { fails, ..rows((1..=last).map(row).collect()) }
            }
            Repeat { .. } => rows(vec![vec![text(&"x".repeat(number as usize)), text(mark)]]),
            Echo { .. } => rows(vec![vec![text(&args[0]), int(args[0].len() as i64), text(mark)]]),
            Sleep => rows(vec![vec![int(number), text(mark)]]),
            Overlong => Outcome { fails: Some(&["57014"]), ..rows(Vec::new()) },
            Settings => {
                let settings = context.settings.iter().map(|value| text(value));
                rows(vec![settings.chain([int(number), text(mark)]).collect()])
            }
            Count { .. } => rows(vec![vec![int(context.owned_rows + number), text(mark)]]),
            Insert { .. } => done(&format!("INSERT 0 {number}")),
            Delete { .. } => done(&format!("DELETE {}", context.owned_rows)),
            Move { .. } => done("UPDATE 1"),
            CopyIn => done("COPY"),
            CopyOut { rows, .. } => done(&format!("COPY {rows}")),
            Begin => done("BEGIN"),
            Commit => done("COMMIT"),
            Rollback => done("ROLLBACK"),
            Set { .. } | Hasten => done("SET"),
            DeallocateAll => done("DEALLOCATE ALL"),
            DiscardAll => done("DISCARD ALL"),
            Deallocate(_) => done("DEALLOCATE"),
            Prepare { .. } => done("PREPARE"),
            // The model knows what it was prepared from.
            Perform { .. } => unreachable!("asked of the statement that was prepared"),
            // Neither gets as far as this.
            Misspelt | NoTable | Empty => Outcome::default(),
        }
    }
}
