//! The settings of one side with the files that they name, and the parts that they come to.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use pgweir_config::{Settings, SslMode, SslNegotiation};
use ring::digest::{Context, SHA256};
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::ciphers;
use super::expiry::Listed;
use super::files::File;
use super::setup::SetupError;
use super::verify::Authorities;
use super::x509::Certificate;

/// Hash of all that a side is made of.
pub(super) type Essence = [u8; 32];

pub(super) struct Side<'a> {
    /// How the names of its settings begin.
    prefix: &'static str,
    pub(super) sslmode: SslMode,
    pub(super) sslnegotiation: SslNegotiation,
    protocols: &'a str,
    ciphers: &'a str,
    ciphers13: Option<&'a str>,
    curves: &'a str,
    /// `None`: not set, or there is no TLS.
    key: Option<File<'a>>,
    certificate: Option<File<'a>>,
    authorities: Option<File<'a>>,
}

fn file<'a>(sslmode: SslMode, setting: &'static str, path: &'a Option<PathBuf>) -> Option<File<'a>> {
    let path: Option<&Path> = path.as_deref().filter(|path| !path.as_os_str().is_empty());
    path.filter(|_| sslmode != SslMode::Disable).map(|path| File::read(setting, path))
}

impl<'a> Side<'a> {
    pub(super) fn clients(settings: &'a Settings) -> Side<'a> {
        let sslmode = settings.client_tls_sslmode;
        Side {
            prefix: "client_tls",
            sslmode,
            sslnegotiation: SslNegotiation::Postgres,
            protocols: &settings.client_tls_protocols,
            ciphers: &settings.client_tls_ciphers,
            ciphers13: settings.client_tls13_ciphers.as_deref(),
            curves: &settings.client_tls_ecdhcurve,
            key: file(sslmode, "key_file", &settings.client_tls_key_file),
            certificate: file(sslmode, "cert_file", &settings.client_tls_cert_file),
            authorities: file(sslmode, "ca_file", &settings.client_tls_ca_file),
        }
    }

    pub(super) fn servers(settings: &'a Settings) -> Side<'a> {
        let sslmode = settings.server_tls_sslmode;
        Side {
            prefix: "server_tls",
            sslmode,
            sslnegotiation: settings.server_tls_sslnegotiation,
            protocols: &settings.server_tls_protocols,
            ciphers: &settings.server_tls_ciphers,
            ciphers13: settings.server_tls13_ciphers.as_deref(),
            curves: "auto",
            key: file(sslmode, "key_file", &settings.server_tls_key_file),
            certificate: file(sslmode, "cert_file", &settings.server_tls_cert_file),
            authorities: file(sslmode, "ca_file", &settings.server_tls_ca_file),
        }
    }

    pub(super) fn error(&self, setting: &str, why: impl fmt::Display) -> SetupError {
        SetupError(format!("{}_{setting}: {why}", self.prefix))
    }

    pub(super) fn demands_certificate(&self) -> bool {
        matches!(self.sslmode, SslMode::VerifyCa | SslMode::VerifyFull)
    }

    pub(super) fn is_required(&self) -> bool {
        self.sslmode == SslMode::Require || self.demands_certificate()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &File<'a>> {
        [&self.key, &self.certificate, &self.authorities].into_iter().flatten()
    }

    /// What is in the files, for those who look after it; of a file that cannot be read, nothing.
    pub(super) fn listed(&self) -> Vec<Listed> {
        let files = [&self.certificate, &self.authorities].into_iter().flatten();
        files
            .flat_map(|file| {
                let certificates = self.certificates(file).unwrap_or_default();
                let setting = format!("{}_{}", self.prefix, file.setting);
                Listed::all(&setting, file.path, certificates.iter().map(|der| der.as_ref()))
            })
            .collect()
    }

    pub(super) fn versions(
        &self,
        warn: &mut impl FnMut(String),
    ) -> Result<Vec<&'static SupportedProtocolVersion>, SetupError> {
        let asked = ciphers::versions(self.protocols).map_err(|why| self.error("protocols", why))?;
        if asked.old && self.protocols != "all" {
            let Side { prefix, protocols, .. } = self;
            warn(format!("{prefix}_protocols = {protocols}: TLS 1.0 and 1.1 are insecure and not supported"));
        }
        Ok(asked.supported())
    }

    pub(super) fn provider(&self) -> Result<CryptoProvider, SetupError> {
        let of_12 = ciphers::tls12(self.ciphers).map_err(|why| self.error("ciphers", why))?;
        let of_13 =
            ciphers::tls13(self.ciphers13).map_err(|why| SetupError(format!("{}13_ciphers: {why}", self.prefix)))?;
        let kx_groups = ciphers::groups(self.curves).map_err(|why| self.error("ecdhcurve", why))?;
        let cipher_suites = of_13.into_iter().chain(of_12).collect();
        Ok(CryptoProvider { cipher_suites, kx_groups, ..provider::default_provider() })
    }

    /// The certificate with its key. `None`: none is set.
    pub(super) fn certified_key(&self) -> Result<Option<CertifiedKey>, SetupError> {
        let (key_file, cert_file) = match (&self.key, &self.certificate) {
            (None, None) => return Ok(None),
            (Some(key_file), Some(cert_file)) => (key_file, cert_file),
            (Some(_), None) => return Err(self.error("cert_file", "not set, but the key is")),
            (None, Some(_)) => return Err(self.error("key_file", "not set, but the certificate is")),
        };
        let key = PrivateKeyDer::from_pem_slice(self.content(key_file)?).map_err(|e| match e {
            pem::Error::NoItemsFound => {
                self.unusable(key_file, "no usable private key in it; one with a passphrase is not")
            }
            e => self.unusable(key_file, e),
        })?;
        let key = provider::sign::any_supported_type(&key).map_err(|e| self.unusable(key_file, e))?;
        let certificates = self.certificates(cert_file)?;
        let ours = certificates.first().and_then(|der| Certificate::parse(der));
        let ours = ours.ok_or_else(|| self.unusable(cert_file, "no certificate in it"))?;
        let public_key = key.public_key();
        if public_key.is_some_and(|public_key| public_key.as_ref() != ours.public_key) {
            let (key_file, cert_file) = (key_file.path.display(), cert_file.path.display());
            return Err(self.error("key_file", format!("{key_file} is not the key of the certificate in {cert_file}")));
        }
        Ok(Some(CertifiedKey::new(certificates, key)))
    }

    pub(super) fn authorities(&self) -> Result<Option<Authorities>, SetupError> {
        let Some(file) = &self.authorities else { return Ok(None) };
        let certificates = self.certificates(file)?;
        let authorities = if certificates.is_empty() { None } else { Authorities::new(certificates) };
        authorities.map(Some).ok_or_else(|| self.unusable(file, "no usable certificate in it"))
    }

    fn unusable(&self, file: &File<'_>, why: impl fmt::Display) -> SetupError {
        self.error(file.setting, format!("{}: {why}", file.path.display()))
    }

    fn content<'f>(&self, file: &'f File<'_>) -> Result<&'f [u8], SetupError> {
        file.content().map_err(|e: &io::Error| self.unusable(file, e))
    }

    fn certificates(&self, file: &File<'_>) -> Result<Vec<CertificateDer<'static>>, SetupError> {
        let read = CertificateDer::pem_slice_iter(self.content(file)?).collect::<Result<_, _>>();
        read.map_err(|e| self.unusable(file, e))
    }

    pub(super) fn essence(&self) -> Essence {
        let mut hash = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            hash.update(&bytes.len().to_be_bytes());
            hash.update(bytes);
        };
        add(self.sslmode.to_string().as_bytes());
        add(self.sslnegotiation.to_string().as_bytes());
        if self.sslmode != SslMode::Disable {
            for text in [self.protocols, self.ciphers, self.ciphers13.unwrap_or_default(), self.curves] {
                add(text.as_bytes());
            }
            for file in [&self.key, &self.certificate, &self.authorities] {
                // What cannot be read is complained of elsewhere.
                add(file.as_ref().and_then(|file| file.content().ok()).unwrap_or_default());
            }
        }
        let mut essence = [0; 32];
        essence.copy_from_slice(hash.finish().as_ref());
        essence
    }
}
