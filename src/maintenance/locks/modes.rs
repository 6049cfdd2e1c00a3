//! Which lock modes stand in each other's way.

/// Weakest first.
const MODES: [&str; 8] = [
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// For each mode, those that it conflicts with: a bit per mode. <https://www.postgresql.org/docs/current/explicit-locking.html>
const CONFLICTS: [u8; 8] =
    [0b1000_0000, 0b1100_0000, 0b1111_0000, 0b1111_1000, 0b1110_1100, 0b1111_1100, 0b1111_1110, 0b1111_1111];

/// A mode that is not known is taken to conflict with everything.
pub(super) fn conflict(wanted: &str, held: &str) -> bool {
    let index = |mode: &str| MODES.iter().position(|known| *known == mode);
    match (index(wanted), index(held)) {
        (Some(wanted), Some(held)) => CONFLICTS[wanted] & (1 << held) != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_mutual() {
        for wanted in MODES {
            for held in MODES {
                assert_eq!(conflict(wanted, held), conflict(held, wanted), "{wanted} {held}");
            }
        }
        assert!(!conflict("ShareLock", "ShareLock") && conflict("ShareLock", "RowExclusiveLock"));
        assert!(!conflict("AccessShareLock", "ExclusiveLock") && conflict("AccessShareLock", "AccessExclusiveLock"));
        assert!(!conflict("RowExclusiveLock", "RowExclusiveLock"));
    }
}
