//! Versions, ciphers and curves: OpenSSL's names and lists, and what there is of them.

use rustls::crypto::{SupportedKxGroup, ring};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite, SupportedProtocolVersion, version};

/// Why a setting cannot be followed: the end of a sentence that begins with its name.
pub(super) type Why = String;

/// OpenSSL's name of a cipher, and the words that stand for it among others.
struct Cipher {
    suite: CipherSuite,
    name: &'static str,
    aliases: &'static [&'static str],
}

/// The words that stand for all of our ciphers for TLS 1.2.
const OF_ALL: &[&str] = &["ALL", "DEFAULT", "HIGH", "ECDH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "TLSv1.2", "FIPS"];

/// PgBouncer's own words for OpenSSL's default.
const DEFAULTS: &[&str] = &["default", "secure", "fast", "normal", "all"];

/// For TLS 1.2, in the order in which they are preferred.
const TLS12: &[Cipher] = &[
    Cipher {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        aliases: &["ECDSA", "aECDSA", "AES", "AES256", "AESGCM", "SUITEB192"],
    },
    Cipher {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        aliases: &["aRSA", "AES", "AES256", "AESGCM"],
    },
    Cipher {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        aliases: &["ECDSA", "aECDSA", "AES", "AES128", "AESGCM", "SUITEB128"],
    },
    Cipher {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        aliases: &["aRSA", "AES", "AES128", "AESGCM"],
    },
    Cipher {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        aliases: &["ECDSA", "aECDSA", "CHACHA20"],
    },
    Cipher {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        aliases: &["aRSA", "CHACHA20"],
    },
];

/// For TLS 1.3, in the order in which they are preferred.
const TLS13: &[(CipherSuite, &str)] = &[
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
];

/// OpenSSL knows these for TLS 1.3, too.
const TLS13_ABSENT: &[&str] = &["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"];

const GROUPS: &[(NamedGroup, &[&str])] = &[
    (NamedGroup::X25519, &["X25519"]),
    (NamedGroup::secp256r1, &["prime256v1", "secp256r1", "P-256"]),
    (NamedGroup::secp384r1, &["secp384r1", "P-384"]),
];

pub(super) fn openssl_name(suite: CipherSuite) -> &'static str {
    let of_12 = TLS12.iter().find(|cipher| cipher.suite == suite).map(|cipher| cipher.name);
    let of_13 = || TLS13.iter().find(|(known, _)| *known == suite).map(|(_, name)| *name);
    of_12.or_else(of_13).unwrap_or("-")
}

pub(super) fn group_name(group: NamedGroup) -> &'static str {
    GROUPS.iter().find(|(known, _)| *known == group).map_or("-", |(_, names)| names[0])
}

/// Which versions a list asks for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    /// TLS 1.0 or 1.1, which nobody should use and we do not have.
    pub(super) old: bool,
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl Versions {
    pub(super) fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        [(self.tls13, &version::TLS13), (self.tls12, &version::TLS12)]
            .into_iter()
            .filter_map(|(is, v)| is.then_some(v))
            .collect()
    }
}

/// Reads `*_tls_protocols`: names between commas or colons, `!` in front takes one away. Nothing is the default.
pub(super) fn versions(list: &str) -> Result<Versions, Why> {
    const ALL: Versions = Versions { old: true, tls12: true, tls13: true };
    let list = if list.is_empty() { "secure" } else { list };
    let mut asked = Versions::default();
    for item in list.split([',', ':']).map(str::trim) {
        let (name, keep) = item.strip_prefix('!').map_or((item, true), |name| (name, false));
        if !keep && asked == Versions::default() {
            asked = ALL;
        }
        let named = match name.to_ascii_lowercase().as_str() {
            "all" | "legacy" | "tlsv1" => ALL,
            "default" | "secure" => Versions { old: false, ..ALL },
            "tlsv1.0" | "tlsv1.1" => Versions { old: true, ..Versions::default() },
            "tlsv1.2" => Versions { tls12: true, ..Versions::default() },
            "tlsv1.3" => Versions { tls13: true, ..Versions::default() },
            _ => return Err(format!("\"{name}\" is no TLS version; there are tlsv1.2, tlsv1.3, secure and all")),
        };
        let change = |now: &mut bool, is_named: bool| *now = if is_named { keep } else { *now };
        change(&mut asked.old, named.old);
        change(&mut asked.tls12, named.tls12);
        change(&mut asked.tls13, named.tls13);
    }
    Ok(asked)
}

