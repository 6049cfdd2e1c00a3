//! Whether a peer's certificate is to be believed.
//!
//! Chains are webpki's. Two kinds that it refuses and OpenSSL takes are common with PostgreSQL,
//! whose documentation makes them: a certificate of version 1, and one that signs itself and
//! stands in the CA file.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity, anchor_from_trusted_cert};

use super::x509::Certificate;

/// The certificates of a CA file.
#[derive(Debug)]
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// What clients are told that we know.
    names: Vec<DistinguishedName>,
}

impl Authorities {
    /// `None`: one of them is no certificate.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Option<Authorities> {
        let (mut anchors, mut names) = (Vec::new(), Vec::new());
        for der in &certificates {
            let certificate = Certificate::parse(der)?;
            names.push(DistinguishedName::in_sequence(certificate.subject));
            // Any other stands for itself alone.
            if certificate.is_authority() {
                anchors.push(anchor_from_trusted_cert(der).ok()?.to_owned());
            }
        }
        Some(Authorities { certificates, anchors, names })
    }

    fn check(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        (leaf, between): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if self.certificates.contains(leaf) {
            return check_time(&parse(leaf)?, now);
        }
        match EndEntityCert::try_from(leaf) {
            Ok(leaf) => {
                let chain = leaf.verify_for_usage(algorithms.all, &self.anchors, between, now, usage, None, None);
                chain.map(|_| ()).map_err(explained)
            }
            Err(webpki::Error::UnsupportedCertVersion) => self.check_v1(algorithms, &parse(leaf)?, now),
            Err(e) => Err(explained(e)),
        }
    }

    /// A certificate without extensions can be of anybody but an authority; its issuer must be in
    /// the file itself.
    fn check_v1(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        leaf: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !leaf.is_v1 {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        check_time(leaf, now)?;
        let issuers = self.anchors.iter().filter(|anchor| anchor.subject.as_ref() == leaf.issuer);
        let mut error = CertificateError::UnknownIssuer;
        for issuer in issuers {
            let key = in_sequence(&issuer.subject_public_key_info);
            for algorithm in algorithms.all.iter().filter(|a| a.signature_alg_id().as_ref() == leaf.algorithm) {
                match signed(&key, *algorithm, leaf.tbs, leaf.signature) {
                    true => return Ok(()),
                    false => error = CertificateError::BadSignature,
                }
            }
        }
        Err(error.into())
    }
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

fn check_time(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let (from, to) = certificate.valid;
    match now.as_secs() {
        now if now < from => Err(CertificateError::NotValidYet.into()),
        now if now > to => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

fn explained(error: webpki::Error) -> Error {
    let error = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
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
            authorities.check(&self.algorithms, (end_entity, intermediates), now, KeyUsage::server_auth())?;
        }
        if matches!(self.demand, Demand::Host(_)) && !parse(end_entity)?.is_of_host(&server_name.to_str()) {
            return Err(CertificateError::NotValidForName.into());
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
        self.authorities.check(&self.algorithms, (end_entity, intermediates), now, KeyUsage::client_auth())?;
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
