//! Reading the arguments, as `getopt_long` does: flags may stand in a row and behind the file, long ones may be cut short.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::commands;
use super::help::Topic;

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve(ServeArgs),
    Config(ConfigCommand),
    /// Its name and arguments, which are read elsewhere.
    Maintenance(Vec<OsString>),
    Version,
    Help(Topic),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServeArgs {
    /// None: the environment holds the configuration.
    pub(super) file: Option<PathBuf>,
    pub(super) daemon: bool,
    pub(super) quiet: bool,
    pub(super) reboot: bool,
    /// How often it was asked for.
    pub(super) verbose: u32,
    /// Goes before the setting `user`.
    pub(super) user: Option<String>,
}

/// `pgweir config ...`. A file of None: the environment holds the configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConfigCommand {
    Check(Option<PathBuf>),
    Show(Option<PathBuf>),
    Sample,
    Reference,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArgsError {
    /// In the words of the parser.
    Option(String),
    /// The beginning of several long options.
    Ambiguous(String),
    /// An option of `serve` for another command.
    NotForConfig,
    NoConfigCommand,
    UnknownConfigCommand(OsString),
    Superfluous(OsString),
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgsError::Option(message) => f.write_str(message),
            ArgsError::Ambiguous(name) => write!(f, "option '--{name}' is ambiguous"),
            ArgsError::NotForConfig => f.write_str("\"config\" takes no options but --help"),
            ArgsError::NoConfigCommand => f.write_str("\"config\" needs one of check, show, sample and reference"),
            ArgsError::UnknownConfigCommand(word) => write!(
                f,
                "\"config {}\" is not known, only check, show, sample and reference (a file named config is ./config)",
                word.display()
            ),
            ArgsError::Superfluous(word) => write!(f, "unexpected argument '{}'", word.display()),
        }
    }
}

impl From<lexopt::Error> for ArgsError {
    fn from(error: lexopt::Error) -> ArgsError {
        ArgsError::Option(error.to_string())
    }
}

/// The long options and their letters.
const LONG: &[(&str, char)] = &[
    ("daemon", 'd'),
    ("help", 'h'),
    ("quiet", 'q'),
    ("reboot", 'R'),
    ("user", 'u'),
    ("verbose", 'v'),
    ("version", 'V'),
];

/// Reads the arguments behind the name that the program was started under.
pub(super) fn parse(program: &OsStr, arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ArgsError> {
    // PgBouncer has no commands, so there every word is a file.
    let has_commands = Path::new(program).file_name() != Some(OsStr::new("pgbouncer"));
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = arguments.first().and_then(|word| word.to_str());
    if has_commands && first.is_some_and(commands::is_command) {
        return Ok(Command::Maintenance(arguments));
    }
    let mut parser = Parser::from_args(arguments);
    parser.set_short_equals(false);
    let mut serve = ServeArgs::default();
    let mut words = Vec::new();
    while let Some(argument) = parser.next()? {
        let letter = match argument {
            Arg::Value(word) => {
                words.push(word);
                continue;
            }
            Arg::Short(letter) => letter,
            Arg::Long(name) => match letter_of(name)? {
                Some(letter) => letter,
                None => return Err(argument.unexpected().into()),
            },
        };
        match letter {
            'd' => serve.daemon = true,
            'q' => serve.quiet = true,
            'R' => serve.reboot = true,
            'u' => serve.user = Some(parser.value()?.into_string().map_err(lexopt::Error::from)?),
            'v' => serve.verbose += 1,
            'V' => return Ok(Command::Version),
            'h' => return Ok(Command::Help(topic(has_commands, &words))),
            _ => return Err(Arg::Short(letter).unexpected().into()),
        }
    }
    command(has_commands, words, serve)
}

/// The letter of a long option, which may be cut short as long as it is the only one that begins so.
fn letter_of(name: &str) -> Result<Option<char>, ArgsError> {
    let mut begun = LONG.iter().filter(|(long, _)| long.starts_with(name));
    match (begun.next(), begun.next()) {
        (Some((_, letter)), None) => Ok(Some(*letter)),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(ArgsError::Ambiguous(name.to_owned())),
    }
}

/// What `--help` behind these words is about.
fn topic(has_commands: bool, words: &[OsString]) -> Topic {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str()).unwrap_or_default();
    match (word(0), word(1)) {
        _ if !has_commands => Topic::Program,
        ("serve", _) => Topic::Serve,
        ("config", "check") => Topic::ConfigCheck,
        ("config", "show") => Topic::ConfigShow,
        ("config", "sample") => Topic::ConfigSample,
        ("config", "reference") => Topic::ConfigReference,
        ("config", _) => Topic::Config,
        _ => Topic::Program,
    }
}

fn command(has_commands: bool, words: Vec<OsString>, serve: ServeArgs) -> Result<Command, ArgsError> {
    let mut words = words.into_iter().peekable();
    if has_commands && words.next_if(|word| word == "config").is_some() {
        if serve != ServeArgs::default() {
            return Err(ArgsError::NotForConfig);
        }
        return config_command(words).map(Command::Config);
    }
    if has_commands {
        words.next_if(|word| word == "serve");
    }
    let file = words.next().map(PathBuf::from);
    nothing_more(words)?;
    Ok(Command::Serve(ServeArgs { file, ..serve }))
}