/// Reads `*_tls_ciphers`, a list as OpenSSL has them: <https://docs.openssl.org/3.0/man1/openssl-ciphers/>.
/// Words for what we do not have (CBC, RSA key exchange, DHE, old hashes) take nothing and give nothing.
fn tls12_names(list: &str) -> Result<Vec<CipherSuite>, Why> {
    let mut taken: Vec<&Cipher> = Vec::new();
    let mut killed: Vec<&str> = Vec::new();
    for item in list.split([':', ',', ';', ' ']).filter(|item| !item.is_empty() && !item.starts_with('@')) {
        let (op, words) = match item.as_bytes()[0] {
            op @ (b'!' | b'-' | b'+') => (op, &item[1..]),
            _ => (0, item),
        };
        let is_meant = |cipher: &Cipher| words.split('+').all(|word| stands_for(word, cipher));
        match op {
            b'!' => {
                killed.extend(TLS12.iter().filter(|cipher| is_meant(cipher)).map(|cipher| cipher.name));
                taken.retain(|cipher| !is_meant(cipher));
            }
            b'-' => taken.retain(|cipher| !is_meant(cipher)),
            // To the end.
            b'+' => taken.sort_by_key(|cipher| is_meant(cipher)),
            _ => {
                let fresh = |cipher: &&Cipher| is_meant(cipher) && !killed.contains(&cipher.name);
                let known: Vec<&str> = taken.iter().map(|cipher| cipher.name).collect();
                taken.extend(TLS12.iter().filter(fresh).filter(|cipher| !known.contains(&cipher.name)));
            }
        }
    }
    if taken.is_empty() {
        let known: Vec<&str> = TLS12.iter().map(|cipher| cipher.name).collect();
        return Err(format!("no ciphers for '{list}'; there are {}", known.join(":")));
    }
    Ok(taken.into_iter().map(|cipher| cipher.suite).collect())
}

fn stands_for(word: &str, cipher: &Cipher) -> bool {
    word == cipher.name
        || cipher.aliases.contains(&word)
        || OF_ALL.contains(&word)
        || DEFAULTS.iter().any(|default| default.eq_ignore_ascii_case(word))
}

/// Reads `*_tls13_ciphers`: names between colons.
fn tls13_names(list: &str) -> Result<Vec<CipherSuite>, Why> {
    let mut suites = Vec::new();
    for name in list.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        match TLS13.iter().find(|(_, known)| *known == name) {
            Some((suite, _)) => suites.push(*suite),
            None if TLS13_ABSENT.contains(&name) => {}
            None => return Err(format!("failed to set the TLSv1.3 cipher suites: \"{name}\" is not known")),
        }
    }
    if suites.is_empty() {
        let known: Vec<&str> = TLS13.iter().map(|(_, name)| *name).collect();
        return Err(format!("failed to set the TLSv1.3 cipher suites '{list}': there are {}", known.join(":")));
    }
    Ok(suites)
}

fn known(suites: Vec<CipherSuite>) -> Vec<SupportedCipherSuite> {
    let known = |suite: CipherSuite| ring::ALL_CIPHER_SUITES.iter().find(|known| known.suite() == suite).copied();
    suites.into_iter().filter_map(known).collect()
}

/// The suites for TLS 1.2, in their order.
pub(super) fn tls12(list: &str) -> Result<Vec<SupportedCipherSuite>, Why> {
    tls12_names(if list.is_empty() { "default" } else { list }).map(known)
}

/// The suites for TLS 1.3, in their order. Without a list: all.
pub(super) fn tls13(list: Option<&str>) -> Result<Vec<SupportedCipherSuite>, Why> {
    let suites = match list.filter(|list| !list.is_empty()) {
        Some(list) => tls13_names(list)?,
        None => TLS13.iter().map(|(suite, _)| *suite).collect(),
    };
    Ok(known(suites))
}

