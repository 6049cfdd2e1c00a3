//! From settings and files to what connections are made with. All or nothing.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgweir_config::{Settings, SslMode};
use ring::digest::{Context, SHA256};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::ciphers;
use super::conn::{Tls, TlsError};
use super::verify::{Authorities, ClientVerifier, Demand, ServerVerifier};
use super::x509::Certificate;

/// What we and PostgreSQL 17 call the protocol inside TLS.
const ALPN: &[u8] = b"postgresql";

/// Why the settings cannot be put in force, in a line.
#[derive(Debug)]
pub(crate) struct SetupError(String);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS setup failed: {}", self.0)
    }
}

/// What the TLS settings come to.
#[derive(Debug)]
pub(crate) struct TlsSetup {
    /// `None`: clients get no TLS.
    pub(crate) acceptor: Option<Acceptor>,
    pub(crate) dialer: Dialer,
}

/// TLS for clients.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// A client must use it.
    pub(crate) is_required: bool,
    config: Arc<ServerConfig>,
}

/// TLS towards servers.
#[derive(Debug)]
pub(crate) struct Dialer {
    sslmode: SslMode,
    /// `None`: it is not asked for.
    config: Option<Arc<ClientConfig>>,
    /// Hash of all that it was made of: connections made with another are to be made anew.
    essence: [u8; 32],
}

/// The settings of one side, by the beginning of their names.
struct Asked<'a> {
    prefix: &'static str,
    sslmode: SslMode,
    protocols: &'a str,
    ciphers: &'a str,
    ciphers13: Option<&'a str>,
    curves: &'a str,
    key_file: Option<&'a Path>,
    cert_file: Option<&'a Path>,
    ca_file: Option<&'a Path>,
}

