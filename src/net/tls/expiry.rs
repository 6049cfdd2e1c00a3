//! The certificates of the files in force: whose they are, and how long they are good for.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::x509::Certificate;

/// Nobody is warned longer than this before a certificate expires.
const WARN_S_MAX: u64 = 14 * 24 * 3600;

/// Nor before this part of its time is left: some live for a day, and are replaced in time.
const WARN_PART: u64 = 5;

/// A certificate in one of the files.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The setting that names the file.
    pub(crate) setting: String,
    pub(crate) file: PathBuf,
    /// Its place in the file, from 1; 1 of a certificate file is our own.
    pub(crate) position: usize,
    /// As `/C=DE/O=Example/CN=db.example.org`.
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// In hexadecimal.
    pub(crate) serial: String,
    /// Seconds since 1970, both included.
    pub(crate) not_before_s: u64,
    pub(crate) not_after_s: u64,
}

impl Listed {
    /// All in a file, in their order.
    pub(super) fn all<'a>(setting: &str, file: &Path, certificates: impl IntoIterator<Item = &'a [u8]>) -> Vec<Listed> {
        let parsed = certificates.into_iter().enumerate().filter_map(|(at, der)| Some((at, Certificate::parse(der)?)));
        parsed
            .map(|(at, certificate)| Listed {
                setting: setting.to_owned(),
                file: file.to_owned(),
                position: at + 1,
                subject: certificate.subject_text(),
                issuer: certificate.issuer_text(),
                serial: certificate.serial.iter().map(|byte| format!("{byte:02X}")).collect(),
                not_before_s: certificate.valid.0,
                not_after_s: certificate.valid.1,
            })
            .collect()
    }

    /// What there is to say of it now, but for what to do about it.
    fn concern(&self, now_s: u64) -> Option<String> {
        let Listed { setting, file, subject, not_before_s, not_after_s, .. } = self;
        let margin_s = (not_after_s.saturating_sub(*not_before_s) / WARN_PART).min(WARN_S_MAX);
        let (word, at_s) = match now_s {
            now_s if now_s < *not_before_s => ("is not valid before", not_before_s),
            now_s if now_s > *not_after_s => ("has expired at", not_after_s),
            now_s if now_s + margin_s > *not_after_s => ("expires at", not_after_s),
            _ => return None,
        };
        let file = file.display();
        Some(format!("{setting} ({file}): the certificate of {subject} {word} {}", utc(*at_s)))
    }
}

/// What an operator should know, a line each: the same lines as long as nothing changes. Of the
/// authorities in a file it is enough that one is good: old ones stay in such files for a while.
pub(super) fn warnings(all: &[Listed], now_s: u64) -> Vec<String> {
    let is_of_authorities = |listed: &Listed| listed.setting.ends_with("_ca_file");
    let is_good = |setting: &str| all.iter().any(|l| l.setting == setting && l.concern(now_s).is_none());
    let worth = all.iter().filter(|listed| !is_of_authorities(listed) || !is_good(&listed.setting));
    let advice = |listed: &Listed| match is_of_authorities(listed) {
        true => "put a file with a valid one in its place",
        false => "put a new one and its key in their places",
    };
    worth
        .filter_map(|l| Some(format!("{}: {}; it is taken as soon as it is there", l.concern(now_s)?, advice(l))))
        .collect()
}

fn utc(at_s: u64) -> String {
    let at = i64::try_from(at_s).ok().and_then(|at_s| Timestamp::from_second(at_s).ok());
    at.unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(setting: &str, days: u64) -> Listed {
        Listed {
            setting: setting.to_owned(),
            file: "/f".into(),
            position: 1,
            subject: "/CN=x".to_owned(),
            issuer: String::new(),
            serial: String::new(),
            not_before_s: 1_000_000,
            not_after_s: 1_000_000 + days * 86_400,
        }
    }

    #[test]
    fn warnings_come_in_time() {
        let at = |days: u64, now_s| warnings(&[listed("client_tls_cert_file", days)], now_s);
        assert_eq!(
            at(365, 999_999),
            ["client_tls_cert_file (/f): the certificate of /CN=x is not valid before 1970-01-12 13:46:40 UTC: \
              put a new one and its key in their places; it is taken as soon as it is there"]
        );
        assert!(at(365, 1_000_000).is_empty() && at(365, 1_000_000 + 351 * 86_400).is_empty());
        assert!(at(365, 1_000_001 + 351 * 86_400)[0].contains("x expires at 1971-01-12 13:46:40 UTC: "));
        assert!(at(365, 1_000_001 + 365 * 86_400)[0].contains("x has expired at 1971-01-12"));
        // One of a day.
        assert!(at(1, 1_000_000 + 19 * 3600).is_empty());
        assert_eq!(at(1, 1_000_000 + 20 * 3600).len(), 1);
    }

    #[test]
    fn one_good_authority_is_enough() {
        let at = |days: [u64; 2]| warnings(&days.map(|days| listed("server_tls_ca_file", days)), 1_000_000 + 86_400);
        assert!(at([10, 10]).is_empty() && at([0, 10]).is_empty());
        let lines = at([0, 1]);
        assert!(lines[0].contains("has expired") && lines[1].contains("expires at"), "{lines:?}");
        assert!(lines[0].contains("put a file with a valid one in its place"));
    }
}
