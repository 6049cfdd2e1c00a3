//! TLS on both sides, by rustls.

mod authorities;
mod ciphers;
mod conn;
#[cfg(feature = "ldap")]
mod directory;
mod dn;
mod end_point;
mod expiry;
mod files;
mod keys;
mod records;
mod settled;
mod setup;
mod side;
mod straight;
mod verify;
mod x509;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use conn::{Phase, RECORD_LEN_MAX};
pub(crate) use conn::{Tls, TlsError};
#[cfg(feature = "ldap")]
pub(crate) use directory::DirectoryTls;
pub(crate) use end_point::end_point;
pub(crate) use expiry::Listed;
pub(crate) use files::Stamps;
pub(crate) use keys::TlsSecret;
pub(crate) use records::TlsKeys;
pub(crate) use settled::TlsState;
pub(crate) use setup::{Acceptor, Dialer, SetupError, TlsSetup};
pub(crate) use straight::{RootCertificates, client_config, server_name};

/// A connection's TLS, for its stream, which reads, and for the lane that sends to it. Both are
/// always on the same thread; the lock is for the servers that wander between threads.
#[derive(Debug, Clone)]
pub(crate) struct SharedTls(Arc<Mutex<Tls>>);

impl SharedTls {
    pub(super) fn new(tls: Tls) -> SharedTls {
        SharedTls(Arc::new(Mutex::new(tls)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tls {
    /// Whether the peer has shown the certificate of this user.
    pub(crate) fn is_peer(&self, user: &str) -> bool {
        let certificate = self.peer_certificate().and_then(|der| x509::Certificate::parse(der));
        certificate.is_some_and(|certificate| certificate.is_of_user(user))
    }
}

/// No certificate is too odd to be looked at, and its parts lie within it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_certificate(data: &[u8]) {
    let Some(certificate) = x509::Certificate::parse(data) else { return };
    assert!(certificate.tbs.len() + certificate.signature.len() < data.len());
    let name = certificate.common_name();
    certificate.is_of_host(name.unwrap_or("localhost"), true);
    certificate.path_len();
    certificate.has_name_constraints();
    assert!(end_point::end_point(data).is_none_or(|hash| matches!(hash.len(), 32 | 48 | 64)));
    certificate.is_authority();
    let texts = [certificate.subject_text(), certificate.issuer_text()];
    assert!(texts.iter().all(|text| !text.contains(char::is_control)));
    assert!(name.is_none_or(|name| certificate.is_of_user(name)));
}

/// See [`records::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_records(data: &[u8]) {
    records::fuzz(data);
}
