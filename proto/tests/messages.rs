//! Every message of PgBouncer's that a client can get from us has its words, and the codes of the table's two columns.

use std::collections::BTreeMap;

use pgweir_proto::admin_error::AdminError;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::error_response::ErrorFields;
use pgweir_proto::frame::HEADER_LEN;
use pgweir_proto::sqlstate::{SqlState, SqlStates};

const TABLE: &str = include_str!("data/messages.tsv");

/// Where PgBouncer passes on what the server says, the table has no code.
const OF_SERVER: &str = "the server's own, else ";

/// PgBouncer's code and ours, by who gets which text.
fn table() -> BTreeMap<(&'static str, &'static str), [&'static str; 2]> {
    let mut table = BTreeMap::new();
    for line in TABLE.lines().skip(1) {
        let [texts, pgbouncer, ours, who, _when] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let ours = ours.strip_prefix(OF_SERVER).unwrap_or(ours);
        for text in texts.split(" / ").filter(|_| who != "log") {
            table.insert((who, text), [pgbouncer, ours.split(',').next().unwrap()]);
        }
    }
    table
}

fn client_errors() -> Vec<ClientError> {
    use ClientError as E;
    let name = || "NAME".to_owned();
    vec![
        E::NoSuchDatabase(name()),
        E::DatabaseDisabled(name()),
        E::NoSuchUser,
        E::PasswordFailed,
        E::SaslFailed,
        E::TrustFailed,
        E::CertificateFailed,
        E::UnixSocketRejected,
        E::LoginRejected,
        E::NoAuthenticationMethod,
        E::SslRequired,
        E::UnencryptedDataAfterSslRequest,
        E::UnencryptedDataAfterGssRequest,
        E::NoMoreConnections,
        E::TooManyDatabaseClients,
        E::TooManyUserClients,
        E::UnsupportedParameter(name()),
        E::UnsupportedParameterInOptions(name()),
        E::UnsupportedOptions,
        E::BadStartupLayout,
        E::NoUser,
        E::OldProtocol,
        E::LoginTimeout,
        E::LoginTimeoutServerDown,
        E::QueryWaitTimeout,
        E::QueryTimeoutWaiting,
        E::QueryTimeout,
        E::IdleTransactionTimeout,
        E::TransactionTimeout,
        E::ClientIdleTimeout,
        E::ServerLoginFailing { cached_error: "TEXT".to_owned(), sqlstate: None },
        E::ServerCrashed,
        E::AdminDisconnect,
        E::ShuttingDown,
        E::ServerShuttingDown,
        E::DatabaseRemoved,
        E::DatabaseChanged,
        E::TransactionBlockNotAllowed,
        E::PqexecDisallowed,
        E::PreparedStatementMissing,
        E::PreparedStatementExists,
        E::BadPacketHeader("HEX".to_owned()),
        E::ConsoleNotAllowed,
    ]
}

fn admin_errors() -> Vec<AdminError> {
    use AdminError as E;
    vec![
        E::InvalidCommand("TEXT".to_owned()),
        E::AccessNeeded,
        E::NoSuchDatabase("NAME".to_owned()),
        E::SetFailed,
        E::ClientNotFound,
        E::InvalidClientPointer,
        E::ReloadFailed,
    ]
}

/// Message and code of what an error becomes.
fn sent(encode: impl FnOnce(&mut Vec<u8>)) -> (String, String) {
    let mut out = Vec::new();
    encode(&mut out);
    let fields = ErrorFields::parse(&out[HEADER_LEN..]);
    (fields.message.into_owned(), fields.sqlstate.unwrap().to_string())
}

#[test]
fn words_and_codes_are_those_of_the_table() {
    for (which, column) in [(SqlStates::Pgbouncer, 0), (SqlStates::Precise, 1)] {
        let mut left = table();
        let mut check = |who: &'static str, (message, code): (String, String)| {
            let row = left.iter().find(|((of, text), _)| *of == who && *text == message);
            let (key, codes) = row.map(|(key, codes)| (*key, *codes)).unwrap_or_else(|| panic!("{who}: {message}"));
            assert_eq!(code, codes[column], "{message}");
            left.remove(&key);
        };
        client_errors().iter().for_each(|error| check("client", sent(|out| error.encode(which, out))));
        admin_errors().iter().for_each(|error| check("admin", sent(|out| error.encode(which, out))));
        assert_eq!(left.keys().collect::<Vec<_>>(), [&("", ""); 0], "nobody says this");
    }
}

#[test]
fn what_a_server_says_keeps_its_code() {
    let said = ClientError::Server { message: "gone".to_owned(), sqlstate: Some(SqlState::ADMIN_SHUTDOWN) };
    for which in [SqlStates::Pgbouncer, SqlStates::Precise] {
        assert_eq!(sent(|out| said.encode(which, out)), ("gone".to_owned(), "57P01".to_owned()));
    }
}
