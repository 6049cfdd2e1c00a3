//! Session parameters that follow a client from server to server.
//!
//! Only parameters that the server reports (ParameterStatus) can be followed exactly. A set of
//! values is shared by all who have the same, so that comparing two is comparing two pointers
//! in the usual case, and a client costs no memory for them.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ring::digest::{self, SHA256};

/// The names that are tracked; fixed for the life of the process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    /// As PostgreSQL spells them.
    names: Vec<String>,
}

/// PgBouncer's own list, in the order of the registry's positions, to which `track_extra_parameters` adds.
const ALWAYS: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

pub(crate) use crate::registry::{APPLICATION_NAME, Values};

impl Tracked {
    pub(crate) fn new<'a>(extra: impl IntoIterator<Item = &'a str>) -> Tracked {
        let mut names: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
        for name in extra {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        Tracked { names }
    }

    /// Parameter names are compared without case, as PostgreSQL does.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.eq_ignore_ascii_case(name))
    }

    /// All of them, in their order.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn name(&self, position: usize) -> &str {
        &self.names[position]
    }
}

/// A value for each tracked name; `None` where none is known.
#[derive(Debug, Clone)]
pub(crate) struct Parameters(Arc<Set>);

#[derive(Debug)]
struct Set {
    values: Values,
    /// Equal where a text means the same.
    dialect: u128,
}

impl Borrow<[Option<Arc<str>>]> for Shares {
    fn borrow(&self) -> &[Option<Arc<str>>] {
        &self.0.values
    }
}

/// A set as it is found by its values.
#[derive(Debug)]
struct Shares(Arc<Set>);

impl PartialEq for Shares {
    fn eq(&self, other: &Shares) -> bool {
        self.0.values == other.0.values
    }
}

impl Eq for Shares {}

impl Hash for Shares {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.values.hash(state);
    }
}

/// The sets in use. Looked at when a parameter changes, never per query.
static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Shared {
    sets: HashSet<Shares>,
    /// Unused sets are dropped when there are so many.
    sweep_at: usize,
}

fn share(values: Vec<Option<Arc<str>>>) -> Parameters {
    // Nothing under this lock panics; it protects the set of sets.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = shared.sets.get(values.as_slice()) {
        return Parameters(Arc::clone(&known.0));
    }
    if shared.sets.len() >= shared.sweep_at {
        shared.sweep();
    }
    let new = Arc::new(Set { dialect: dialect(&values), values: values.into() });
    shared.sets.insert(Shares(Arc::clone(&new)));
    Parameters(new)
}

impl Shared {
    fn sweep(&mut self) {
        self.sets.retain(|set| Arc::strong_count(&set.0) > 1);
        self.sweep_at = (2 * self.sets.len()).max(64);
    }
}

/// Made of all values but `application_name`, which no analysis of a text depends on. A digest is the same in
/// the next process, and outlives the sets, as the statements that were prepared under them may.
fn dialect(values: &[Option<Arc<str>>]) -> u128 {
    let mut digest = digest::Context::new(&SHA256);
    for (position, value) in values.iter().enumerate().filter(|(position, _)| *position != APPLICATION_NAME) {
        let Some(value) = value else { continue };
        digest.update(&[position, value.len()].map(usize::to_be_bytes).concat());
        digest.update(value.as_bytes());
    }
    let digest = digest.finish();
    digest.as_ref().first_chunk().copied().map_or(0, u128::from_be_bytes)
}

impl Parameters {
    pub(crate) fn none(tracked: &Tracked) -> Parameters {
        share(vec![None; tracked.names.len()])
    }

    /// Names and values, for a process that may track others.
    pub(crate) fn named(&self, tracked: &Tracked) -> Vec<(String, String)> {
        self.values().map(|(position, value)| (tracked.name(position).to_owned(), value.to_string())).collect()
    }

    /// Those of what a server reports.
    pub(crate) fn of_reports(reported: &[(String, String)], tracked: &Tracked) -> Parameters {
        let note = |set: Parameters, (name, value): &(String, String)| match tracked.position(name) {
            Some(position) => set.with(position, value),
            None => set,
        };
        reported.iter().fold(Parameters::none(tracked), note)
    }

    #[inline]
    pub(crate) fn is_same(&self, other: &Parameters) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What texts are analysed under: equal numbers stand for equal settings.
    #[inline]
    pub(crate) fn dialect(&self) -> u128 {
        self.0.dialect
    }

    /// All values, for the registry.
    pub(crate) fn shared(&self) -> &Values {
        &self.0.values
    }

