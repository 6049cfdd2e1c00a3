//! From settings and files to what connections are made with. All or nothing.

use std::fmt;
use std::sync::Arc;

#[cfg(test)]
use pgweir_config::Settings;
use pgweir_config::{Config, SslMode, SslNegotiation};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::ring as provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};

use super::conn::{Tls, TlsError};
#[cfg(feature = "ldap")]
use super::directory::DirectoryTls;
use super::end_point::end_point;
use super::expiry::{self, Listed};
use super::files::Stamps;
use super::keys::Overheard;
use super::settled::Accepted;
use super::side::{Essence, Side};
use super::verify::{ClientVerifier, Demand, Recheck, ServerVerifier};

/// What we and PostgreSQL 17 call the protocol inside TLS.
pub(super) const ALPN: &[u8] = b"postgresql";

/// Servers whose sessions are kept, with up to eight of TLS 1.3 each.
const RESUMABLE_SERVERS: usize = 256;

const OLD_VERSIONS: &str = "TLS 1.2 and 1.3 are all that is supported";

/// Why the settings cannot be put in force, in a line.
#[derive(Debug)]
pub(crate) struct SetupError(pub(super) String);

impl SetupError {
    pub(super) fn new(why: &str) -> SetupError {
        SetupError(why.to_owned())
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS setup failed: {}", self.0)
    }
}

/// What the TLS settings come to.
#[derive(Debug)]
pub(crate) struct TlsSetup {
    /// `None`: clients get no TLS.
    pub(crate) acceptor: Option<Arc<Acceptor>>,
    pub(crate) dialer: Arc<Dialer>,
    /// What is in the files that it was made of.
    pub(crate) certificates: Vec<Listed>,
    /// Of these files.
    pub(crate) stamps: Stamps,
    /// `None`: no directory is asked over TLS.
    #[cfg(feature = "ldap")]
    pub(crate) directory: Option<DirectoryTls>,
}

/// TLS for clients.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// A client must use it.
    pub(crate) is_required: bool,
    config: Arc<ServerConfig>,
    /// `None`: clients are not asked for certificates.
    verifier: Option<Arc<ClientVerifier>>,
    essence: Essence,
    /// What logins are bound to, if the certificate has a hash for that.
    end_point: Option<Arc<[u8]>>,
}

/// TLS towards servers.
#[derive(Debug)]
pub(crate) struct Dialer {
    sslmode: SslMode,
    /// TLS from the first byte on, without asking.
    pub(crate) is_direct: bool,
    /// `None`: it is not asked for.
    config: Option<(Arc<ClientConfig>, Arc<ServerVerifier>)>,
    /// Connections made with another are to be made anew.
    essence: Essence,
}

impl TlsSetup {
    /// Reads the files, too. Of the setup `before`, a side is kept as it is that would come to the
    /// same, so that sessions can still be resumed. What is worth a warning goes to `warn`.
    pub(crate) fn new(
        config: &Config,
        before: Option<&TlsSetup>,
        mut warn: impl FnMut(String),
    ) -> Result<TlsSetup, SetupError> {
        let (clients, servers) = (Side::clients(&config.settings), Side::servers(&config.settings));
        let acceptor = match before.and_then(|before| before.acceptor.as_ref()) {
            _ if clients.sslmode == SslMode::Disable => None,
            Some(same) if same.essence == clients.essence() => Some(Arc::clone(same)),
            _ => Some(Arc::new(acceptor(&clients, &mut warn)?)),
        };
        let dialer = match before.map(|before| &before.dialer) {
            Some(same) if same.essence == servers.essence() => Arc::clone(same),
            _ => Arc::new(dialer(&servers, &mut warn)?),
        };
        let mut certificates = clients.listed();
        certificates.extend(servers.listed());
        let stamps = Stamps::of(clients.files().chain(servers.files()));
        Ok(TlsSetup {
            acceptor,
            dialer,
            certificates,
            stamps,
            #[cfg(feature = "ldap")]
            directory: config.needs_ldap_tls().then(|| DirectoryTls::new(&mut warn)).transpose()?,
        })
    }

    /// What an operator should know of the certificates: lines that stay the same as long as
    /// nothing changes.
    pub(crate) fn expiry_warnings(&self) -> Vec<String> {
        expiry::warnings(&self.certificates, UnixTime::now().as_secs())
    }

    /// Whether clients get the same as from the other.
    pub(crate) fn accepts_like(&self, other: &TlsSetup) -> bool {
        let essence = |setup: &TlsSetup| setup.acceptor.as_ref().map(|acceptor| acceptor.essence);
        essence(self) == essence(other)
    }
}

#[cfg(test)]
impl TlsSetup {
    /// No TLS on either side.
    pub(crate) fn none() -> Arc<TlsSetup> {
        let settings = Settings { server_tls_sslmode: SslMode::Disable, ..Settings::default() };
        let config = Config { settings, ..Config::default() };
        Arc::new(TlsSetup::new(&config, None, |_| ()).expect("no files to be read"))
    }
}