fn config_command(mut words: impl Iterator<Item = OsString>) -> Result<ConfigCommand, ArgsError> {
    let name = words.next().ok_or(ArgsError::NoConfigCommand)?;
    let command = match name.to_str() {
        Some("check") => ConfigCommand::Check(words.next().map(PathBuf::from)),
        Some("show") => ConfigCommand::Show(words.next().map(PathBuf::from)),
        Some("sample") => ConfigCommand::Sample,
        Some("reference") => ConfigCommand::Reference,
        _ => return Err(ArgsError::UnknownConfigCommand(name)),
    };
    nothing_more(words)?;
    Ok(command)
}

fn nothing_more(mut words: impl Iterator<Item = OsString>) -> Result<(), ArgsError> {
    words.next().map_or(Ok(()), |word| Err(ArgsError::Superfluous(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(program: &str, line: &str) -> Result<Command, ArgsError> {
        parse(OsStr::new(program), line.split_whitespace().map(OsString::from))
    }

    fn serve(line: &str) -> ServeArgs {
        match parsed("/usr/bin/pgweir", line) {
            Ok(Command::Serve(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn file(name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(name))
    }

    #[test]
    fn pgbouncers_options() {
        let plain = || ServeArgs { file: file("a.ini"), ..ServeArgs::default() };
        let user = || ServeArgs { user: Some("me".into()), ..plain() };
        let all = || ServeArgs { daemon: true, quiet: true, reboot: true, verbose: 3, ..user() };
        for (line, wanted) in [
            ("a.ini", plain()),
            ("-- a.ini", plain()),
            ("serve a.ini", plain()),
            ("-d a.ini", ServeArgs { daemon: true, ..plain() }),
            ("a.ini -d", ServeArgs { daemon: true, ..plain() }),
            ("-v a.ini -vv", ServeArgs { verbose: 3, ..plain() }),
            ("-qdv a.ini", ServeArgs { daemon: true, quiet: true, verbose: 1, ..plain() }),
            ("-u me a.ini", user()),
            ("-ume a.ini", user()),
            ("--user me a.ini", user()),
            ("--user=me a.ini", user()),
            ("--us=me a.ini", user()),
            ("-u=me a.ini", ServeArgs { user: Some("=me".into()), ..plain() }),
            ("-dqRvvvu me a.ini", all()),
            ("--daemon --quiet --reboot --verbose --verb -v --user me a.ini", all()),
            ("serve -dqRvvv a.ini --user=me", all()),
            ("-- -d", ServeArgs { file: file("-d"), ..ServeArgs::default() }),
            ("serve config", ServeArgs { file: file("config"), ..ServeArgs::default() }),
            ("serve", ServeArgs::default()),
            ("", ServeArgs::default()),
        ] {
            assert_eq!(serve(line), wanted, "{line}");
        }
    }

    #[test]
    fn commands() {
        for (line, wanted) in [
            ("-V", Command::Version),
            ("--version --nonsense", Command::Version),
            ("-h", Command::Help(Topic::Program)),
            ("-dh a.ini", Command::Help(Topic::Program)),
            ("serve --help", Command::Help(Topic::Serve)),
            ("config --help", Command::Help(Topic::Config)),
            ("config check -h", Command::Help(Topic::ConfigCheck)),
            ("config check a.ini", Command::Config(ConfigCommand::Check(file("a.ini")))),
            ("config check", Command::Config(ConfigCommand::Check(None))),
            ("config show a.ini", Command::Config(ConfigCommand::Show(file("a.ini")))),
            ("config sample", Command::Config(ConfigCommand::Sample)),
            ("config reference", Command::Config(ConfigCommand::Reference)),
            ("report sizes -h", Command::Maintenance(["report", "sizes", "-h"].map(OsString::from).to_vec())),
        ] {
            assert_eq!(parsed("pgweir", line), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn as_pgbouncer_every_word_is_a_file() {
        for name in ["config", "serve", "report"] {
            let wanted = ServeArgs { file: file(name), quiet: true, ..ServeArgs::default() };
            let line = format!("-q {name}");
            assert_eq!(parsed("/usr/sbin/pgbouncer", &line), Ok(Command::Serve(wanted)));
        }
        assert_eq!(parsed("pgbouncer", "config -h"), Ok(Command::Help(Topic::Program)));
    }

    #[test]
    fn refuses() {
        for (line, message) in [
            ("-x a.ini", "invalid option '-x'"),
            ("--nonsense", "invalid option '--nonsense'"),
            ("--ver a.ini", "option '--ver' is ambiguous"),
            ("a.ini -u", "missing argument for option '-u'"),
            ("--quiet=yes a.ini", "unexpected argument for option '--quiet': \"yes\""),
            ("a.ini b.ini", "unexpected argument 'b.ini'"),
            ("serve a.ini b.ini", "unexpected argument 'b.ini'"),
            ("config", "\"config\" needs one of check, show, sample and reference"),
            ("config check a b", "unexpected argument 'b'"),
            ("config sample a", "unexpected argument 'a'"),
            ("config -d check a", "\"config\" takes no options but --help"),
        ] {
            let error = parsed("pgweir", line).expect_err(line);
            assert_eq!(error.to_string(), message, "{line}");
        }
        assert!(matches!(parsed("pgweir", "config chek a"), Err(ArgsError::UnknownConfigCommand(_))));
        assert!(matches!(parsed("pgbouncer", "config check"), Err(ArgsError::Superfluous(_))));
    }
}
