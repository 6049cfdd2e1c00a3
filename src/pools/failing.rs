//! A pool whose server cannot be reached or refuses logins.

use pgweir_proto::client_error::ClientError;
use pgweir_proto::sqlstate::SqlState;

use crate::server::connect::ConnectError;

/// The first retry comes after so long; each further one waits twice as long, up to
/// `server_login_retry`, so that a short outage is over soon and a long one costs little.
const FIRST_RETRY_US: u64 = 200_000;

/// What is known of the failure.
#[derive(Debug, Clone)]
pub(crate) struct Failing {
    /// What clients are told: the server's own text, or why it could not be reached.
    message: String,
    /// The server's; `None` if it gave none.
    sqlstate: Option<SqlState>,
    /// It was no matter of reaching the server: trying again will hardly help.
    is_refusal: bool,
    /// No login is tried before.
    retry_at_us: u64,
    /// How long the wait for it is.
    wait_us: u64,
}

impl Failing {
    /// The state after one more failure at `now_us`.
    pub(crate) fn after(
        before: Option<&Failing>,
        error: &ConnectError,
        now_us: u64,
        server_login_retry_us: u64,
    ) -> Failing {
        let (message, sqlstate) = error.to_client();
        let is_refusal = !error.is_about_host();
        let wait_us = match before {
            None => FIRST_RETRY_US,
            // Of logins that were begun together, only the first to fail counts.
            Some(before) if !before.may_retry(now_us) => before.wait_us,
            Some(before) => before.wait_us * 2,
        };
        let wait_us = wait_us.min(server_login_retry_us);
        // A tenth of jitter, from the clock: many pools need not retry at the same moment.
        let jitter_us = now_us % (wait_us / 10).max(1);
        Failing { message, sqlstate, is_refusal, retry_at_us: now_us + wait_us + jitter_us, wait_us }
    }

    /// The server could not be reached, or is not up: no login of any kind has a chance.
    pub(crate) fn is_about_host(&self) -> bool {
        !self.is_refusal
    }

    /// A login was ended by the server's operator, once: that says nothing yet of the next.
    pub(crate) fn is_passing(&self) -> bool {
        self.sqlstate == Some(SqlState::ADMIN_SHUTDOWN) && self.wait_us <= FIRST_RETRY_US
    }

    pub(crate) fn may_retry(&self, now_us: u64) -> bool {
        now_us >= self.retry_at_us
    }

    /// For clients that waited for this login: the server's own words, if it has refused. One
    /// that cannot be reached, or is starting up, will be back: clients wait for it.
    pub(crate) fn refusal(&self) -> Option<ClientError> {
        self.is_refusal.then(|| ClientError::Server { message: self.message.clone(), sqlstate: self.sqlstate })
    }

    /// For clients that come while it is not tried again.
    pub(crate) fn client_error(&self) -> ClientError {
        ClientError::ServerLoginFailing { cached_error: self.message.clone(), sqlstate: self.sqlstate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_up_to_the_setting() {
        let fail_at =
            |before: Option<&Failing>, now_us| Failing::after(before, &ConnectError::NoHost, now_us, 1_000_000);
        let first = fail_at(None, 1_000_000);
        assert_eq!(fail_at(Some(&first), 1_000_000).wait_us, FIRST_RETRY_US);
        assert!(!first.may_retry(1_000_000 + FIRST_RETRY_US - 1) && first.may_retry(1_000_000 + FIRST_RETRY_US * 2));
        let mut last = first;
        for second in 2..20 {
            last = fail_at(Some(&last), second * 10_000_000);
        }
        assert!(last.wait_us == 1_000_000 && last.may_retry(191_100_000));
    }
}