fn acceptor(side: &Side<'_>, warn: &mut impl FnMut(String)) -> Result<Acceptor, SetupError> {
    let versions = side.versions(warn)?;
    if versions.is_empty() {
        return Err(side.error("protocols", OLD_VERSIONS));
    }
    let Some(key) = side.certified_key()? else {
        return Err(SetupError(
            "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set."
                .to_owned(),
        ));
    };
    let end_point = key.end_entity_cert().ok().and_then(|der| end_point(der)).map(Arc::from);
    let authorities = side.authorities()?;
    if authorities.is_none() && side.demands_certificate() {
        return Err(SetupError("client_tls_sslmode requires client_tls_ca_file".to_owned()));
    }
    let provider = Arc::new(side.provider()?);
    let algorithms = provider.signature_verification_algorithms;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let builder = builder.map_err(|e| side.error("protocols", e))?;
    let is_mandatory = side.demands_certificate();
    let verifier = authorities.map(|authorities| Arc::new(ClientVerifier { authorities, algorithms, is_mandatory }));
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::<ClientVerifier>::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    // A ticket holds all that is needed to go on, a client's certificate included, under a key
    // that goes with this setup and is replaced every six hours.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = provider::Ticketer::new().map_err(|e| SetupError(e.to_string()))?;
    config.send_tls13_tickets = 1;
    // After the handshake a client's keys are ours.
    config.enable_secret_extraction = true;
    let (is_required, essence) = (side.is_required(), side.essence());
    Ok(Acceptor { is_required, config: Arc::new(config), verifier, essence, end_point })
}

fn dialer(side: &Side<'_>, warn: &mut impl FnMut(String)) -> Result<Dialer, SetupError> {
    let sslmode = side.sslmode;
    let (is_direct, essence) = (side.sslnegotiation == SslNegotiation::Direct, side.essence());
    if is_direct && !side.is_required() {
        return Err(side.error(
            "sslnegotiation",
            format!(
                "direct leaves no way back to plain TCP: server_tls_sslmode must be require or stricter, not {sslmode}"
            ),
        ));
    }
    if sslmode == SslMode::Disable {
        return Ok(Dialer { sslmode, is_direct, config: None, essence });
    }
    let versions = side.versions(warn)?;
    if versions.is_empty() {
        if side.is_required() {
            return Err(side.error("protocols", OLD_VERSIONS));
        }
        warn(format!("server_tls_protocols: {OLD_VERSIONS}: servers are not asked for TLS"));
        return Ok(Dialer { sslmode, is_direct, config: None, essence });
    }
    let authorities = side.authorities()?;
    let demand = match (sslmode, authorities) {
        (SslMode::VerifyCa, Some(authorities)) => Demand::Authority(authorities),
        (SslMode::VerifyFull, Some(authorities)) => Demand::Host(authorities),
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
            return Err(SetupError(
                "server_tls_sslmode requires server_tls_ca_file; it may be the system's list of authorities".to_owned(),
            ));
        }
        _ => Demand::Any,
    };
    let provider = Arc::new(side.provider()?);
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerVerifier { demand, algorithms });
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let builder = builder.map_err(|e| side.error("protocols", e))?.dangerous().with_custom_certificate_verifier(Arc::<
        ServerVerifier,
    >::clone(
        &verifier,
    ));
    let mut config = match side.certified_key()? {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL itself resumes none; poolers and proxies in front of it do.
    config.resumption = Resumption::in_memory_sessions(RESUMABLE_SERVERS);
    Ok(Dialer { sslmode, is_direct, config: Some((Arc::new(config), verifier)), essence })
}

impl Acceptor {
    /// A connection of which `early` was read already.
    pub(crate) fn begin(&self, early: &[u8]) -> Result<Tls, TlsError> {
        let overheard = Arc::new(Overheard::default());
        let mut config = ServerConfig::clone(&self.config);
        config.key_log = Arc::<Overheard>::clone(&overheard);
        let connection = UnbufferedServerConnection::new(Arc::new(config))?;
        let accepted = Accepted { connection, end_point: self.end_point.clone(), overheard };
        Ok(Tls::server(accepted, early, self.verifier.clone().map(Recheck::Client)))
    }
}

impl Dialer {
    /// A server without TLS is no server for us.
    pub(crate) fn is_required(&self) -> bool {
        matches!(self.sslmode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull)
    }

    /// Servers are asked for TLS.
    pub(crate) fn is_used(&self) -> bool {
        self.config.is_some()
    }

    /// Connections made by the one could have been made by the other.
    pub(crate) fn is_like(&self, other: &Dialer) -> bool {
        self.essence == other.essence
    }

    /// A connection to `host`. `None`: TLS is not used.
    pub(crate) fn begin(&self, host: &str) -> Option<Result<Tls, TlsError>> {
        let (config, verifier) = self.config.as_ref()?;
        let name = ServerName::try_from(host.to_owned()).or_else(|e| match self.sslmode {
            SslMode::VerifyFull => Err(TlsError::Protocol(rustls::Error::General(format!("{host}: {e}")))),
            // Nobody asks for the name, and none is sent for an address.
            _ => Ok(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
        });
        Some(name.and_then(|name| {
            let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
            Ok(Tls::client(connection, Some(Recheck::Server(Arc::clone(verifier), name))))
        }))
    }
}
