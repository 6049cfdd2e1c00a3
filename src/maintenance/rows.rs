//! Rows: one type per result, made from what the server says and printed in every format.

use serde::Serialize;
use tokio_postgres::Row;

/// Made from a row of a query by the names of its columns.
pub(crate) trait FromRow: Sized {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error>;
}

/// What a command prints a list of. A column's name ends in its unit (`_bytes`, `_pct`, `_s`, `_ms`), by which tables know how
/// to show it.
pub(crate) trait Columns: Serialize {
    const COLUMNS: &'static [&'static str];
}

/// A row type: its fields are the columns of the query, and of the output but for those that are hidden.
macro_rules! row {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$note:meta])* $field:ident: $type:ty,)* }
        $(hidden { $($(#[$hidden_note:meta])* $hidden:ident: $hidden_type:ty,)* })?
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, serde::Serialize)]
        pub(crate) struct $name {
            $($(#[$note])* pub(crate) $field: $type,)*
            $($($(#[$hidden_note])* #[serde(skip)] pub(crate) $hidden: $hidden_type,)*)?
        }

        impl $crate::maintenance::rows::Columns for $name {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),*];
        }

        impl $crate::maintenance::rows::FromRow for $name {
            fn from_row(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
                Ok($name {
                    $($field: row.try_get(stringify!($field))?,)*
                    $($($hidden: row.try_get(stringify!($hidden))?,)*)?
                })
            }
        }
    };
}

pub(crate) use row;