/// Reads `client_tls_ecdhcurve`: `auto`, or curves by name between colons.
pub(super) fn groups(list: &str) -> Result<Vec<&'static dyn SupportedKxGroup>, Why> {
    let known = |group: NamedGroup| ring::ALL_KX_GROUPS.iter().find(|known| known.name() == group).copied();
    if list.is_empty() || list.eq_ignore_ascii_case("auto") {
        return Ok(GROUPS.iter().filter_map(|(group, _)| known(*group)).collect());
    }
    list.split([':', ','])
        .map(|name| {
            let is_named = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
            let group = GROUPS.iter().find(|(_, names)| is_named(names)).and_then(|(group, _)| known(*group));
            group
                .ok_or_else(|| format!("\"{name}\" is not available; there are auto, X25519, prime256v1 and secp384r1"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<&'static str> {
        tls12_names(list).unwrap().into_iter().map(openssl_name).collect()
    }

    #[test]
    fn cipher_lists_are_read_as_openssl_reads_them() {
        let all: Vec<_> = TLS12.iter().map(|cipher| cipher.name).collect();
        for list in [
            "default",
            "DEFAULT",
            "secure",
            "fast",
            "all",
            "ALL",
            "HIGH:MEDIUM:+3DES:!aNULL",
            "HIGH:!aNULL:!MD5@STRENGTH",
            "ECDHE+AESGCM:ECDHE+CHACHA20",
        ] {
            let mut found = names(list);
            found.sort_by_key(|name| all.iter().position(|known| known == name));
            assert_eq!(found, all, "{list}");
        }
        assert_eq!(names("ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES256-SHA"), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(names("ALL:!AES256:!ECDSA:!CHACHA20"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(names("!AES:AES:CHACHA20+aRSA"), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(names("aRSA:-AES:AES128+aRSA"), ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(names("aRSA:+AES256").last(), Some(&"ECDHE-RSA-AES256-GCM-SHA384"));
        for list in ["DHE-RSA-AES256-SHA", "unknown", "RC4:3DES", "ALL:!ALL", "kRSA"] {
            assert!(tls12_names(list).unwrap_err().starts_with("no ciphers for"), "{list}");
        }
    }

    #[test]
    fn suites_of_both_versions() {
        let names = |suites: Vec<SupportedCipherSuite>| {
            suites.iter().map(|suite| openssl_name(suite.suite())).collect::<Vec<_>>()
        };
        assert_eq!((tls12("").unwrap().len(), tls12("default").unwrap().len()), (6, 6));
        assert_eq!((tls13(None).unwrap().len(), tls13(Some("")).unwrap().len()), (3, 3));
        assert_eq!(names(tls12("CHACHA20+aRSA").unwrap()), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        let list = "TLS_AES_128_CCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";
        assert_eq!(names(tls13(Some(list)).unwrap()), ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384"]);
        for bad in ["unknown", "TLS_AES_128_CCM_SHA256", "TLS_AES_256_GCM_SHA384:x"] {
            assert!(tls13(Some(bad)).unwrap_err().starts_with("failed to set the TLSv1.3 cipher suites"));
        }
    }

    #[test]
    fn version_lists() {
        let of = |list| versions(list).unwrap();
        let (both, none) = (Versions { old: false, tls12: true, tls13: true }, Versions::default());
        assert_eq!(of("secure"), both);
        assert_eq!(of("all"), Versions { old: true, ..both });
        assert_eq!(of(" tlsv1.2 : TLSv1.3"), both);
        assert_eq!(of("tlsv1.3"), Versions { tls13: true, ..none });
        assert_eq!(of("!tlsv1.0:!tlsv1.3"), Versions { tls12: true, ..none });
        assert_eq!(of("tlsv1.0,tlsv1.1").supported().len(), 0);
        assert_eq!(of(""), of("secure"));
        assert!(versions("sslv3").is_err() && versions("tlsv1.3,").is_err());
    }

    #[test]
    fn curves() {
        let of = |list: &str| {
            groups(list).map(|groups| groups.iter().map(|group| group_name(group.name())).collect::<Vec<_>>())
        };
        assert_eq!(of("auto").unwrap(), ["X25519", "prime256v1", "secp384r1"]);
        assert_eq!(of("secp384r1:P-256").unwrap(), ["secp384r1", "prime256v1"]);
        for bad in ["none", "secp521r1", "x"] {
            assert!(of(bad).unwrap_err().contains("not available"));
        }
    }
}