    pub(crate) fn get(&self, position: usize) -> Option<&Arc<str>> {
        self.0.values[position].as_ref()
    }

    /// The values that are known, with their positions.
    pub(crate) fn values(&self) -> impl Iterator<Item = (usize, &Arc<str>)> {
        self.0.values.iter().enumerate().filter_map(|(position, value)| Some((position, value.as_ref()?)))
    }

    /// The set with one value changed.
    pub(crate) fn with(&self, position: usize, value: &str) -> Parameters {
        if self.0.values[position].as_deref() == Some(value) {
            return self.clone();
        }
        let mut values = self.0.values.to_vec();
        values[position] = Some(value.into());
        share(values)
    }

    /// This set where it has a value, `other` where not.
    pub(crate) fn or(&self, other: &Parameters) -> Parameters {
        share(
            self.0
                .values
                .iter()
                .zip(&*other.0.values)
                .map(|(own, other)| own.clone().or_else(|| other.clone()))
                .collect(),
        )
    }

    /// This set, with the spelling of `server` wherever both have a value.
    pub(crate) fn as_on(&self, server: &Parameters) -> Parameters {
        let value = |(own, there): (&Option<Arc<str>>, &Option<Arc<str>>)| match (own, there) {
            (Some(_), Some(there)) => Some(Arc::clone(there)),
            (own, _) => own.clone(),
        };
        share(self.0.values.iter().zip(&*server.0.values).map(value).collect())
    }

    /// SET commands that give a server with the values `server` those of `self`; `None` if
    /// there is nothing to change. A parameter that either side does not know is left alone.
    pub(crate) fn set_commands(&self, server: &Parameters, tracked: &Tracked) -> Option<String> {
        if self.is_same(server) {
            return None;
        }
        let mut sql = String::new();
        for (position, (own, there)) in self.0.values.iter().zip(&*server.0.values).enumerate() {
            let (Some(own), Some(there)) = (own, there) else { continue };
            if own != there {
                set_command(&mut sql, tracked.name(position), own);
            }
        }
        (!sql.is_empty()).then_some(sql)
    }
}

fn set_command(sql: &mut String, name: &str, value: &str) {
    let quoted_list = name.eq_ignore_ascii_case("search_path");
    // Writing to a String does not fail.
    let _ = match value {
        // Reported with its elements quoted already; quoting it again would make one of them.
        "\"\"" if quoted_list => write!(sql, "SET {name}='';"),
        value if quoted_list => write!(sql, "SET {name}={value};"),
        value => write!(sql, "SET {name}={};", quote_literal(value)),
    };
}

/// A string literal that means `value` whatever `standard_conforming_strings` is.
pub(crate) fn quote_literal(value: &str) -> String {
    let escape = if value.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one() {
        let tracked = Tracked::new(["IntervalStyle", "timezone"]);
        assert_eq!((tracked.position("intervalstyle"), tracked.position("timezone")), (Some(5), Some(2)));
        let none = Parameters::none(&tracked);
        let (a, b) = (none.with(2, "UTC").with(4, "x"), none.with(4, "x").with(2, "UTC"));
        assert!(a.is_same(&b) && !a.is_same(&none));
        assert!(a.with(4, "y").with(4, "x").is_same(&a));
        assert_eq!(a.dialect(), a.with(4, "y").dialect());
        let others = [a.with(2, "GMT"), none.with(3, "UTC"), none.with(0, "UTC"), none.clone()];
        assert!(others.iter().all(|other| other.dialect() != a.dialect()));
    }

    #[test]
    fn only_what_differs_is_set_and_quoted() {
        let tracked = Tracked::new(["search_path"]);
        let none = Parameters::none(&tracked);
        let server = none.with(2, "UTC").with(4, "").with(5, "public");
        let client = none.with(0, "UTF8").with(2, "UTC").with(4, r"o'b\c").with(5, "\"$user\", public");
        assert_eq!(
            client.set_commands(&server, &tracked).unwrap(),
            r#"SET application_name=E'o''b\\c';SET search_path="$user", public;"#
        );
        assert_eq!(server.set_commands(&server.clone(), &tracked), None);
        assert_eq!(client.as_on(&server).get(4).unwrap().as_ref(), "");
        assert_eq!(client.or(&server).get(0).unwrap().as_ref(), "UTF8");
    }

    #[test]
    fn unused_sets_are_dropped() {
        let none = Parameters::none(&Tracked::new([]));
        for i in 0..1000 {
            none.with(4, &format!("dropped {i}"));
        }
        assert!(SHARED.lock().unwrap().sets.len() < 200);
    }
}
