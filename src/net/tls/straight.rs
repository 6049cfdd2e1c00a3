//! TLS of the maintenance commands' own connections to PostgreSQL: what a connection string says, as libpq means it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgweir_config::SslMode;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::authorities;
use super::setup::{ALPN, SetupError};
use super::verify::{Demand, ServerVerifier};

/// Where the certificates are by which a server is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootCertificates {
    /// There is no file: nothing can be verified.
    None,
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

/// What a handshake needs; `own` is the certificate and the key to show, if any. A mode below verify-ca verifies, too, where `require` finds a file of roots, as in libpq.
pub(crate) fn client_config(
    sslmode: SslMode,
    roots: &RootCertificates,
    own: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = Arc::new(provider::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerVerifier { demand: demand(sslmode, roots)?, algorithms });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| SetupError::new(&e.to_string()))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let at = |path: &Path, e: &dyn std::fmt::Display| SetupError::new(&format!("{}: {e}", path.display()));
            let chain: Vec<_> = read(certificate)
                .and_then(|pem| {
                    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(io::Error::other)
                })
                .map_err(|e| at(certificate, &e))?;
            let pem = read(key).map_err(|e| at(key, &e))?;
            let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| match e {
                pem::Error::NoItemsFound => at(key, &"no usable private key in it; one with a passphrase is not"),
                e => at(key, &e),
            })?;
            let private = provider::sign::any_supported_type(&private).map_err(|e| at(key, &e))?;
            // Not `with_client_auth_cert`, which refuses certificates of version 1.
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, private))))
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn demand(sslmode: SslMode, roots: &RootCertificates) -> Result<Demand, SetupError> {
    let found = match roots {
        RootCertificates::None => None,
        RootCertificates::System => Some(authorities::of_files(authorities::system_file().as_slice())),
        RootCertificates::File(file) => Some(authorities::of_files(std::slice::from_ref(file))),
    };
    let found = found.transpose().map_err(|why| SetupError::new(&why))?;
    match (sslmode, found) {
        (SslMode::VerifyFull, Some(found)) => Ok(Demand::Host(found)),
        (SslMode::VerifyCa | SslMode::Require, Some(found)) => Ok(Demand::Authority(found)),
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => Err(SetupError::new(
            "sslmode=verify-ca and verify-full need a file of root certificates: name it by sslrootcert, or say sslrootcert=system",
        )),
        _ => Ok(Demand::Any),
    }
}

/// The name that a server is asked for, and verified by with verify-full.
pub(crate) fn server_name(sslmode: SslMode, host: &str) -> Result<ServerName<'static>, SetupError> {
    ServerName::try_from(host.to_owned()).or_else(|e| match sslmode {
        SslMode::VerifyFull => Err(SetupError::new(&format!("{host}: {e}"))),
        // Nobody asks for the name, and none is sent for an address.
        _ => Ok(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
    })
}
