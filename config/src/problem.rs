//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The place that a problem of the environment is reported at.
pub(crate) const ENVIRONMENT: &str = "environment";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// A path as the operator wrote it, or [`ENVIRONMENT`].
    pub(crate) file: Arc<str>,
    /// Counted from 1; None for the environment and for a file as a whole.
    pub(crate) line: Option<u32>,
}

impl Place {
    pub(crate) fn file(file: &str) -> Place {
        Place { file: Arc::from(file), line: None }
    }

    /// The file that was loaded, or the environment if there was none.
    pub(crate) fn of_source(path: Option<&Path>) -> Place {
        path.map_or_else(|| Place::file(ENVIRONMENT), |path| Place::file(&path.display().to_string()))
    }

    pub(crate) fn line(&self, line: u32) -> Place {
        Place { file: self.file.clone(), line: Some(line) }
    }

    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { file: self.file.to_string(), line: self.line, message: message.into() }
    }
}

/// One thing that is wrong, or that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file as the operator named it, or "environment".
    pub file: String,
    /// Counted from 1; None for the environment and for a file as a whole.
    pub line: Option<u32>,
    /// Plain English; never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// What is wrong with a configuration that cannot be used: everything, not only the first thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// What keeps it from being used.
    pub errors: Vec<Problem>,
    /// What the operator should know besides.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.errors.iter().enumerate() {
            let newline = if n > 0 { "\n" } else { "" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known key that `wanted` may be a slip of: one with at most a third of its letters wrong.
pub(crate) fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_ascii_lowercase();
    let wrong_max = (wanted.chars().count() / 3).max(1);
    let measured = known.into_iter().map(|key| (edit_distance(&wanted, key), key));
    measured.min_by_key(|(wrong, _)| *wrong).filter(|(wrong, _)| *wrong <= wrong_max).map(|(_, key)| key)
}

/// What an error says behind an unknown name, if there is a name like it; empty if not.
pub(crate) fn suggestion(nearest: Option<impl fmt::Display>) -> String {
    nearest.map_or(String::new(), |known| format!(", the nearest known one is {known}"))
}

/// How many insertions, deletions and replacements lead from one text to the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (n, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, to_char) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_char != *to_char);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("pool_mode", "pool_mode"), 0);
        assert_eq!(edit_distance("pool_mod", "pool_mode"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_ignores_case() {
        let known = ["pool_mode", "pool_size", "port"];
        assert_eq!(nearest("Pool_Sise", known), Some("pool_size"));
        assert_eq!(nearest("anything", []), None);
    }

    #[test]
    fn nothing_is_like_a_wild_word() {
        let known = ["pool_mode", "pool_size", "port"];
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest("prot", known), None, "two of four letters are wrong");
        assert_eq!(nearest("prt", known), Some("port"));
        assert_eq!(nearest("", known), None);
        assert_eq!(suggestion(nearest("wild", known)), "");
        assert_eq!(suggestion(nearest("prt", known)), ", the nearest known one is port");
    }

    #[test]
    fn problems_name_file_and_line() {
        let place = Place::file("a.ini");
        let errors = vec![place.line(3).problem("bad"), place.problem("empty")];
        let problems = Problems { errors, warnings: Vec::new() };
        assert_eq!(problems.to_string(), "a.ini:3: bad\na.ini: empty");
    }
}
