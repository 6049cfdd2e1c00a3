//! What a login is bound to by SCRAM-SHA-256-PLUS: the server's certificate, hashed as it was
//! signed, but by SHA-256 where that was weaker.
//! <https://www.rfc-editor.org/rfc/rfc5929#section-4.1>

use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};

use super::x509::{Certificate, Der, OID, SEQUENCE};

/// `sha1`, and the other hashes by their last number.
const SHA1: &[u8] = &[0x2b, 14, 3, 2, 26];
const HASHES: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];

/// Of RSA by the last number: with a hash each, and PSS, whose parameters name one.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
const RSA_PSS: u8 = 10;
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
/// With the others, by the last number.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
/// The hash in the parameters of PSS.
const PSS_HASH: u8 = 0xa0;

/// The hash of a certificate. `None` where the signature's algorithm has none, as Ed25519, or one
/// that we do not have: PostgreSQL cannot bind to such a certificate either.
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::parse(der)?;
    let hash = signature_hash(certificate.algorithm)?;
    Some(digest::digest(hash, der).as_ref().to_vec())
}

/// The hash of an AlgorithmIdentifier's content.
fn signature_hash(algorithm: &[u8]) -> Option<&'static Algorithm> {
    let mut parts = Der(algorithm);
    let oid = parts.take(OID)?;
    if oid == ECDSA_SHA1 {
        return Some(&SHA256);
    }
    let (last, family) = oid.split_last()?;
    match (family, *last) {
        (RSA, RSA_PSS) => {
            let mut parameters = Der(parts.take(SEQUENCE)?);
            // It is SHA-1 unless they say otherwise.
            let Some(named) = parameters.take_if(PSS_HASH) else { return Some(&SHA256) };
            named_hash(Der(Der(named).take(SEQUENCE)?).take(OID)?)
        }
        // MD5 and SHA-1.
        (RSA, 4 | 5) => Some(&SHA256),
        (RSA, 11) | (ECDSA, 2) => Some(&SHA256),
        (RSA, 12) | (ECDSA, 3) => Some(&SHA384),
        (RSA, 13) | (ECDSA, 4) => Some(&SHA512),
        _ => None,
    }
}

fn named_hash(oid: &[u8]) -> Option<&'static Algorithm> {
    if oid == SHA1 {
        return Some(&SHA256);
    }
    match oid.strip_prefix(HASHES)? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// A certificate that openssl makes with these arguments, and its digest by `hash`, which
    /// openssl computes as well.
    fn made(args: &[&str], hash: &str) -> (Vec<u8>, Vec<u8>) {
        let req = ["req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null"];
        let made = Command::new("openssl").args(req).args(args).output().expect("run openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let der = CertificateDer::from_pem_slice(&made.stdout).unwrap().to_vec();
        let hash = match hash {
            "sha256" => &SHA256,
            "sha384" => &SHA384,
            "sha512" => &SHA512,
            _ => return (der, Vec::new()),
        };
        let digest = digest::digest(hash, &der).as_ref().to_vec();
        (der, digest)
    }

    #[test]
    fn the_hash_is_the_signatures_but_not_a_weak_one() {
        let rsa = ["-newkey", "rsa:1024"];
        let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let pss = ["-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss"];
        let cases: [(&[&str], &[&str], &str); 9] = [
            (&rsa, &["-sha256"], "sha256"),
            (&rsa, &["-sha384"], "sha384"),
            (&rsa, &["-sha512"], "sha512"),
            (&rsa, &["-sha1"], "sha256"),
            (&rsa, &["-md5"], "sha256"),
            (&ec, &["-sha384"], "sha384"),
            (&ec, &["-sha1"], "sha256"),
            (&pss, &["-sha512"], "sha512"),
            (&pss, &["-sha1"], "sha256"),
        ];
        for (key, more, hash) in cases {
            let (der, digest) = made(&[key, more].concat(), hash);
            assert_eq!(end_point(&der), Some(digest), "{key:?} {more:?}");
        }
    }

    #[test]
    fn some_certificates_have_none() {
        let none: [&[&str]; 2] = [&["-newkey", "ed25519"], &["-newkey", "rsa:2048", "-sha224"]];
        for args in none {
            assert_eq!(end_point(&made(args, "").0), None, "{args:?}");
        }
        assert_eq!(end_point(b"no certificate"), None);
    }
}