fn some(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

impl TlsSetup {
    /// Reads the files, too. What is worth a warning goes to `warn`.
    pub(crate) fn new(settings: &Settings, mut warn: impl FnMut(String)) -> Result<TlsSetup, SetupError> {
        let clients = Asked {
            prefix: "client_tls",
            sslmode: settings.client_tls_sslmode,
            protocols: &settings.client_tls_protocols,
            ciphers: &settings.client_tls_ciphers,
            ciphers13: settings.client_tls13_ciphers.as_deref(),
            curves: &settings.client_tls_ecdhcurve,
            key_file: some(&settings.client_tls_key_file),
            cert_file: some(&settings.client_tls_cert_file),
            ca_file: some(&settings.client_tls_ca_file),
        };
        let servers = Asked {
            prefix: "server_tls",
            sslmode: settings.server_tls_sslmode,
            protocols: &settings.server_tls_protocols,
            ciphers: &settings.server_tls_ciphers,
            ciphers13: settings.server_tls13_ciphers.as_deref(),
            curves: "auto",
            key_file: some(&settings.server_tls_key_file),
            cert_file: some(&settings.server_tls_cert_file),
            ca_file: some(&settings.server_tls_ca_file),
        };
        let acceptor = match clients.sslmode {
            SslMode::Disable => None,
            _ => Some(clients.acceptor(&mut warn)?),
        };
        Ok(TlsSetup { acceptor, dialer: servers.dialer(&mut warn)? })
    }
}

#[cfg(test)]
impl TlsSetup {
    /// No TLS on either side.
    pub(crate) fn none() -> Arc<TlsSetup> {
        let settings = Settings { server_tls_sslmode: SslMode::Disable, ..Settings::default() };
        Arc::new(TlsSetup::new(&settings, |_| ()).expect("no files to be read"))
    }
}

impl Asked<'_> {
    fn error(&self, setting: &str, why: impl fmt::Display) -> SetupError {
        SetupError(format!("{}_{setting}: {why}", self.prefix))
    }

    fn demands_certificate(&self) -> bool {
        matches!(self.sslmode, SslMode::VerifyCa | SslMode::VerifyFull)
    }

    fn is_required(&self) -> bool {
        self.sslmode == SslMode::Require || self.demands_certificate()
    }

    fn versions(&self, warn: &mut impl FnMut(String)) -> Result<Vec<&'static SupportedProtocolVersion>, SetupError> {
        let asked = ciphers::versions(self.protocols).map_err(|why| self.error("protocols", why))?;
        if asked.old && self.protocols != "all" {
            let Asked { prefix, protocols, .. } = self;
            warn(format!("{prefix}_protocols = {protocols}: TLS 1.0 and 1.1 are insecure and not supported"));
        }
        Ok(asked.supported())
    }

    fn provider(&self) -> Result<CryptoProvider, SetupError> {
        let cipher_suites = ciphers::suites(self.ciphers, self.ciphers13).map_err(|why| self.error("ciphers", why))?;
        let kx_groups = ciphers::groups(self.curves).map_err(|why| self.error("ecdhcurve", why))?;
        Ok(CryptoProvider { cipher_suites, kx_groups, ..provider::default_provider() })
    }

    fn acceptor(&self, warn: &mut impl FnMut(String)) -> Result<Acceptor, SetupError> {
        let versions = self.versions(warn)?;
        if versions.is_empty() {
            return Err(self.error("protocols", "TLS 1.2 and 1.3 are all that is supported"));
        }
        let Some(key) = self.key()? else {
            return Err(SetupError(
                "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set."
                    .to_owned(),
            ));
        };
        let authorities = self.authorities()?;
        if authorities.is_none() && self.demands_certificate() {
            return Err(SetupError("client_tls_sslmode requires client_tls_ca_file".to_owned()));
        }
        let provider = Arc::new(self.provider()?);
        let algorithms = provider.signature_verification_algorithms;
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder.map_err(|e| self.error("protocols", e))?;
        let is_mandatory = self.demands_certificate();
        let builder = match authorities {
            Some(authorities) => {
                builder.with_client_cert_verifier(Arc::new(ClientVerifier { authorities, algorithms, is_mandatory }))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        // A ticket holds all that is needed to go on, under a key that goes with this setup.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = provider::Ticketer::new().map_err(|e| SetupError(e.to_string()))?;
        config.send_tls13_tickets = 1;
        Ok(Acceptor { is_required: self.is_required(), config: Arc::new(config) })
    }

    fn dialer(&self, warn: &mut impl FnMut(String)) -> Result<Dialer, SetupError> {
        let Asked { sslmode, .. } = *self;
        let essence = self.essence();
        if sslmode == SslMode::Disable {
            return Ok(Dialer { sslmode, config: None, essence });
        }
        let versions = self.versions(warn)?;
        if versions.is_empty() {
            let why = "TLS 1.2 and 1.3 are all that is supported";
            if self.is_required() {
                return Err(self.error("protocols", why));
            }
            warn(format!("server_tls_protocols: {why}: servers are not asked for TLS"));
            return Ok(Dialer { sslmode, config: None, essence });
        }
        let authorities = self.authorities()?;
        let demand = match (sslmode, authorities) {
            (SslMode::VerifyCa, Some(authorities)) => Demand::Authority(authorities),
            (SslMode::VerifyFull, Some(authorities)) => Demand::Host(authorities),
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
                return Err(SetupError(
                    "server_tls_sslmode requires server_tls_ca_file; it may be the system's list of authorities"
                        .to_owned(),
                ));
            }
            _ => Demand::Any,
        };
        let provider = Arc::new(self.provider()?);
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder
            .map_err(|e| self.error("protocols", e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier { demand, algorithms }));
        let mut config = match self.key()? {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL resumes none.
        config.resumption = Resumption::disabled();
        Ok(Dialer { sslmode, config: Some(Arc::new(config)), essence })
    }

    /// The certificate with its key. `None`: none is set.
    fn key(&self) -> Result<Option<CertifiedKey>, SetupError> {
        let (key_file, cert_file) = match (self.key_file, self.cert_file) {
            (None, None) => return Ok(None),
            (Some(key_file), Some(cert_file)) => (key_file, cert_file),
            (Some(_), None) => return Err(self.error("cert_file", "not set, but the key is")),
            (None, Some(_)) => return Err(self.error("key_file", "not set, but the certificate is")),
        };
        let unreadable = |setting, path: &Path, e: pem::Error| {
            let why = match e {
                pem::Error::Io(e) => e.to_string(),
                pem::Error::NoItemsFound => "no usable private key in it; one with a passphrase is not".to_owned(),
                e => e.to_string(),
            };
            self.error(setting, format!("{}: {why}", path.display()))
        };
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| unreadable("key_file", key_file, e))?;
        let key = provider::sign::any_supported_type(&key)
            .map_err(|e| self.error("key_file", format!("{}: {e}", key_file.display())))?;
        let certificates = self.certificates("cert_file", cert_file)?;
        let ours = certificates.first().and_then(|der| Certificate::parse(der));
        let Some(ours) = ours else {
            return Err(self.error("cert_file", format!("{}: no certificate in it", cert_file.display())));
        };
        let public_key = key.public_key();
        if public_key.is_some_and(|public_key| public_key.as_ref() != ours.public_key) {
            let (key_file, cert_file) = (key_file.display(), cert_file.display());
            return Err(self.error("key_file", format!("{key_file} is not the key of the certificate in {cert_file}")));
        }
        Ok(Some(CertifiedKey::new(certificates, key)))
    }

    fn authorities(&self) -> Result<Option<Authorities>, SetupError> {
        let Some(path) = self.ca_file else { return Ok(None) };
        let certificates = self.certificates("ca_file", path)?;
        let authorities = if certificates.is_empty() { None } else { Authorities::new(certificates) };
        match authorities {
            Some(authorities) => Ok(Some(authorities)),
            None => Err(self.error("ca_file", format!("{}: no usable certificate in it", path.display()))),
        }
    }

    fn certificates(&self, setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        read.map_err(|e| {
            let why = match e {
                pem::Error::Io(e) => e.to_string(),
                e => e.to_string(),
            };
            self.error(setting, format!("{}: {why}", path.display()))
        })
    }

    fn essence(&self) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            hash.update(&bytes.len().to_be_bytes());
            hash.update(bytes);
        };
        add(self.sslmode.to_string().as_bytes());
        if self.sslmode != SslMode::Disable {
            add(self.protocols.as_bytes());
            add(self.ciphers.as_bytes());
            add(self.ciphers13.unwrap_or_default().as_bytes());
            for file in [self.key_file, self.cert_file, self.ca_file] {
                // What cannot be read is complained of elsewhere.
                add(&file.map(std::fs::read).unwrap_or(Err(io::ErrorKind::NotFound.into())).unwrap_or_default());
            }
        }
        let mut essence = [0; 32];
        essence.copy_from_slice(hash.finish().as_ref());
        essence
    }
}

impl Acceptor {
    /// A connection of which `early` was read already.
    pub(crate) fn begin(&self, early: &[u8]) -> Result<Tls, TlsError> {
        Ok(Tls::server(UnbufferedServerConnection::new(Arc::clone(&self.config))?, early))
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
        let config = Arc::clone(self.config.as_ref()?);
        let name = ServerName::try_from(host.to_owned()).or_else(|e| match self.sslmode {
            SslMode::VerifyFull => Err(TlsError::Protocol(rustls::Error::General(format!("{host}: {e}")))),
            // Nobody asks for the name, and none is sent for an address.
            _ => Ok(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
        });
        Some(name.and_then(|name| Ok(Tls::client(UnbufferedClientConnection::new(config, name)?))))
    }
}
