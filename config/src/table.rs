//! The shape of the tables of settings: what a row says, and the macro that turns rows into a struct and its table.

/// What a setting does in this version. The one place to change when it begins to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Does what its text says.
    Acts,
    /// Acts, save for these values, which are refused because this build cannot obey them.
    ActsExcept(&'static [&'static str]),
    /// Describes something of PgBouncer's that pgweir does not have; the text says what.
    NoEffect(&'static str),
}

/// Whether a running process takes a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// `RELOAD` and `SET` change it.
    Reload,
    /// Fixed from the start to the end of the process.
    Restart,
}

/// One setting of a section, whose values are collected in an `S`.
pub(crate) struct Row<S> {
    pub(crate) key: &'static str,
    /// As in a file; None where nothing is set by default and `SHOW CONFIG` prints null.
    pub(crate) default: Option<&'static str>,
    pub(crate) change: Change,
    pub(crate) status: Status,
    /// Not a setting of PgBouncer's.
    pub(crate) ours: bool,
    /// Never printed.
    pub(crate) secret: bool,
    /// What it is for, in a sentence or a few.
    pub(crate) doc: &'static str,
    pub(crate) accepts: fn() -> String,
    /// Sets the field from text; false if the text is not acceptable.
    pub(crate) parse: fn(&mut S, &str) -> bool,
    /// For `SHOW CONFIG`.
    pub(crate) show: fn(&S) -> Option<String>,
    /// For a file.
    pub(crate) write: fn(&S) -> Option<String>,
    /// The field of both is the same.
    pub(crate) same: fn(&S, &S) -> bool,
    /// Sets the field from that of another.
    pub(crate) copy: fn(&mut S, &S),
}

impl<S> Row<S> {
    /// The value as `SHOW CONFIG` prints it: unset is null, or empty where the default is.
    pub(crate) fn value(&self, section: &S) -> Option<String> {
        (self.show)(section).or(self.default.map(|_| String::new()))
    }

    /// Values that this build refuses.
    pub(crate) fn refused(&self) -> &'static [&'static str] {
        match self.status {
            Status::ActsExcept(values) => values,
            Status::Acts | Status::NoEffect(_) => &[],
        }
    }
}

/// Declares a struct with one field per setting, and the table of its rows. A row reads
/// `field: kind, default, change, status, "what it is for";` with `field("key")` where the key has another name, and `, ours`
/// behind the text of a setting that PgBouncer does not have. Fields that are no settings come first, in the braces.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$extra_meta:meta])* pub $extra:ident: $extra_type:ty,)* }
        $(#[$table_meta:meta])*
        $table:ident [
            $($field:ident $(($key:literal))?: $kind:ty, $default:expr, $change:ident, $status:expr, $doc:literal $(, $ours:ident)?;)*
        ]
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$extra_meta])* pub $extra: $extra_type,)*
            $(#[doc = $doc] pub $field: <$kind as $crate::kind::Kind>::Value,)*
        }

        $(#[$table_meta])*
        pub(crate) static $table: &[$crate::table::Row<$name>] = &[$(
            $crate::table::Row {
                key: [$($key,)? stringify!($field)][0],
                default: $default,
                change: $crate::table::Change::$change,
                status: $status,
                ours: { const OURS: &[&str] = &[$(stringify!($ours))?]; !OURS.is_empty() },
                secret: <$kind as $crate::kind::Kind>::SECRET,
                doc: $doc,
                accepts: <$kind as $crate::kind::Kind>::accepts,
                parse: |section, text| match <$kind as $crate::kind::Kind>::parse(text) {
                    Some(value) => { section.$field = value; true }
                    None => false,
                },
                show: |section| <$kind as $crate::kind::Kind>::show(&section.$field),
                write: |section| <$kind as $crate::kind::Kind>::write(&section.$field),
                same: |section, other| section.$field == other.$field,
                copy: |section, other| section.$field.clone_from(&other.$field),
            },
        )*];

        impl $name {
            /// Every setting at its default.
            fn with_defaults($($extra: $extra_type),*) -> $name {
                $name {
                    $($extra,)*
                    $($field: <$kind as $crate::kind::Kind>::parse(($default as Option<&str>).unwrap_or_default())
                        .expect(concat!("the default of ", stringify!($field), " is read by a test")),)*
                }
            }
        }
    };
}

pub(crate) use section;
