//! Whether a peer's certificate is to be believed.
//!
//! Chains are webpki's. Two kinds that it refuses and OpenSSL takes are common with PostgreSQL,
//! whose documentation makes them: a certificate of version 1, and one that signs itself and
//! stands in the CA file.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity, VerifiedPath, anchor_from_trusted_cert};

use super::x509::{CLIENT_AUTH, Certificate, SERVER_AUTH};

/// The certificates of a CA file.
#[derive(Debug)]
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Of each anchor, what webpki does not look at: it trusts anchors for ever and without limits.
    terms: Vec<Terms>,
    /// What clients are told that we know.
    names: Vec<DistinguishedName>,
}

#[derive(Debug)]
struct Terms {
    /// Seconds since 1970, both included.
    valid: (u64, u64),
    /// How many others may stand between it and the peer; `None`: any number.
    path_len: Option<u64>,
}

/// Whose certificate it is to be.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Server,
    Client,
}

impl Peer {
    fn usage(self) -> KeyUsage {
        match self {
            Peer::Server => KeyUsage::server_auth(),
            Peer::Client => KeyUsage::client_auth(),
        }
    }

    /// The same, as it stands in a certificate.
    fn purpose(self) -> &'static [u8] {
        match self {
            Peer::Server => SERVER_AUTH,
            Peer::Client => CLIENT_AUTH,
        }
    }
}

/// Which of a certificate's names count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    All,
    /// An authority is limited to some names, and webpki has not looked at the common one.
    Alternative,
}

impl Authorities {
    /// `None`: one of them is no certificate.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Option<Authorities> {
        let (mut anchors, mut terms, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for der in &certificates {
            let certificate = Certificate::parse(der)?;
            names.push(DistinguishedName::in_sequence(certificate.subject));
            // Any other stands for itself alone.
            if certificate.is_authority() {
                anchors.push(anchor_from_trusted_cert(der).ok()?.to_owned());
                terms.push(Terms { valid: certificate.valid, path_len: certificate.path_len() });
            }
        }
        Some(Authorities { certificates, anchors, terms, names })
    }

    /// Of certificates that others have gathered: those that are any. `None`: there are none.
    pub(super) fn of_usable(mut certificates: Vec<CertificateDer<'static>>) -> Option<Authorities> {
        certificates.retain(|der| Authorities::new(vec![der.clone()]).is_some());
        Authorities::new(certificates).filter(|usable| !usable.certificates.is_empty())
    }

    fn check(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        (leaf, between): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        now: UnixTime,
        peer: Peer,
    ) -> Result<Names, Error> {
        if self.certificates.contains(leaf) {
            let leaf = parse(leaf)?;
            if !leaf.is_for(peer.purpose()) {
                return Err(CertificateError::InvalidPurpose.into());
            }
            check_time(leaf.valid, now)?;
            return Ok(Names::All);
        }
        match EndEntityCert::try_from(leaf) {
            Ok(leaf) => {
                let is_honoured = |path: &VerifiedPath<'_>| self.check_terms(path, now);
                let usage = peer.usage();
                let chain =
                    leaf.verify_for_usage(algorithms.all, &self.anchors, between, now, usage, None, Some(&is_honoured));
                chain.map(|path| names(&path)).map_err(explained)
            }
            Err(webpki::Error::UnsupportedCertVersion) => {
                self.check_v1(algorithms, &parse(leaf)?, now).map(|()| Names::All)
            }
            Err(e) => Err(explained(e)),
        }
    }

    /// Whether the anchor of a chain may vouch for it.
    fn check_terms(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let mut error = webpki::Error::UnknownIssuer;
        let of_anchor = self.anchors.iter().zip(&self.terms).filter(|(anchor, _)| *anchor == path.anchor());
        for (_, Terms { valid, path_len }) in of_anchor {
            let time = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
            error = match check_time(*valid, now) {
                _ if path_len.is_some_and(|max| max < path.intermediate_certificates().count() as u64) => {
                    webpki::Error::PathLenConstraintViolated
                }
                Ok(()) => return Ok(()),
                Err(CertificateError::NotValidYet) => {
                    webpki::Error::CertNotValidYet { time: now, not_before: time(valid.0) }
                }
                Err(_) => webpki::Error::CertExpired { time: now, not_after: time(valid.1) },
            };
        }
        Err(error)
    }

    /// A certificate without extensions can be of anybody but an authority; its issuer must be in
    /// the file itself, and not be limited to some names, as nobody would look at those that it has.
    fn check_v1(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        leaf: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !leaf.is_v1 {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        check_time(leaf.valid, now)?;
        let issuers = self.anchors.iter().zip(&self.terms).filter(|(anchor, _)| anchor.subject.as_ref() == leaf.issuer);
        let mut error = CertificateError::UnknownIssuer;
        for (issuer, terms) in issuers.filter(|(anchor, _)| anchor.name_constraints.is_none()) {
            let key = in_sequence(&issuer.subject_public_key_info);
            let mut fitting = algorithms.all.iter().filter(|a| a.signature_alg_id().as_ref() == leaf.algorithm);
            error = match check_time(terms.valid, now) {
                _ if !fitting.any(|algorithm| signed(&key, *algorithm, leaf.tbs, leaf.signature)) => {
                    CertificateError::BadSignature
                }
                Ok(()) => return Ok(()),
                Err(expired) => expired,
            };
        }
        Err(error.into())
    }
}

fn names(path: &VerifiedPath<'_>) -> Names {
    let is_limited = |der: CertificateDer<'_>| Certificate::parse(&der).is_none_or(|c| c.has_name_constraints());
    let is_any_limited = path.anchor().name_constraints.is_some()
        || path.intermediate_certificates().any(|certificate| is_limited(certificate.der()));
    if is_any_limited { Names::Alternative } else { Names::All }
}

fn in_sequence(content: &[u8]) -> SubjectPublicKeyInfoDer<'static> {
    // The same outer form as a name's.
    SubjectPublicKeyInfoDer::from(DistinguishedName::in_sequence(content).as_ref().to_vec())
}

fn signed(
    key: &SubjectPublicKeyInfoDer<'_>,
    algorithm: &dyn rustls::pki_types::SignatureVerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    RawPublicKeyEntity::try_from(key).is_ok_and(|key| key.verify_signature(algorithm, message, signature).is_ok())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    Certificate::parse(der).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn check_time((from, to): (u64, u64), now: UnixTime) -> Result<(), CertificateError> {
    match now.as_secs() {
        now if now < from => Err(CertificateError::NotValidYet),
        now if now > to => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

fn explained(error: webpki::Error) -> Error {
    let error = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(error)
}

fn tls12_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(parse(certificate)?.public_key);
    let offered = algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let (_, kinds) = offered.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    // In TLS 1.2 a scheme leaves the curve open.
    match kinds.iter().any(|algorithm| signed(&key, *algorithm, message, dss.signature())) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

fn tls13_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(parse(certificate)?.public_key);
    verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
}

/// What is asked of the peer's certificate.
#[derive(Debug)]
pub(super) enum Demand {
    /// Nothing. The handshake's signature is checked all the same.
    Any,
    Authority(Authorities),
    /// And that it is the host's that we connect to.
    Host(Authorities),
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) demand: Demand,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Demand::Authority(authorities) | Demand::Host(authorities) = &self.demand {
            let names = authorities.check(&self.algorithms, (end_entity, intermediates), now, Peer::Server)?;
            let is_common_name_good = names == Names::All;
            if matches!(self.demand, Demand::Host(_))
                && !parse(end_entity)?.is_of_host(&server_name.to_str(), is_common_name_good)
            {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(&self.algorithms, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(&self.algorithms, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks clients that show a certificate.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) authorities: Authorities,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Each must show one.
    pub(super) is_mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities.names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.authorities.check(&self.algorithms, (end_entity, intermediates), now, Peer::Client)?;
        // Whose it is will be asked for.
        parse(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(&self.algorithms, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(&self.algorithms, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Who checks the peer of a resumed session again: its certificate was good when the session was
/// made, and need not be any more.
#[derive(Debug)]
pub(super) enum Recheck {
    Client(Arc<ClientVerifier>),
    Server(Arc<ServerVerifier>, ServerName<'static>),
}

impl Recheck {
    /// `chain` is what the peer has shown in the first place, if anything.
    pub(super) fn check(&self, chain: Option<&[CertificateDer<'_>]>, now: UnixTime) -> Result<(), Error> {
        let leaf = chain.and_then(|chain| chain.split_first());
        match (self, leaf) {
            (Recheck::Client(verifier), None) if !verifier.is_mandatory => Ok(()),
            (_, None) => Err(Error::NoCertificatesPresented),
            (Recheck::Client(verifier), Some((leaf, between))) => {
                verifier.verify_client_cert(leaf, between, now).map(|_| ())
            }
            (Recheck::Server(verifier, name), Some((leaf, between))) => {
                verifier.verify_server_cert(leaf, between, name, &[], now).map(|_| ())
            }
        }
    }
}

#[cfg(test)]
mod tests;
